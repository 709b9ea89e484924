"""What is refused: stale identities, rows that do not fit, foreign folders, hostile heads."""

from __future__ import annotations

import json

import numpy as np
import pytest
from store_cases import COLUMNS, IDENTITY, begin, finish, items, make, row_of

import embed_cache
from embed_cache import Column, DamagedStore, Row, StaleStore, StoreError, Writer, make_plan
from embed_cache.manifest import seal_json

OTHER_WEIGHTS = {**IDENTITY, "teacher": {**IDENTITY["teacher"], "weights_sha256": "cd" * 32}}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"identity": OTHER_WEIGHTS}, ["teacher.weights_sha256", "abab", "cdcd"]),
        ({"identity": {**OTHER_WEIGHTS, "mask": "none"}}, ["teacher.weights_sha256", 'mask is "sector" there but "none"']),
        ({"identity": {**IDENTITY, "decode": 2}}, ['decode is "absent" there but 2']),
        ({"kind": "ecg"}, ['kind is "echo" there but "ecg"']),
        ({"columns": (Column("moments", (2, 256), "float32"), *COLUMNS[1:])}, ['moments.dtype is "float16" there but "float32"']),
        ({"counts": ()}, ["counts"]),
    ],
)
def test_another_identity_is_refused_naming_every_field_with_both_values(store_path, finished, changes, fields):
    writer = begin(store_path)
    if finished:
        finish(writer)
    before = {path: path.read_bytes() for path in store_path.rglob("*") if path.is_file()}
    with pytest.raises(StaleStore) as caught:
        begin(store_path, **changes)
    for field in fields:
        assert field in str(caught.value)
    assert {path: path.read_bytes() for path in store_path.rglob("*") if path.is_file()} == before


def test_a_finished_store_can_be_required_to_be_of_an_identity(store_path):
    store = make(store_path)
    same = {"kind": "echo", "identity": IDENTITY, "columns": COLUMNS, "counts": ("num_frames",)}
    store.require(**same)
    with pytest.raises(StaleStore, match="teacher.weights_sha256"):
        store.require(**same | {"identity": OTHER_WEIGHTS})


def test_resuming_by_another_identity_is_refused(store_path):
    begin(store_path)
    with pytest.raises(StaleStore, match="teacher.weights_sha256"):
        Writer.resume(store_path, identity=OTHER_WEIGHTS)


def test_another_part_size_seed_or_list_of_rows_is_refused(store_path):
    ids, groups = items()
    begin(store_path)
    for plan, message in (
        (make_plan(ids, groups, seed=7, part_rows=8), "begun with part_rows 4, and this run has 8"),
        (make_plan(ids, groups, seed=1, part_rows=4), "begun with seed 7, and this run has 1"),
        (make_plan([*ids[:-1], "new"], groups, seed=7, part_rows=4), r"new now: \['new'\], gone: \['clip021'\]"),
    ):
        with pytest.raises(StoreError, match=message):
            begin(store_path, plan=plan)


def test_a_finished_store_with_other_rows_points_to_extend(store_path):
    make(store_path)
    with pytest.raises(StoreError, match="Writer.extend"):
        begin(store_path, plan=make_plan(["x"], ["g"], seed=7, part_rows=4))


def changed(name, value):
    row = row_of("clip000")
    return Row("ok", values={**row.values, name: value}, counts=row.counts)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed("moments", np.full((2, 256), np.nan, np.float16)), "'clip000'.*'moments' holds a value that is not finite"),
        (changed("scale", np.array([1, np.inf, 2], np.float32)), "not finite"),
        (changed("scale", np.zeros(3)), "float64.*must be float32"),
        (changed("scale", np.zeros(4, np.float32)), r"\(4,\); it must be float32 \(3,\)"),
        (changed("signal", np.zeros((2, 3), np.int16)), "must be int16"),
        (changed("signal", np.int16(3)), "must be int16"),
        (changed("other", np.zeros(1)), "has all of"),
        (Row("ok", values=row_of("clip000").values), "has all of"),
        (Row("failed", "x", counts={"frames": 1}), "has a count 'frames'"),
        (Row("failed", "x", counts={"num_frames": 1.5}), "64-bit integers"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_nothing_of_its_part_is_kept(store_path, row, message):
    writer = begin(store_path)
    part = next(part for part in writer.pending() if any(name == "clip000" for name, _, _ in writer.rows_of(part)))
    rows = {name: row_of(name) for name, _, _ in writer.rows_of(part)}
    with pytest.raises(StoreError, match=message):
        writer.commit(part, {**rows, "clip000": row}, {})
    assert begin(store_path).pending() == writer.pending()
    writer.commit(part, rows, {})


def test_a_part_is_given_exactly_its_rows(store_path):
    writer = begin(store_path)
    rows = {name: row_of(name) for name, _, _ in writer.rows_of(0)}
    name = next(iter(rows))
    with pytest.raises(StoreError, match=f"missing \\['{name}'\\]"):
        writer.commit(0, {key: value for key, value in rows.items() if key != name}, {})
    with pytest.raises(StoreError, match=r"not asked for \['else'\]"):
        writer.commit(0, rows | {"else": row_of("clip000")}, {})
    with pytest.raises(StoreError, match="no part 6"):
        writer.commit(6, {}, {})


def test_a_seal_before_the_last_part_is_refused(store_path):
    writer = begin(store_path)
    with pytest.raises(embed_cache.IncompleteStore, match="6 parts left"):
        writer.seal({})
    with pytest.raises(embed_cache.IncompleteStore):
        embed_cache.open(store_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fine",), "none of ok"),
        (("failed",), "failed without a reason"),
        (("excluded",), "excluded without a reason"),
        (("failed", "x" * 257), "257 bytes"),
        (("excluded", "still", True, "", {"scale": np.zeros(3)}), "only rows that are ok"),
    ],
)
def test_an_outcome_that_contradicts_itself_is_refused(arguments, message):
    with pytest.raises(StoreError, match=message):
        Row(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Moments", (2,), "float16"), "cannot be used as a name"),
        (("../up", (2,), "float16"), "cannot be used as a name"),
        (("status", (2,), "float16"), "cannot be used as a name"),
        (("a", (2,), "bfloat16"), "use one of"),
        (("a", (0,), "float16"), "at least 1"),
    ],
)
def test_a_column_that_cannot_be_stored_is_refused(arguments, message):
    with pytest.raises(StoreError, match=message):
        Column(*arguments)


