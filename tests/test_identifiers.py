"""Files full of marked identifiers through a whole run: no mark in any output, on the terminal or on disk.

Three marks: identifiers (go nowhere), clinical words (only in texts.parquet), and names of files (only in the catalog and on the
terminal). Cines and ECGs are simulated.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import zarr
from command_line import ecgecho

from ecgecho import catalog

sys.path += [str(Path(__file__).parent / name) for name in ("io", "datasets")]
import make_ecg_files as make  # noqa: E402
from make_ecg_files import MARK  # noqa: E402

WORDS = "Xylotrimark"  # stands in every clinical text
PLACE = "Qplacemark"  # stands in the name of every folder
UID = "1.2.826.0.1.3680043.777666"
SUBJECTS = 8
PATHS = {f"cat/{name}" for name in ("clips.parquet", "ecgs.parquet", "waveforms.jsonl", "scan.jsonl", "catalog.json")}
"""Where names of files stand."""


def mark_dicom(source: Path, target: Path, number: int) -> None:
    ds = pydicom.dcmread(source)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{MARK}^Ada", f"{MARK}{number}", "19480229"
    ds.AccessionNumber, ds.InstitutionName, ds.StationName = f"{MARK}7", f"{MARK} Hospital", f"{MARK}ST"
    ds.DeviceSerialNumber, ds.OperatorsName, ds.ReferringPhysicianName = f"{MARK}SN", f"{MARK}^Op", f"{MARK}^Ref"
    ds.StudyDescription, ds.PatientComments, ds.StudyID = f"{MARK} study", f"{MARK} words", f"{MARK}ID"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{UID}.{number}", f"{UID}.1.{number}"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{UID}.2.{number}"
    private = ds.private_block(0x0011, f"{MARK} VENDOR", create=True)
    private.add_new(0x01, "LO", f"{MARK} private")
    target.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(target)


def write_table(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture(scope="module")
def hospital(cohort, tmp_path_factory) -> Path:
    """A private hospital's folder, made of the simulated cohort: tables with raw ids, files with marks in every field."""
    made = catalog.read(cohort.catalog)
    root = tmp_path_factory.mktemp("hospital")
    chosen = sorted(set(made.clips["subject_id"].to_pylist()))[:SUBJECTS]
    ecgs, clips, texts, labels = [], [], [], []
    for row in made.ecgs.to_pylist():
        if row["subject_id"] not in chosen:
            continue
        name = f"{PLACE}/ecg/{MARK}{row['ecg_id']}"  # file names hold identifiers too
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".hea", ".dat"):
            text = made.file(row["path"] + suffix).read_bytes()
            if suffix == ".hea":
                text = text.replace(row["path"].rpartition("/")[2].encode(), f"{MARK}{row['ecg_id']}".encode())
                text += f"# <subject_id>: {MARK}9\n# {MARK} free words\n".encode()
            (root / (name + suffix)).write_bytes(text)
        who = f"{MARK}-{row['subject_id']}"
        ecgs.append([who, f"{MARK}E{row['ecg_id']}", name, row["time"]])
        texts.append([who, f"{MARK}E{row['ecg_id']}", f"Sinus rhythm. {WORDS} {row['ecg_id']}.", "report"])
        labels.append([who, f"{MARK}E{row['ecg_id']}", "lvef", 55, "%"])
    files = {}
    for number, row in enumerate(made.clips.to_pylist()):
        if row["subject_id"] in chosen and number % 3 == 0:
            files[row["clip_id"]] = name = f"{PLACE}/echo/{MARK}{number}.dcm"
            mark_dicom(made.file(row["path"]), root / name, number)
            clips.append([f"{MARK}-{row['subject_id']}", f"{UID}.{row['study_id']}", name, row["time"]])
    counts = make.counts_of(num_samples=300)
    for name, data in {"a.xml": make.muse(make.muse_waveform("Rhythm", counts)), "b.scp": make.scp(counts)}.items():
        path = root / PLACE / f"{MARK}{name}"
        path.write_bytes(data)
        ecgs.append([f"{MARK}-{chosen[0]}", f"{MARK}E{name}", path.relative_to(root).as_posix(), "2150-01-01 10:00:00"])
        path.with_name(f"{MARK}broken{name}").write_bytes(data[: len(data) // 2])
        broken = path.with_name(f"{MARK}broken{name}").relative_to(root).as_posix()
        ecgs.append([f"{MARK}-{chosen[0]}", f"{MARK}Ebroken{name}", broken, "2150-01-01 10:00:00"])
    whole = next(iter(files.values()))
    (root / PLACE / f"{MARK}cut.dcm").write_bytes((root / whole).read_bytes()[:3000])
    clips.append([f"{MARK}-{chosen[0]}", f"{UID}.9", f"{PLACE}/{MARK}cut.dcm", "2150-01-01 10:00:00"])
    write_table(root / "ecgs.csv", ["subject_id", "ecg_id", "path", "time"], ecgs)
    write_table(root / "clips.csv", ["subject_id", "study_id", "path", "time"], clips)
    write_table(root / "texts.csv", ["subject_id", "ecg_id", "text", "source"], texts)
    write_table(root / "labels.csv", ["subject_id", "ecg_id", "name", "value", "unit"], labels)
    splits = [[f"{MARK}-{subject}", ("train", "train", "val", "test")[i % 4]] for i, subject in enumerate(chosen)]
    write_table(root / "splits.csv", ["subject_id", "split"], splits)
    return root


COMMANDS = [
    "index {dataset} {root} --out {out}/cat",
    "index {dataset} {root} --out {out}/cat",
    "index {dataset} {root} --out {out}/cat --waveforms",
    "doctor {out}/cat --out {out}/x",
    "cache-echo {out}/cat --teacher demo --out {out}/echo.zarr",
    "cache-ecg {out}/cat --out {out}/raw.zarr",
    "cache-ecg {out}/cat --contract echoing_ecg --out {out}/ecg.zarr",
    "status {out}/ecg.zarr",
    "store info {out}/echo.zarr",
    "store verify {out}/echo.zarr",
    "store export {out}/echo.zarr --out {out}/echo.h5",
    "store export {out}/ecg.zarr --out {out}/ecg_studies",
    "train echoing_ecg --recipe small --catalog {out}/cat --ecg {out}/ecg.zarr --echo {out}/echo.zarr --out {out}/run"
    " --set optim.steps=2",
    "eval {out}/run --bootstraps 10 --evals retrieval --evals linear_probe",
]


def everything(hospital: Path, out: Path, dataset: str, commands: list[str]) -> str:
    """All that the commands tell, errors with their tracebacks' last words too."""
    told = []
    for line in commands:
        done = ecgecho(*line.format(dataset=dataset, root=hospital, out=out).split())
        assert done.returncode in (0, 3), f"{line}\n{done.stdout}\n{done.stderr}"
        told += [done.stdout, done.stderr]
    return "".join(told)


def contents(folder: Path):
    """(path, bytes) of every file, and what is inside of those that are packed."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and (path / "zarr.json").is_file():
            node = zarr.open(str(path), mode="r")
            if isinstance(node, zarr.Array) and node.dtype.kind in "SU" and node.size:
                yield path, b"\n".join(str(value).encode() for value in np.asarray(node).ravel())
            yield path, json.dumps(dict(node.attrs)).encode()
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield path, data
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield path, repr(table.to_pylist()).encode() + repr(table.schema.metadata).encode()
        elif path.suffix == ".gz":
            yield path, gzip.decompress(data)
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                found = []
                file.visititems(lambda name, node: found.append((name, dict(node.attrs), _words(node))))
                yield path, repr((dict(file.attrs), found)).encode()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                for name in packed.namelist():
                    yield path, name.encode() + packed.read(name)


def _words(node):
    return np.asarray(node[()]).ravel().tolist() if isinstance(node, h5py.Dataset) and node.dtype.kind in "SO" else None


def holding(folder: Path, word: str) -> set[str]:
    """Which outputs hold a word, in any case and as UTF-16 too; the names of files count."""
    forms = {word.lower().encode(), word.lower().encode("utf-16-le")}
    found = {
        path.relative_to(folder).as_posix() for path, data in contents(folder) if any(form in data.lower() for form in forms)
    }
    return found | {path.relative_to(folder).as_posix() for path in folder.rglob("*") if word.lower() in path.name.lower()}


def paths_of(made: catalog.Catalog) -> set[str]:
    unread = [path for paths in made.meta.get("unread", {}).values() for path in paths]
    return {*made.clips["path"].to_pylist(), *made.ecgs["path"].to_pylist(), *unread}


@pytest.fixture(scope="module")
def run(hospital, tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    return out, everything(hospital, out, "tables", COMMANDS)


def test_the_run_is_one_that_trains_and_judges(run):
    out, told = run
    assert (out / "run" / "metrics.json").is_file()
    assert "truncated" in told or "undecodable" in told
    made = catalog.read(out / "cat")
    assert made.pairs["study_id"].null_count < made.pairs.num_rows
    assert made.texts.num_rows
    assert any(MARK in path for path in paths_of(made))  # else nothing below was tried


@pytest.mark.parametrize("word", [UID, "19480229", "Xylotrimark", "Qplacemark", MARK])
def test_no_mark_is_in_a_store_a_run_a_log_a_report_or_an_export(run, word):
    out = run[0]
    allowed = {WORDS: {"cat/texts.parquet"}, PLACE: PATHS, MARK: PATHS}.get(word, set())
    assert {re.sub(r"scan-.*jsonl", "scan.jsonl", name) for name in holding(out, word)} <= allowed


def test_in_the_catalog_a_mark_stands_in_paths_alone(run):
    made = catalog.read(run[0] / "cat")
    for name in catalog.SCHEMAS:
        for row in made.table(name).to_pylist():
            assert MARK not in repr({key: value for key, value in row.items() if key != "path"})


def test_the_terminal_tells_no_identifier_and_no_clinical_word(run):
    told = run[1]
    for path in sorted(paths_of(catalog.read(run[0] / "cat")), key=len, reverse=True):
        told = told.replace(path, "<path>").replace(path.rpartition("/")[2], "<file>")
    for word in (MARK, WORDS, UID, "19480229"):
        assert word.lower() not in told.lower()


def test_a_folder_of_the_same_files_keeps_no_mark_either(hospital, tmp_path):
    told = everything(hospital, tmp_path, "folder", COMMANDS[:3])
    for word in (UID, "19480229", WORDS):
        assert holding(tmp_path, word) == set()
    assert {re.sub(r"scan-.*jsonl", "scan.jsonl", name) for name in holding(tmp_path, MARK)} <= PATHS
    for path in sorted(paths_of(catalog.read(tmp_path / "cat")), key=len, reverse=True):
        told = told.replace(path, "<path>")
    assert MARK.lower() not in told.lower()


def test_the_search_finds_what_it_looks_for(tmp_path):
    """The tests above can fail: a word in each kind of file is found."""
    (tmp_path / "a.json").write_text(json.dumps({"note": f"x {MARK} y"}))
    (tmp_path / "b.gz").write_bytes(gzip.compress(MARK.encode()))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["ids"] = np.array([MARK.encode()])
    group = zarr.open_group(str(tmp_path / "d.zarr"), mode="w")
    group.create_array("id", data=np.array([MARK.encode() * 3], "S40"))
    (tmp_path / f"{MARK}.txt").write_text("")
    found = holding(tmp_path, MARK)
    assert {"a.json", "b.gz", "c.h5", "d.zarr/id", f"{MARK}.txt"} <= found
    shutil.rmtree(tmp_path / "d.zarr")
