"""The store commands as a user types them: what they tell, how they end, wrong inputs."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import ecgecho, must
from vector_files import DIM, frames, make_folder, make_store, save

import embed_cache
from ecgecho import catalog as tables
from ecgecho.report import command


@pytest.fixture
def lab(tmp_path) -> Path:
    return make_folder(tmp_path / "lab", endings=(".npy",))  # a worker that needs no torch starts faster


def test_export_and_import_tell_what_they_did_and_what_comes_next(tmp_path, lab):
    words = ("store", "import", lab, "--out", tmp_path / "s.zarr", "--teacher-name", "lab-vit", "--licence", "ours")
    said = must(*words)
    assert "ok 12" in said
    assert f"next: ecgecho store info {tmp_path / 's.zarr'}" in said
    assert "is done" in must(
        "store", "import", lab, "--out", tmp_path / "s.zarr", "--teacher-name", "lab-vit", "--licence", "ours"
    )
    for place in ("x.h5", "x.safetensors", "folder"):
        said = must("store", "export", tmp_path / "s.zarr", "--out", tmp_path / place)
        following = next(line for line in said.splitlines() if line.startswith("next: ecgecho "))
        assert "ok 12" in said
        assert "replaced" in must("store", "export", tmp_path / "s.zarr", "--out", tmp_path / place)
        must(*following.removeprefix("next: ecgecho ").split())
        assert "identity.origin" not in must("store", "diff", tmp_path / "s.zarr", following.split()[-1])
        shutil.rmtree(following.split()[-1])


def test_an_import_with_bad_files_ends_with_3_and_names_them(tmp_path, lab):
    save(lab / "study0/bad.npy", np.full((3, DIM), np.nan, np.float32))
    done = ecgecho("store", "import", lab, "--out", tmp_path / "s.zarr", "--teacher-name", "lab-vit")
    assert done.returncode == 3
    assert "failed: not_finite" in done.stdout
    assert "1 of 13 failed" in done.stdout
    assert "bad" in done.stdout
    assert json.loads((tmp_path / "s.zarr.report.json").read_text())["result"]["by_reason"] == {"failed: not_finite": 1}


def test_a_difference_ends_with_1_and_names_rows_and_fields(tmp_path):
    a = make_store(tmp_path / "a.zarr")
    b = make_store(tmp_path / "b.zarr", identity={"mask": "none"}, skip={"clip 000"})
    done = ecgecho("store", "diff", a, b)
    assert done.returncode == 1
    for word in ("identity.mask", "only in A: 1 rows: clip 000", "DIFFERENT"):
        assert word in done.stdout
    told = json.loads(ecgecho("store", "diff", a, b, "--json").stdout)
    assert (told["equal"], told["only_a"]) == (False, {"count": 1, "examples": ["clip 000"]})
    assert "the same content" in must("store", "diff", a, a)
    assert "equal rows in other places" in must("store", "diff", a, make_store(tmp_path / "c.zarr", part_rows=9))


def test_info_counts_by_status_and_view_of_the_catalog(cohort, tmp_path):
    plain = json.loads(must("store", "info", cohort.echo, "--json"))
    assert {k: v for k, v in plain.items() if k != "coverage"} == embed_cache.info(cohort.echo)
    assert plain["coverage"] == [{"view": "all", **plain["status"]}]
    shutil.copytree(cohort.catalog, tmp_path / "catalog")
    clips = pq.read_table(tmp_path / "catalog/clips.parquet").to_pydict()
    clips["view"] = ["A4C" if k % 2 else None for k in range(len(clips["view"]))]
    schema = tables.SCHEMAS["clips"]
    import pyarrow as pa

    extra = {name: [values[0]] for name, values in clips.items()} | {"clip_id": ["new"], "view": ["PLAX"]}
    pq.write_table(pa.concat_tables([pa.table(clips, schema), pa.table(extra, schema)]), tmp_path / "catalog/clips.parquet")
    told = json.loads(must("store", "info", cohort.echo, "--catalog", tmp_path / "catalog", "--json"))["coverage"]
    by_view = {row.pop("view"): row for row in told}
    assert by_view["PLAX"] == {"no row": 1}
    assert sum(by_view["A4C"].values()) == len(clips["view"]) // 2
    assert {view for view in by_view if view.startswith("view unknown, ")}
    assert sum(sum(row.values()) for row in by_view.values()) == len(clips["view"]) + 1
    said = must("store", "info", cohort.echo, "--catalog", tmp_path / "catalog")
    for word in ("made by", "teacher demo", "licence", "A4C", "no row", "excluded"):
        assert word in said
    assert "ECG" in must("store", "info", cohort.ecg, "--catalog", cohort.catalog)


def test_training_takes_what_was_imported_with_the_studies_of_the_catalog(cohort, tmp_path):
    clips = pq.read_table(cohort.catalog / "clips.parquet").to_pydict()
    for k, clip in enumerate(clips["clip_id"]):
        save(tmp_path / f"lab/{clip}.npy", frames(k))
    save(tmp_path / "lab/stranger.npy", frames(0))
    out = tmp_path / "echo.zarr"
    done = ecgecho("store", "import", tmp_path / "lab", "--out", out, "--teacher-name", "lab", "--catalog", cohort.catalog)
    assert done.returncode == 0, done.stderr
    assert "1 of" in done.stderr
    index = embed_cache.open(out).index.to_pydict()
    studies = dict(zip(clips["clip_id"], clips["study_id"], strict=True))
    assert {i: g for i, g in zip(index["id"], index["group"], strict=True) if i != "stranger"} == studies
    stores = ("--catalog", cohort.catalog, "--echo", out, "--ecg", cohort.ecg)
    must("train", "echoing_ecg", "--recipe", "small", *stores, "--out", tmp_path / "run", "--set", "optim.steps=2")


def test_an_erased_subject_is_gone_and_no_import_brings_it_back(cohort, tmp_path):
    shutil.copytree(cohort.catalog, tmp_path / "catalog")
    clips = pq.read_table(tmp_path / "catalog/clips.parquet").to_pydict()
    for k, clip in enumerate(clips["clip_id"]):
        save(tmp_path / f"lab/{clip}.npy", frames(k))
    out, catalog = tmp_path / "echo.zarr", tmp_path / "catalog"
    imported = ("store", "import", tmp_path / "lab", "--out", out, "--teacher-name", "lab", "--catalog", catalog)
    must(*imported)
    subject = clips["subject_id"][0]
    gone = {clip for clip, owner in zip(clips["clip_id"], clips["subject_id"], strict=True) if owner == subject}
    words = ("store", "erase", out, "--catalog", catalog, "--subject", subject)
    asked = ecgecho(*words)
    assert (asked.returncode, f"{len(gone)} rows" in asked.stdout) == (1, True)
    assert gone <= set(embed_cache.open(out).index["id"].to_pylist())
    assert f"rows erased {len(gone)}" in must(*words, "--yes")
    must("store", "verify", out)
    must(*imported)
    index = embed_cache.open(out).index.to_pydict()
    assert not gone & set(index["id"])
    assert index["status"].count("erased") == len(gone)
    refused = ecgecho(*imported[:-2])
    assert (refused.returncode, "--catalog" in refused.stderr) == (2, True)
    must("store", "export", out, "--out", tmp_path / "x")
    exported = b"".join(path.read_bytes() for path in (tmp_path / "x").iterdir())
    assert not any(clip.encode() in exported for clip in gone)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_repair_mends_what_it_can_and_an_import_the_rest(damage, tmp_path, lab):
    out = tmp_path / "s.zarr"
    words = ("store", "import", lab, "--out", out, "--teacher-name", "lab-vit", "--part-rows", 4)
    must(*words)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "head.json"}
    flip(next(out.rglob("index/status/c.0")))
    assert ecgecho("store", "verify", out).returncode == 1
    assert "mended 1" in must("store", "repair", out)
    assert "whole" in must("store", "verify", out)
    ids = embed_cache.open(out).index["id"].to_pylist()[4:8]
    chunk = sorted(out.rglob("moments/c.*"))[1]
    {"flipped": flip, "cut": lambda path: os.truncate(path, 9), "missing": Path.unlink}[damage](chunk)
    done = ecgecho("store", "repair", out)
    assert (done.returncode, ", ".join(ids) in done.stdout, "--repair" in done.stdout) == (1, True, True)
    assert "read now 4" in must(*words, "--repair")
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "head.json"}
    assert "is done" in must(*words, "--repair")


def test_damage_of_a_part_is_named_whatever_else_is_damaged(tmp_path):
    out = make_store(tmp_path / "s.zarr")
    ids = embed_cache.open(out).index["id"].to_pylist()
    next(out.rglob("moments/c.1.*")).unlink()
    next(out.rglob("index/status/c.0")).unlink()
    flip(next(out.rglob("index/group/c.0.0")))
    told = json.loads(ecgecho("store", "verify", out, "--json").stdout)
    assert set(told) == {"ok", "files", "bytes", "damages", "unlisted", "open_segment"}
    assert {d["file"].split("/")[3]: (d["rows"], d["ids"]) for d in told["damages"]} == {
        "moments": ([4, 8], ids[4:8]),
        "status": ([0, len(ids)], ids),
        "group": ([0, len(ids)], ids),
    }
    done = ecgecho("store", "verify", out)
    assert f"rows 4 to 7: {', '.join(ids[4:8])}\n" in done.stdout
    assert done.stdout.endswith(f"next: ecgecho store repair {out}\n")
    flip(next(out.rglob("index/id/c.0.0")))
    assert "rows 4 to 7: ids unknown" in ecgecho("store", "verify", out).stdout


def test_a_report_that_cannot_be_written_is_told_and_fails_nothing(tmp_path, monkeypatch):
    out = make_store(tmp_path / "s.zarr")
    refused = OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(command, "_write", lambda path, text: (_ for _ in ()).throw(refused))
    done = ecgecho("store", "repair", out)
    assert (done.returncode, done.stderr) == (0, f"No report was written beside {out}: Read-only file system.\n")
    assert "next: ecgecho store verify" in done.stdout


def test_the_python_of_the_page_runs(cohort, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/store.md").read_text(encoding="utf-8")
    (tmp_path / "cohort").mkdir()
    must("store", "export", cohort.echo, "--out", tmp_path / "cohort/echo.h5")
    monkeypatch.chdir(tmp_path)
    code = page.split("```python\n")[1].split("```")[0] + "\nassert len(ids) == len(studies) == len(mean) == len(std) > 0\n"
    exec(compile(code, "store.md", "exec"), {})


def no_study(tmp: Path) -> Path:
    (tmp / "t.csv").write_text("id,path\na,b\n")
    return tmp / "t.csv"


def thesis(tmp: Path) -> Path:
    (tmp / "thesis.h5").write_text("x")
    return tmp / "thesis.h5"


def junk(tmp: Path) -> Path:
    (tmp / "junk").mkdir()
    (tmp / "junk/a.npy").write_text("junk")
    return tmp / "junk"


TABLE = {
    "export of nothing": (1, "store export {tmp}/nowhere --out {tmp}/x.h5", None, ["nowhere"]),
    "export over a file": (1, "store export {echo} --out {made}", thesis, ["thesis.h5", "--out"]),
    "export below a file": (1, "store export {echo} --out {made}/x.h5", thesis, ["thesis.h5"]),
    "export to an unknown format": (2, "store export {echo} --out {tmp}/x --to parquet", None, ["parquet", "hdf5"]),
    "export with another ending": (2, "store export {echo} --out {tmp}/x.txt", None, [".txt", ".h5"]),
    "export to a bucket": (2, "store export {echo} --out s3://b/x.h5", None, ["bucket", "local"]),
    "import of nothing": (1, "store import {tmp}/nowhere --out {tmp}/s.zarr --teacher-name x", None, ["nowhere"]),
    "import of other files": (1, "store import {catalog} --out {tmp}/s.zarr --teacher-name x", None, [".npy"]),
    "import of junk": (1, "store import {made} --out {tmp}/s.zarr --teacher-name x", junk, ["a.npy"]),
    "import without a teacher": (2, "store import {lab} --out {tmp}/s.zarr", None, ["--teacher-name"]),
    "import with an unknown norm": (2, "store import {lab} --out {tmp}/s --teacher-name x --frame-norm l1", None, ["l1", "l2"]),
    "import with a bad table": (1, "store import {lab} --out {tmp}/s --teacher-name x --table {made}", no_study, ["study"]),
    "import of strangers": (2, "store import {lab} --out {tmp}/s --teacher-name x --catalog {catalog}", None, ["clip00"]),
    "import into another store": (1, "store import {lab} --out {echo} --teacher-name x", None, ["teacher"]),
    "diff with nothing": (1, "store diff {echo} {tmp}/nowhere", None, ["nowhere"]),
    "info of nothing": (1, "store info {tmp}/nowhere", None, ["nowhere"]),
    "info with no catalog": (1, "store info {echo} --catalog {tmp}/nowhere", None, ["nowhere"]),
    "repair of nothing": (1, "store repair {tmp}/nowhere", None, ["nowhere"]),
    "erase of nobody": (2, "store erase {echo} --catalog {catalog} --subject nobody --yes", None, ["no subject"]),
    "erase without a catalog": (2, "store erase {echo} --subject x", None, ["--catalog"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_input_is_told_in_three_lines(name, tmp_path, cohort, lab):
    status, words, make, named = TABLE[name]
    made = make(tmp_path) if make else ""
    before = cohort.echo.stat().st_mtime
    places = {k: getattr(cohort, k) for k in ("root", "catalog", "echo")}
    done = ecgecho(*words.format(tmp=tmp_path, made=made, lab=lab, **places).split())
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in named:
        assert word in done.stderr, done.stderr
    errors = done.stderr[done.stderr.index("Error") :] if "Error" in done.stderr else done.stderr
    assert len(errors.strip().splitlines()) <= 3, errors
    assert cohort.echo.stat().st_mtime == before