def test_an_identity_that_json_cannot_hold_is_refused(store_path):
    for identity in ({"a": float("nan")}, {"a": object()}, {"a": np.float32(1)}):
        with pytest.raises(StoreError, match="JSON"):
            begin(store_path, identity=identity)


def test_folders_that_are_not_stores_are_left_alone(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(StoreError, match="is not a store"):
        embed_cache.open(other)
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds other files \('thesis.txt'\)"):
        begin(other)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    zarr_group = tmp_path / "zarr"
    zarr_group.mkdir()
    (zarr_group / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    with pytest.raises(StoreError, match="made by another program"):
        begin(zarr_group)
    with pytest.raises(StoreError, match="there is no store"):
        embed_cache.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is a file"):
        begin(other / "thesis.txt")
    with pytest.raises(StoreError, match="neither a folder nor s3://"):
        embed_cache.open("ftp://bucket/a")


def rewrite_head(path, change):
    """A head with a valid checksum and another content, as an attacker or a faulty program would write it."""
    body = json.loads((path / "head.json").read_bytes())
    del body["sha256"]
    change(body)
    (path / "head.json").write_bytes(seal_json(body))


def files(body, old, new):
    body["files"] = [[path.replace(old, new), size, digest] for path, size, digest in body["files"]]


HOSTILE = {
    "climbs out": lambda body: files(body, "segments/00000/log", "../log"),
    "absolute": lambda body: files(body, "segments/00000/log", "/etc"),
    "doubled": lambda body: body["files"].append(body["files"][0]),
    "foreign": lambda body: body["files"].append(["secret", 0, "0" * 64]),
    "huge rows": lambda body: body["segments"][0].update(num_rows=1 << 39),
    "huge rows and parts": lambda body: body["segments"][0].update(num_rows=1 << 39, part_rows=1 << 37),
    "too many rows": lambda body: body["segments"][0].update(num_rows=1 << 50),
    "huge shape": lambda body: body["columns"][0].update(shape=[1 << 39, 1 << 39]),
    "negative": lambda body: body["segments"][0].update(part_rows=-4),
    "true for one": lambda body: body["segments"][0].update(part_rows=True),
    "no segments": lambda body: body.update(segments=[]),
    "odd segment": lambda body: body.update(segments=[7]),
    "column climbs": lambda body: body["columns"][0].update(name="../../a"),
    "object dtype": lambda body: body["columns"][0].update(dtype="O"),
    "files missing": lambda body: body.pop("files"),
    "size is text": lambda body: body["files"][0].__setitem__(1, "7"),
    "fewer files": lambda body: body["files"].pop(),
    "erasure elsewhere": lambda body: body["erasures"].append("../x"),
    "newer": lambda body: body.update(format_version=2),
    "identity is a list": lambda body: body.update(identity=[]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_head_is_refused_before_anything_is_read_or_allocated(store_path, name):
    make(store_path)
    rewrite_head(store_path, HOSTILE[name])
    with pytest.raises(StoreError, match=r"head\.json|cannot be used as a name"):
        embed_cache.open(store_path)


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b'{"sha256":"' + b"0" * 64 + b'"}', b"\xff" * 99])
def test_bytes_that_are_no_head_are_refused(store_path, data):
    make(store_path)
    (store_path / "head.json").write_bytes(data)
    with pytest.raises(DamagedStore, match="head.json is damaged"):
        embed_cache.open(store_path)


def test_links_are_not_followed_out_of_the_store(store_path, tmp_path):
    make(store_path)
    chunk = store_path / "segments/00000/columns/scale/c.0.0"
    outside = tmp_path / "outside"
    chunk.rename(outside)
    chunk.symlink_to(outside)
    with pytest.raises(DamagedStore, match="c.0.0"):
        embed_cache.open(store_path)
    chunk.unlink()
    outside.rename(chunk)
    embed_cache.open(store_path)
    folder = store_path / "segments/00000/columns/scale"
    folder.rename(tmp_path / "folder")
    folder.symlink_to(tmp_path / "folder")
    with pytest.raises(DamagedStore, match="scale"):
        embed_cache.open(store_path)


def test_a_damaged_erasure_record_is_refused(store_path):
    make(store_path)
    (store_path / "erasures").mkdir()
    (store_path / "erasures/00000.json").write_text("{}")
    with pytest.raises(embed_cache.DamagedStore, match="erasures"):
        embed_cache.open(store_path)
