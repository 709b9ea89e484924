"""The engine that all dataset modules share, tried on a dataset of its own: a table of ECGs and a folder of lines."""

import gzip
import os
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ecgecho import catalog, keys, pairs
from ecgecho.catalog import IndexOptions
from ecgecho.datasets import _tables
from ecgecho.datasets._indexing import Indexed, Reading, Spec, Tables
from ecgecho.types import ItemError, UserError

ROWS = [
    "id,person,when,path,ef",
    "a,1,2020-01-01 10:00:00,lines/a.txt,55",
    "b,1,2020-01-11 10:00:00,lines/b.txt,130",
    "c,2,2020-02-01 10:00:00,lines/c.txt,40%",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    factor: int = 1


def look(path):
    with open(path) as file:
        word = file.read()
    if word == "bad":
        raise ItemError("undecodable", "no")
    return {"word": word}


def read(reading: Reading) -> Tables:
    rows = reading.once("rows", reading.table("rows", ("id", "person", "path", "when"), ("ef", "fold")), "id")
    paths = reading.below("rows", rows["path"])
    seen = reading.scan("lines", paths.to_pylist(), look)
    time = reading.times("rows", "when", rows["when"])
    ef = reading.within("rows", "ef", reading.numbers("rows", "ef", rows["ef"]), 0, 100)
    official = pa.table({"subject_id": rows["person"], "split": rows["fold"]}) if rows["fold"].null_count == 0 else None
    ecgs = pa.table({"ecg_id": rows["id"], "subject_id": rows["person"], "path": paths, "time": time})
    words = [seen.get(path, {}).get("word", "") for path in paths.to_pylist()]
    texts = pa.table(
        {"text_id": rows["id"], "subject_id": rows["person"], "ecg_id": rows["id"], "time": time, "text": words}
    ).append_column("source", pa.array(["line"] * len(words)))
    return Tables(
        ecgs=ecgs,
        texts=texts if reading.config.factor == 1 else lambda known: [texts.filter(pc.is_in(texts["subject_id"], known))],
        labels=[
            _tables.label_rows("lvef", ef, subject_id=rows["person"], ecg_id=rows["id"], unit="%", source="rows", definition="ef")
        ],
        people=pa.table({"subject_id": ["1"], "sex": ["female"], "birth_year": pa.array([1950], pa.int32())}),
        official=official,
    )


SPEC = Spec(name="mini", version=1, parts={"rows": ("rows.csv",), "lines": ("lines/",)}, needs=("rows",), read=read)


def write_mini(root, rows=ROWS):
    (root / "lines").mkdir(parents=True)
    (root / "rows.csv").write_text("\n".join(rows) + "\n")
    for name, word in {"a": "one", "b": "bad", "c": "three"}.items():
        (root / "lines" / f"{name}.txt").write_text(word)
    return root


def index(root, out, config=Config(), **options):
    return Indexed(spec=SPEC, config=config).index(root, out, options=IndexOptions(workers=0, **options))


@pytest.fixture
def root(tmp_path):
    return write_mini(tmp_path / "root")


def defects(made):
    return {(row["item"], row["code"]): row["count"] for row in made.defects.to_pylist()}


def test_what_a_module_reads_becomes_a_catalog(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert made.ecgs["path"].to_pylist() == ["lines/a.txt", "lines/b.txt", "lines/c.txt"]
    assert {row["ecg_id"]: row["value"] for row in made.labels.to_pylist()} == {"a": 55.0, "c": 40.0}
    assert made.subjects.select(["subject_id", "sex"]).to_pylist() == [
        {"subject_id": "1", "sex": "female"},
        {"subject_id": "2", "sex": None},
    ]
    assert made.subjects["split"].to_pylist() == pairs.splits_of("mini", ["1", "2"])
    found = defects(made)
    assert found["rows", "out_of_range"] == found["lines", "undecodable"] == found["subjects", "subject_unknown"] == 1


def test_words_are_the_same_as_strings_and_trimmed_as_they_are(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\nx ,1\n,2\n  ,3\nx,4\n y,\n")
    plain = _tables.read_table(path, ("a", "b"), ("c",))
    words = _tables.read_table(path, ("a", "b"), ("c",), words=("a", "c"))
    assert plain["a"].to_pylist() == words["a"].to_pylist() == ["x", None, None, "x", "y"]
    assert words["a"].chunk(0).dictionary.to_pylist() == ["x", "y"]
    assert words["c"].to_pylist() == [None] * 5
    path.write_text("a,b\n")
    assert _tables.read_table(path, ("a",), words=("a",), own=True)["a"].to_pylist() == []


@pytest.mark.parametrize("text", ["a,b\n", "a,b", "a,b\r\n\r\n"])
def test_a_published_table_of_a_header_alone_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    for read in (_tables.read_table, lambda *of: list(_tables.stream_table(*of))):
        with pytest.raises(UserError, match=r"t.csv has a header and no rows; fetch it again"):
            read(tmp_path / "t.csv", ("a",))


def test_a_table_saved_with_another_separator_is_told_and_gz_is_read_in_any_case(tmp_path):
    path = tmp_path / "t.csv"
    for separator, word in ((";", "';'"), ("\t", "tabs")):
        path.write_text(f"a{separator}b\n1{separator}2\n")
        with pytest.raises(UserError, match=rf"t.csv is separated by {word}, not by ','. Fetch it again"):
            _tables.read_table(path, ("a",))
    (tmp_path / "t.CSV.GZ").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert _tables.read_table(tmp_path / "t.CSV.GZ", ("b",))["b"].to_pylist() == ["2"]


def test_more_texts_follow_those_that_belong_to_ecgs(root, tmp_path):
    def reads_more(reading):
        tables = read(reading)
        more = tables.texts.slice(0, 1).set_column(0, "text_id", pa.array(["more"]))
        return replace(tables, more_texts=lambda known: [more] if "1" in known.to_pylist() else [])

    spec = Spec(name="mini", version=1, parts=SPEC.parts, needs=("rows",), read=reads_more)
    made = Indexed(spec=spec, config=Config()).index(root, tmp_path / "cat", options=IndexOptions(workers=0))
    assert made.texts["text_id"].to_pylist() == ["a", "b", "c", "more"]
    assert made.pairs["text_id"].to_pylist() == ["a", "b", "c"]


def test_texts_that_stream_are_those_given_at_once(root, tmp_path):
    one, two = index(root, tmp_path / "one"), index(root, tmp_path / "two", Config(factor=2))
    assert one.texts.equals(two.texts)


def test_a_second_index_reads_nothing_and_a_changed_line_alone_is_read_again(root, tmp_path, monkeypatch):
    index(root, tmp_path / "cat")
    assert index(root, tmp_path / "cat").unchanged
    (root / "rows.csv").write_text("\n".join(ROWS[:3]) + "\n")
    (root / "lines" / "a.txt").write_text("other")
    looked = []
    monkeypatch.setattr("test_indexing.look", lambda path: looked.append(path) or {"word": "seen"})
    made = index(root, tmp_path / "cat")
    assert [path.rpartition("/")[2] for path in looked] == ["a.txt"]
    assert defects(made)["lines", "undecodable"] == 1  # remembered


def test_a_line_that_a_stop_cut_off_costs_its_own_file_alone(root, tmp_path, monkeypatch):
    half = tmp_path / ".cat.scan-lines-1.jsonl"
    half.write_text('{"key": "lines/a.txt", "si')
    index(root, tmp_path / "whole")
    kept = (tmp_path / "whole" / "scan-lines-1.jsonl").read_text().splitlines()

    def stop(what, done, total):
        if (what, done) == ("lines", total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Indexed(spec=SPEC, config=Config()).index(root, tmp_path / "cat", stop, IndexOptions(workers=0))
    assert set(kept) <= set(half.read_text().splitlines())


def test_a_missing_file_is_told_and_looked_for_again(root, tmp_path):
    (root / "lines" / "a.txt").unlink()
    assert defects(index(root, tmp_path / "cat"))["lines", "missing_file"] == 1
    (root / "lines" / "a.txt").write_text("one")
    assert ("lines", "missing_file") not in defects(index(root, tmp_path / "cat"))


def test_an_official_split_wins_and_two_of_one_subject_are_refused_without_its_id(root, tmp_path):
    (root / "rows.csv").write_text("\n".join(f"{row},{end}" for row, end in zip(ROWS, ("fold", "test", "test", "val"))))
    assert index(root, tmp_path / "cat").subjects["split"].to_pylist() == ["test", "val"]
    (root / "rows.csv").write_text("\n".join(f"{row},{end}" for row, end in zip(ROWS, ("fold", "test", "train", "val"))))
    with pytest.raises(UserError, match=r"subject #[0-9a-f]{8} is in 'te?\w+' and in 't\w+'; that leaks"):
        index(root, tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("person", "persn"), "rows.csv has no column 'person'. Did you mean 'persn'"),
        (("b,1,", "a,2,"), "id a stands twice with different 'person'"),
        (
            ("b,1,2020-01-11 10:00:00,lines/b.txt,130", "a,1,2020-01-01 10:00:00,lines/a.txt,"),
            "id a stands twice with different 'ef'",
        ),
        (("lines/a.txt", "../a.txt"), "leaves the folder of the table"),
        (("b,1,", ",1,"), "column 'id' is empty in data row 2"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(root, tmp_path, change, words):
    (root / "rows.csv").write_text("\n".join(ROWS).replace(*change))
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        index(root, tmp_path / "cat")
    assert not (tmp_path / "cat").exists()


def test_two_copies_of_a_part_are_refused_by_name(root, tmp_path):
    (root / "v2").mkdir()
    (root / "v2" / "rows.csv.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"two candidates for the part 'rows': .*rows.csv and .*v2/rows.csv.gz"):
        index(root, tmp_path / "cat")


def test_a_folder_that_may_not_be_read_is_counted(root, tmp_path, monkeypatch):
    (root / "lines" / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    reading = Indexed(spec=SPEC, config=Config())._reading(root, tmp_path / "cat", {"lines": root / "lines"}, IndexOptions())
    assert reading.walk("lines", (".txt",)) == ["lines/a.txt", "lines/b.txt", "lines/c.txt"]
    assert [row[1:] for row in reading.defects] == [("unreadable_folder", "what lies in it is left out", 1)]


def test_a_root_of_another_dataset_is_refused_and_that_one_named(tmp_path):
    from mimic_tree import write_tree

    with pytest.raises(UserError, match=r"is not mini: there is no rows.csv in it"):
        index(write_tree(tmp_path / "root"), tmp_path / "cat")


# --- pseudonyms ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path):
    keys.make(tmp_path / "lab.key")
    return str(tmp_path / "lab.key")


def test_pseudonyms_leave_the_shape_of_a_catalog_and_none_of_its_ids(root, tmp_path, key):
    plain, private = index(root, tmp_path / "plain"), index(root, tmp_path / "private", pseudonymise=key)
    assert private.family == f"private:{private.key_id}"
    for name in ("subjects", "ecgs", "texts", "labels", "pairs"):
        one, two = plain.table(name), private.table(name)
        assert one.num_rows == two.num_rows
        for column in ("subject_id", "ecg_id", "text_id"):
            if column in one.column_names:
                assert not set(one[column].to_pylist()) & set(two[column].to_pylist()) - {None}
                pattern = [value and one[column].to_pylist().index(value) for value in one[column].to_pylist()]
                assert pattern == [value and two[column].to_pylist().index(value) for value in two[column].to_pylist()]
    assert private.subjects["split"].to_pylist() == plain.subjects["split"].to_pylist()
    assert private.pairs["gap_days"].to_pylist() == plain.pairs["gap_days"].to_pylist()


def test_dates_move_by_whole_weeks_alike_for_a_subject_and_not_alike_for_all(root, tmp_path, key):
    plain, private = index(root, tmp_path / "plain"), index(root, tmp_path / "private", pseudonymise=key)
    moved = [b - a for a, b in zip(plain.ecgs["time"].to_pylist(), private.ecgs["time"].to_pylist(), strict=True)]
    assert moved[0] == moved[1] != moved[2]
    assert all(gap.days % 7 == 0 and gap.days != 0 and gap.seconds == 0 for gap in moved)
    born = private.subjects["birth_year"].to_pylist()[0]
    assert abs((born - 1950) * 365.25 - moved[0].days) <= 183
    assert private.texts["time"].to_pylist()[0] == private.ecgs["time"].to_pylist()[0] != datetime(2020, 1, 1, 10)


def test_one_key_gives_the_same_ids_again_and_another_others(root, tmp_path, key):
    keys.make(tmp_path / "other.key")
    one, two = index(root, tmp_path / "one", pseudonymise=key), index(root, tmp_path / "two", pseudonymise=key)
    three = index(root, tmp_path / "three", pseudonymise=str(tmp_path / "other.key"))
    assert one.ecgs.equals(two.ecgs)
    assert not set(one.ecgs["ecg_id"].to_pylist()) & set(three.ecgs["ecg_id"].to_pylist())
    assert one.path.joinpath("catalog.json").read_text().find(str(tmp_path)) == -1


def test_pseudonyms_are_not_replaced_because_a_flag_was_forgotten(root, tmp_path, key):
    keys.make(tmp_path / "other.key")
    made = index(root, tmp_path / "cat", pseudonymise=key)
    for other in ({}, {"pseudonymise": str(tmp_path / "other.key")}):
        with pytest.raises(UserError, match=f"holds pseudonyms of the key {made.key_id}.*another --out"):
            index(root, tmp_path / "cat", **other)
    assert index(root, tmp_path / "cat", pseudonymise=key).unchanged


def test_files_that_cannot_be_read_are_named(root, tmp_path):
    made = index(root, tmp_path / "cat")
    assert made.meta["unread"] == {"undecodable": ["lines/b.txt"]}
    assert "undecodable, for example: lines/b.txt" in catalog.render(catalog.describe(made))


@pytest.mark.parametrize("window", [(5.0, 1.0), (-0.2, 0.2), (-1e9, 1.0)])
def test_a_first_look_refuses_what_the_index_would(root, tmp_path, window):
    for call in (Indexed(spec=SPEC, config=Config()).inspect, Indexed(spec=SPEC, config=Config()).index):
        with pytest.raises(UserError, match="the window is"):
            call(root, tmp_path / "cat", options=IndexOptions(window_days=window))


def test_the_same_people_under_other_ids_are_not_used_together(root, tmp_path, key):
    keys.make(tmp_path / "other.key")
    plain, private = index(root, tmp_path / "plain"), index(root, tmp_path / "private", pseudonymise=key)
    for one, two in ((plain, private), (private, index(root, tmp_path / "other", pseudonymise=str(tmp_path / "other.key")))):
        with pytest.raises(UserError, match="come from the people of mini, under ids that cannot be compared"):
            pairs.check_together([one, two])
    assert pairs.check_together([private, index(root, tmp_path / "same", pseudonymise=key)]) == []


def test_what_an_index_remembers_of_files_is_for_its_owner_and_not_kept_beside_pseudonyms(root, tmp_path, key):
    assert list(index(root, tmp_path / "cat").path.glob("scan-*"))
    made = index(root, tmp_path / "private", pseudonymise=key)
    assert not list(made.path.glob("scan-*")) + list(tmp_path.glob(".private*"))

    def stop(what, done, total):
        if what == "lines":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Indexed(spec=SPEC, config=Config()).index(root, tmp_path / "half", stop, IndexOptions(workers=0, pseudonymise=key))
    (left,) = tmp_path.glob(".half.scan-*")
    assert left.stat().st_mode & 0o077 == 0


def test_a_catalog_with_pseudonyms_is_not_taken_for_one_without(root, tmp_path, key):
    index(root, tmp_path / "cat")
    made = index(root, tmp_path / "cat", pseudonymise=key)
    assert not made.unchanged
    assert made.key_id
    assert index(root, tmp_path / "cat", pseudonymise=key).unchanged


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["a/g1/E01.hea", "a/g2/E02.hea", "b/A01.hea"], "a"),
        (["a/g1/E01.hea", "b/e02.HEA"], "."),
        (["a/g1/E01.hea"], "a/g1"),
        (["a/Records/x.txt", "a/more/Records/x.txt"], "a"),
        (["a/Records/x.txt"], "a/Records"),
    ],
)
def test_a_part_that_lies_in_several_folders_is_the_folder_that_holds_them_all(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    parts = _tables.find_parts(tmp_path, {"headers": ("**/E[0-9][0-9].hea", "**/records/")})
    assert parts["headers"].relative_to(tmp_path).as_posix() == found
