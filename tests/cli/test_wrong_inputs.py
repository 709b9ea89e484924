"""A table of wrong inputs: exit status, at most three lines, what is named, and no traceback."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import ecgecho

DICOM_PREAMBLE = b"\0" * 128 + b"DICM"


def empty(tmp: Path, cohort) -> Path:
    (tmp / "empty").mkdir()
    return tmp / "empty"


def without_column(tmp: Path, cohort) -> Path:
    table = tmp / "x/ecg/record_list.csv"
    table.parent.mkdir(parents=True)
    table.write_text("subject_id,study_id,file_name,ecg_time,pth\n1,2,3,2180-01-01 00:00:00,x\n")
    return tmp / "x"


def two_candidates(tmp: Path, cohort) -> Path:
    for name in ("a", "b"):
        (tmp / "x" / name).mkdir(parents=True)
        (tmp / "x" / name / "record_list.csv").write_text("subject_id,study_id,file_name,ecg_time,path\n")
    return tmp / "x"


def junk_folder(tmp: Path, cohort) -> Path:
    (tmp / "junk").mkdir()
    (tmp / "junk/a.dcm").write_text("this is no DICOM file\n" * 20)
    (tmp / "junk/b.dcm").write_bytes(DICOM_PREAMBLE + b"\1\2\3")
    return tmp / "junk"


def some_good(tmp: Path, cohort) -> Path:
    folder = junk_folder(tmp, cohort)
    shutil.copy(cohort.cines[0], folder / "c.dcm")
    return folder


def unknown_subjects(tmp: Path, cohort) -> Path:
    assert ecgecho("index", "folder", some_good(tmp, cohort), "--out", tmp / "private").returncode == 0
    return tmp / "private"


def plain_file(tmp: Path, cohort) -> Path:
    (tmp / "file").write_text("x")
    return tmp / "file"


def wrong_weights(tmp: Path, cohort) -> Path:
    import torch
    from safetensors.torch import save_file

    save_file({"not.a.key": torch.zeros(3)}, str(tmp / "w.safetensors"))
    return tmp / "w.safetensors"


def pickle_weights(tmp: Path, cohort) -> Path:
    (tmp / "w.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    return tmp / "w.pt"


def bad_recipe(tmp: Path, cohort) -> Path:
    (tmp / "recipe.json").write_text(json.dumps({"optimm": {}}))
    return tmp / "recipe.json"


def headless(tmp: Path, cohort) -> Path:
    shutil.copytree(cohort.echo, tmp / "echo.zarr")
    (tmp / "echo.zarr/head.json").unlink()
    return tmp / "echo.zarr"


def flipped(tmp: Path, cohort) -> Path:
    shutil.copytree(cohort.echo, tmp / "echo.zarr")
    chunk = sorted(p for p in (tmp / "echo.zarr").rglob("moments/c.*"))[0]
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(bytes(content))
    return tmp / "echo.zarr"


def other_run(tmp: Path, cohort) -> Path:
    shutil.copytree(cohort.run, tmp / "run")
    return tmp / "run"


# name: (exit status, words with {placeholders}, what makes {made}, what the message names)
TABLE = {
    "unknown command": (2, "cache-ech", None, ["cache-echo"]),
    "unknown kind": (2, "list teacher", None, ["teachers"]),
    "unknown option": (2, "cache-echo {catalog} --out {tmp}/e.zarr --prat-rows 4", None, ["--part-rows"]),
    "missing argument": (2, "index mimic-iv", None, ["root"]),
    "unknown dataset": (2, "index mimic-vi {root} --out {tmp}/c", None, ["mimic_iv"]),
    "dataset folder not there": (2, "index mimic-iv {tmp}/nowhere --out {tmp}/c", None, ["nowhere"]),
    "dataset folder empty": (1, "index mimic-iv {made} --out {tmp}/c", empty, ["record_list.csv"]),
    "table without a column": (1, "index mimic-iv {made} --out {tmp}/c", without_column, ["record_list.csv", "path", "pth"]),
    "two candidates": (1, "index mimic-iv {made} --out {tmp}/c", two_candidates, ["a", "b", "record_list.csv"]),
    "unknown dataset setting": (2, "index mimic-iv {root} --out {tmp}/c --set lvef_prority=x", None, ["lvef_priority"]),
    "no catalog": (2, "cache-echo {tmp}/nowhere --out {tmp}/e.zarr", None, ["nowhere"]),
    "folder without cines": (1, "cache-echo {made} --out {tmp}/e.zarr", empty, ["empty"]),
    "unknown teacher": (2, "cache-echo {catalog} --teacher demmo --out {tmp}/e.zarr", None, ["demo"]),
    "no such device": (2, "cache-echo {catalog} --device cuda:7 --out {tmp}/e.zarr", None, ["cuda:7", "cpu"]),
    "unknown decoding": (2, "cache-echo {catalog} --decode dtc --out {tmp}/e.zarr", None, ["--decode", "dct"]),
    "half precision without a GPU": (1, "cache-echo {catalog} --precision bf16 --device cpu --out {tmp}/e.zarr", None, ["bf16", "CUDA"]),
    "processes and a cluster": (2, "cache-echo {catalog} --processes 2 --ray auto --out {tmp}/e.zarr", None, ["--processes", "--ray"]),
    "status of nothing": (1, "status {tmp}/nowhere", None, ["nowhere"]),
    "weights not there": (1, "cache-echo {catalog} --teacher echoclip --weights {tmp}/no.safetensors --out {tmp}/e.zarr", None, ["no.safetensors"]),
    "weights of another shape": (1, "cache-echo {catalog} --teacher echoclip --weights {made} --out {tmp}/e.zarr", wrong_weights, ["not.a.key"]),
    "weights that are a pickle": (1, "cache-echo {catalog} --teacher echoclip --weights {made} --out {tmp}/e.zarr", pickle_weights, ["w.pt"]),
    "no weights given": (1, "cache-echo {catalog} --teacher echoclip --out {tmp}/e.zarr", None, ["--weights"]),
    "part rows of zero": (2, "cache-echo {catalog} --out {tmp}/e.zarr --part-rows 0", None, ["--part-rows"]),
    "out below a file": (1, "cache-echo {catalog} --out {made}/e.zarr", plain_file, ["file"]),
    "all files junk": (1, "cache-echo {made} --out {tmp}/e.zarr", junk_folder, []),
    "some files junk": (3, "cache-echo {made} --out {tmp}/e.zarr", some_good, []),
    "unknown contract": (2, "cache-ecg {catalog} --contract echoing_egc --out {tmp}/e.zarr", None, ["echoing_ecg"]),
    "raw store without contract": (2, "cache-ecg {raw} --out {tmp}/e.zarr", None, ["--contract"]),
    "contract store as raw": (1, "cache-ecg {ecg} --contract echoing_ecg --out {tmp}/e.zarr", None, ["raw"]),
    "unknown method": (2, "train echoing_egc --catalog {catalog} --ecg {ecg} --out {tmp}/r", None, ["echoing_ecg"]),
    "unknown recipe": (2, "train ecg_clip --recipe smal --catalog {catalog} --ecg {ecg} --out {tmp}/r", None, ["small"]),
    "recipe with an unknown key": (2, "train ecg_clip --recipe {made} --catalog {catalog} --ecg {ecg} --out {tmp}/r", bad_recipe, ["optimm", "optim"]),
    "unknown setting": (2, "train ecg_clip --recipe small --catalog {catalog} --ecg {ecg} --out {tmp}/r --set optim.stepz=1", None, ["steps"]),
    "no ECG store": (2, "train ecg_clip --recipe small --catalog {catalog} --out {tmp}/r", None, ["--ecg"]),
    "raw ECGs to train": (1, "train ecg_clip --recipe small --catalog {catalog} --ecg {raw} --out {tmp}/r", None, ["contract"]),
    "echo store as ECGs": (1, "train ecg_clip --recipe small --catalog {catalog} --ecg {echo} --out {tmp}/r", None, ["echo"]),
    "unknown subjects": (1, "train echoing_ecg --recipe small --catalog {made} --ecg {ecg} --out {tmp}/r", unknown_subjects, ["none"]),
    "echo store without head": (1, "train echoing_ecg --recipe small --catalog {catalog} --echo {made} --ecg {ecg} --out {tmp}/r", headless, ["head"]),
    "another recipe into a run": (1, "train echoing_ecg --recipe small --catalog {catalog} --echo {echo} --ecg {ecg} --out {made} --set seed=9", other_run, ["seed"]),
    "eval of nothing": (1, "eval {tmp}/nowhere", None, ["nowhere"]),
    "unknown evaluation": (2, "eval {run} --evals zero_shoot", None, ["zero_shot"]),
    "verify of nothing": (1, "store verify {tmp}/nowhere", None, ["nowhere"]),
    "a flipped byte": (1, "store verify {made}", flipped, ["moments"]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_a_wrong_input_is_told_in_three_lines(name, tmp_path, cohort):
    status, words, make, named = TABLE[name]
    made = make(tmp_path, cohort) if make else ""
    places = {"tmp": tmp_path, "made": made, **{k: getattr(cohort, k) for k in ("root", "catalog", "echo", "ecg", "raw", "run")}}
    done = ecgecho(*words.format(**places).split())
    told = done.stderr + (done.stdout if words.startswith("store") else "")
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in told
    for word in named:
        assert word in told, told
    if status in (1, 2) and named and not words.startswith("store"):
        errors = told[told.index("Error") :] if "Error" in told else told
        assert len(errors.strip().splitlines()) <= 3, errors


def test_advice_about_a_stale_store_works_when_followed(tmp_path, cohort):
    shutil.copytree(cohort.echo, tmp_path / "echo.zarr")
    other = ("cache-echo", cohort.catalog, "--teacher", "echoclip", "--weights", "random:0")
    refused = ecgecho(*other, "--out", tmp_path / "echo.zarr")
    assert refused.returncode == 1
    assert "teacher" in refused.stderr
    assert "another output" in refused.stderr
    assert ecgecho("store", "verify", tmp_path / "echo.zarr").returncode == 0
