"""Laws of putting findings of notes into a catalog."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from stub_server import Reply, row, says, stub

from ecgecho import catalog as catalogs
from ecgecho import extract_notes, notes_rules
from ecgecho.catalog import SCHEMAS, Catalog
from ecgecho.extract_notes import Extracted, extract, label_rows, leaving, server_at
from ecgecho.notes import Finding
from ecgecho.notes_rules import MAX_FINDINGS, MAX_NOTE, VERSION, findings
from ecgecho.notes_server import PROMPT_VERSION, Server
from ecgecho.types import UserError

T0 = datetime(2150, 1, 1)
NOTES = [
    ("n1", "a", "Pertinent Results:\nTTE: EF 30-35%, moderate MR, LVH, no AS."),
    ("n2", "a", "Pertinent Results:\nTTE: EF>55%."),
    ("n3", "b", "No heart was looked at."),
    ("n4", "b", "Past Medical History:\nEF 20%\nPertinent Results:\nEcho: LVEF 45%."),
]


def rows(name: str, *items: tuple) -> pa.Table:
    schema = SCHEMAS[name]
    return pa.Table.from_pylist([dict(zip(schema.names, item, strict=False)) for item in items], schema)


def made(path: Path, notes: list[tuple[str, str, str]] = NOTES, **more: pa.Table) -> Catalog:
    texts = [("t1", "a", "e1", None, T0, "machine_report", "Sinus rhythm, EF 99% LVEF 40%")]
    texts += [(name, who, None, None, T0 + timedelta(days=day), "discharge", text) for day, (name, who, text) in enumerate(notes)]
    tables = {
        "subjects": rows("subjects", ("a", "train", "female", 2080), ("b", "test")),
        "ecgs": rows("ecgs", ("e1", "a", "ecg/e1", T0), ("e2", "b", "ecg/e2", None)),
        "texts": rows("texts", *texts),
        "labels": rows("labels", ("a", None, None, T0, "lvef", 55.0, "%", "tte", "lvef")),
        "pairs": rows("pairs", ("e1", "a", None, "t1", None, "train", 1.0)),
        "defects": rows("defects", ("notes", "time_missing", "x", 2)),
    }
    return catalogs.write(
        path,
        root=path.parent / "data",
        dataset="made",
        family="made",
        tables={**tables, **more},
        meta={"inputs": {"a": 1}},
        keep={"headers.jsonl": b"{}\n"},
    )


def values(catalog: Catalog) -> list[tuple]:
    return [(r["subject_id"], r["name"], r["value"], r["unit"]) for r in catalog.labels.to_pylist() if r["name"] != "lvef"]


WANTED = [
    ("a", "note_as", 0.0, None),
    ("a", "note_as_grade", 0.0, None),
    ("a", "note_lvef", 32.5, "%"),
    ("a", "note_lvh", 1.0, None),
    ("a", "note_mr", 1.0, None),
    ("a", "note_mr_grade", 2.0, None),
    ("a", "note_lvef", 56.0, "%"),
    ("b", "note_lvef", 45.0, "%"),
]


def test_findings_of_discharge_notes_become_labels_with_their_time_and_their_way(tmp_path: Path) -> None:
    done = extract(made(tmp_path / "cat"))
    assert values(done.catalog) == WANTED
    assert done.counts() == {"notes": 4, "notes_with_findings": 3, "labels": 8}
    assert done.exit_status == 0
    assert done.names["note_lvef"] == 3
    labels = {(r["value"], r["time"], r["source"], r["definition"]) for r in done.catalog.labels_named("note_lvef").to_pylist()}
    source = f"discharge_note (rules v{VERSION})"
    assert labels == {
        (32.5, T0, source, f"rules v{VERSION}: middle of a range"),
        (56.0, T0 + timedelta(days=1), source, f"rules v{VERSION}: threshold > 55"),
        (45.0, T0 + timedelta(days=3), source, f"rules v{VERSION}: stated"),
    }


def test_everything_else_of_the_catalog_stays_as_it_was(tmp_path: Path) -> None:
    before = made(tmp_path / "cat")
    old = {name: before.table(name) for name in SCHEMAS}
    after = extract(before).catalog
    for name, table in old.items():
        if name == "labels":
            table = pa.concat_tables([table, after.labels.slice(table.num_rows)])  # noqa: PLW2901
        assert after.table(name).equals(table), name
    assert (after.dataset, after.family, after.root, after.key_id) == (before.dataset, before.family, before.root, before.key_id)
    assert after.meta["inputs"] == {"a": 1}
    assert catalogs.unchanged(after.path, {"a": 1}) is not None
    assert (after.path / "headers.jsonl").read_bytes() == b"{}\n"


def test_running_again_replaces_its_own_labels_and_no_others(tmp_path: Path) -> None:
    first = extract(made(tmp_path / "cat"))
    second = extract(first.catalog)
    assert second.catalog.labels.equals(first.catalog.labels)
    other = rows("labels", ("b", None, None, T0, "note_lvef", 1.0, "%", "someone else", "x"))
    kept = extract_notes.with_labels(second.catalog, other, drop="nothing")
    third = extract(kept)
    assert third.catalog.labels.num_rows == second.catalog.labels.num_rows + 1
    assert "someone else" in third.catalog.labels["source"].to_pylist()


def test_no_word_of_a_note_is_in_the_labels_or_the_meta(tmp_path: Path) -> None:
    marked = [("n1", "a", "ZEBRA Pertinent Results:\nZEBRA TTE EF 30% ZEBRA, mild MR ZEBRA")]
    done = extract(made(tmp_path / "cat", marked))
    assert done.labels == 3
    for file in done.catalog.path.iterdir():
        if file.name != "texts.parquet":
            assert b"ZEBRA" not in file.read_bytes()
    whole = "".join(str(r) for r in done.catalog.labels.to_pylist())
    assert "ZEBRA" not in whole


def test_another_place_leaves_the_catalog_alone_and_points_at_the_same_files(tmp_path: Path) -> None:
    before = made(tmp_path / "cat")
    done = extract(before, out=tmp_path / "deep" / "other")
    assert catalogs.read(tmp_path / "cat").labels.num_rows == 1
    assert done.catalog.root == before.root
    assert values(done.catalog) == WANTED


def test_a_first_few_notes_never_take_the_place_of_many(tmp_path: Path) -> None:
    few = extract(made(tmp_path / "cat"), limit=1)
    assert (few.notes, few.labels) == (1, 6)
    all_of_them = extract(few.catalog)
    with pytest.raises(UserError, match="--out"):
        extract(all_of_them.catalog, limit=2)
    assert extract(all_of_them.catalog, limit=2, out=tmp_path / "two").notes == 2


def test_blocks_come_in_the_order_of_the_catalog_whichever_worker_is_done_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_notes, "INLINE", 0)
    monkeypatch.setattr(extract_notes, "BLOCK", 16)
    notes = [(f"n{i}", "a", ("padding\n" * (0 if i % 32 else 2000)) + f"TTE: EF {20 + i % 50}%") for i in range(100)]
    seen: list[tuple] = []
    done = extract(made(tmp_path / "cat", notes), workers=2, progress=lambda *told: seen.append(told))
    assert done.catalog.labels_named("note_lvef")["value"].to_pylist() == [20.0 + i % 50 for i in range(100)]
    assert [told[1] for told in seen] == sorted(told[1] for told in seen)
    assert seen[-1] == ("notes", 100, 100)


def test_a_bad_note_costs_its_own_labels_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str) -> list[Finding]:
        if "BREAKS" in text:
            raise ValueError(text)
        return findings(text)

    monkeypatch.setattr(notes_rules, "findings", breaks)
    bad = ["BREAKS", "TTE: EF 35%. " * (MAX_FINDINGS + 1), "a" * (MAX_NOTE + 1)]
    done = extract(made(tmp_path / "cat", [*NOTES, *((f"m{i}", "b", text) for i, text in enumerate(bad))]))
    assert values(done.catalog) == WANTED
    assert done.failed == {"unexpected_error": 1, "too_many_findings": 1, "too_long": 1}
    assert (done.notes, done.exit_status) == (7, 3)


def test_a_note_that_takes_too_long_costs_its_own_labels_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"INLINE_CHARACTERS": 0, "BLOCK_S": 1.0, "NOTE_S": 1.0}.items():
        monkeypatch.setattr(extract_notes, name, value)
    slow = ("n5", "b", "EF " * (MAX_NOTE // 3))
    done = extract(made(tmp_path / "cat", [*NOTES[:2], slow, *NOTES[2:]]))
    assert (values(done.catalog), done.failed) == (WANTED, {"timeout": 1})


def test_a_catalog_without_notes_says_which_texts_it_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="machine_report"):
        extract(made(tmp_path / "cat", []))


def test_columns_of_a_hospitals_own_are_not_lost(tmp_path: Path) -> None:
    path = made(tmp_path / "cat").path / "subjects.parquet"
    pq.write_table(pq.read_table(path).append_column("ward", pa.array(["x", "y"])), path)
    before = catalogs.read(tmp_path / "cat")
    with pytest.raises(UserError, match="ward"):
        extract(before)
    assert extract(before, out=tmp_path / "other").labels == 8
    assert "ward" in pq.read_schema(path).names


def test_a_label_exists_only_where_the_note_knows() -> None:
    def names(text: str) -> set[str]:
        return {name for name, _, _, _ in label_rows(findings(text), "x")}

    assert names("no significant MR") == {"note_mr_grade"}  # trace or mild may be there or not
    assert names("mild-moderate MR") == {"note_mr", "note_mr_grade"}
    assert names("MR on echo") == {"note_mr"}
    assert names("inferior hypokinesis") == {"note_wall_motion"}
    assert names("possible severe AS") == set()
    assert names("") == set()


# ---- By a server


def reading(text: str, number: int) -> Reply:
    """A model that sees the first number before a percent sign."""
    if "EF " not in text:
        return says()
    quote = text[text.index("EF ") :].split("%", maxsplit=1)[0] + "%"
    digits = quote.replace(">", " ").replace("-", " ").strip("%").split()
    return says(row("lvef", quote, "exact", float(digits[1]), float(digits[1])))


def asked(catalog: Catalog, url: str, **more: object) -> Extracted:
    patience = {"attempts": 1, "pause_s": 0.0, "timeout_s": 5.0}
    return extract(catalog, server=Server(url=url, model="tiny", **patience), **more)  # type: ignore[arg-type]


def test_a_server_gives_labels_under_its_models_name_and_is_asked_once(tmp_path: Path) -> None:
    before = extract(made(tmp_path / "cat")).catalog
    with stub(reading) as told:
        first = asked(before, told.url)
        assert len(told.asked) == first.asked == 4
        second = asked(first.catalog, told.url)
        assert len(told.asked) == 4
    assert (second.from_cache, second.asked) == (4, 0)
    assert second.catalog.labels.equals(first.catalog.labels)
    by = f"model tiny, prompt v{PROMPT_VERSION}"
    sources = set(first.catalog.labels["source"].to_pylist())
    assert sources == {"tte", f"discharge_note ({by})"}, "the labels of the rules gave way"
    folder = extract_notes.answers_folder(first.catalog)
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0


def test_a_model_that_is_called_by_its_path_is_told_by_its_name(tmp_path: Path) -> None:
    with stub(reading) as told:
        done = extract(made(tmp_path / "cat"), server=Server(url=told.url, model="/srv/secret/tiny-7b", timeout_s=5.0))
    assert done.by == f"model tiny-7b, prompt v{PROMPT_VERSION}"
    assert all("secret" not in str(row) for row in done.catalog.labels.to_pylist())
    assert told.asked[0]["model"] == "/srv/secret/tiny-7b"


def test_notes_without_an_answer_are_counted_and_asked_for_again(tmp_path: Path) -> None:
    broken = True

    def answer(text: str, number: int) -> Reply:
        return (200, "nonsense", {}) if broken and "LVEF 45" in text else reading(text, number)

    with stub(answer) as told:
        first = asked(made(tmp_path / "cat"), told.url)
        assert first.failed == {"answer_unreadable": 1}
        assert first.exit_status == 3
        assert first.catalog.meta["extracted_notes"]["discharge"]["failed"] == {"answer_unreadable": 1}
        broken = False
        second = asked(first.catalog, told.url)
    assert (second.asked, second.from_cache, second.failed) == (1, 3, {})


def test_where_nothing_listens_nothing_is_begun(tmp_path: Path) -> None:
    before = made(tmp_path / "cat", [("n", "a", "TTE: EF 20%")])
    with stub(reading) as told:
        url = told.url
    with pytest.raises(UserError, match="nothing answers at"):
        asked(before, url, parallel=1)
    assert catalogs.read(before.path).labels.equals(before.labels)


def test_where_no_note_gets_an_answer_the_labels_stay(tmp_path: Path) -> None:
    before = made(tmp_path / "cat", [("n", "a", "TTE: EF 20%"), ("m", "b", "TTE: EF 30%")])
    by_rules = extract(before, workers=0)
    with stub(lambda text, number: (200, "no JSON", {})) as told, pytest.raises(UserError, match="no note got a usable answer"):
        asked(before, told.url, parallel=1)
    assert catalogs.read(before.path).labels.equals(by_rules.catalog.labels)


def test_a_server_that_is_gone_ends_the_job_and_leaves_the_catalog_alone(tmp_path: Path) -> None:
    notes = [(f"n{i}", "a", f"TTE: EF {20 + i}%") for i in range(60)]
    before = made(tmp_path / "cat", notes)
    up = 10

    def answer(text: str, number: int) -> Reply:
        return reading(text, number) if number < up else (500, "", {})

    with stub(answer) as told:
        with pytest.raises(UserError, match="no answer to 20 notes"):
            asked(before, told.url, parallel=1)
        assert len(told.asked) == 30
        assert catalogs.read(before.path).labels.num_rows == 1
        up = 10_000
        done = asked(before, told.url, parallel=3)
    assert (done.from_cache, done.asked, done.labels) == (10, 50, 60)


def test_clinical_text_leaves_for_no_far_server_without_being_asked(tmp_path: Path) -> None:
    before = made(tmp_path / "cat")
    far = server_at("http://8.8.8.8/v1", "m")
    characters = sum(len(text) for _, _, text in NOTES)
    with pytest.raises(UserError, match=rf"4 clinical notes with {characters} characters would leave.*--allow-remote"):
        extract(before, server=far)
    assert f"1 clinical notes with {len(NOTES[0][2])} characters" in leaving(before, far, limit=1)
    assert not extract_notes.answers_folder(before).exists()


CHILD = """
import sys
from ecgecho import catalog
from ecgecho.extract_notes import extract
from ecgecho.notes_server import Server
extract(catalog.read(sys.argv[1]), server=Server(url=sys.argv[2], model="tiny", pause_s=0.0), parallel=2)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on_with_what_it_has(tmp_path: Path, how: signal.Signals) -> None:
    notes = [(f"n{i}", "a", f"TTE: EF {20 + i}%") for i in range(40)]
    before = made(tmp_path / "cat", notes)

    def slow(text: str, number: int) -> Reply:
        time.sleep(0.02)
        return reading(text, number)

    with stub(slow) as told:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(before.path), told.url], stderr=subprocess.DEVNULL, env={**os.environ}
        )
        while len(told.asked) < 10 and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(how)
        child.wait(30)
        stopped = len(told.asked)
        assert 10 <= stopped < 40
        assert catalogs.read(before.path).labels.num_rows == 1
        done = asked(catalogs.read(before.path), told.url)
    assert done.labels == 40
    assert done.from_cache >= stopped - 3
    assert done.asked == 40 - done.from_cache
    assert pc.sum(done.catalog.labels_named("note_lvef")["value"]).as_py() == sum(20 + i for i in range(40))
