"""A table of wrong inputs: exit status, at most three lines, what is named, and no traceback."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from command_line import ecgecho

sys.path.append(str(Path(__file__).parents[1] / "datasets"))
from ptb_xl_tree import RECORDS, write_ptb_xl  # noqa: E402

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


def ptb_xl(tmp: Path, cohort) -> Path:
    return write_ptb_xl(tmp / "ptb")


def half_ptb_xl(tmp: Path, cohort) -> Path:
    for path in sorted(write_ptb_xl(tmp / "ptb").rglob("records500/*/*"))[::2]:
        path.unlink()
    return tmp / "ptb"


def patient_in_two_folds(tmp: Path, cohort) -> Path:
    first = RECORDS[0]
    twin = {**first, "ecg_id": "99", "strat_fold": "10" if first["strat_fold"] != "10" else "1"}
    return write_ptb_xl(tmp / "ptb", [*RECORDS, twin])


def column_renamed(tmp: Path, cohort) -> Path:
    table = write_ptb_xl(tmp / "ptb") / "ptbxl_database.csv"
    table.write_text(table.read_text().replace("strat_fold", "strat_fld", 1))
    return tmp / "ptb"


def two_versions(tmp: Path, cohort) -> Path:
    for version in ("1.0.1", "1.0.3"):
        write_ptb_xl(tmp / "ptb" / version)
    return tmp / "ptb"


def tables_with(labels: str, splits: str = "subject_id,split\np1,train\np2,test\n"):
    def write(tmp: Path, cohort) -> Path:
        root = tmp / "private"
        root.mkdir()
        (root / "ecgs.csv").write_text("subject_id,path\np1,a.csv\np2,b.csv\n")
        (root / "a.csv").write_text("I,II\n0,0\n")
        (root / "b.csv").write_text("I,II\n0,0\n")
        (root / "labels.csv").write_text(labels)
        (root / "splits.csv").write_text(splits)
        return root

    return write


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
    "root of another dataset": (1, "index mimic-iv {made} --out {tmp}/c", ptb_xl, ["It looks like ptb_xl", "index ptb_xl"]),
    "half a download": (0, "index ptb-xl {made} --out {tmp}/c", half_ptb_xl, []),
    "a patient in two folds": (1, "index ptb-xl {made} --out {tmp}/c", patient_in_two_folds, ["ptb", "leaks", "#"]),
    "a column renamed": (1, "index ptb-xl {made} --out {tmp}/c", column_renamed, ["ptbxl_database.csv", "strat_fold", "strat_fld"]),
    "two versions in one root": (1, "index ptb-xl {made} --out {tmp}/c", two_versions, ["1.0.1", "1.0.3", "narrower ROOT"]),
    "a label in another unit": (1, "index tables {made} --out {tmp}/c", tables_with("subject_id,name,value,unit\np1,lvef,55,ml\n"), ["labels.csv", "lvef", "'%'", "row 1"]),
    "a split file with a subject twice": (1, "index tables {made} --out {tmp}/c", tables_with("subject_id,name,value\n", "subject_id,split\np1,train\np1,test\n"), ["#", "leaks"]),
    "a window that is none": (2, "index mimic-iv {root} --out {tmp}/c --window-days 30-1", None, ["--window-days", "-1:30"]),
    "a window shorter than clocks disagree": (2, "index mimic-iv {root} --out {tmp}/c --window-days 0.2", None, ["window"]),
    "a key where ids are public": (2, "index mimic-iv {root} --out {tmp}/c --key {tmp}/k", None, ["--pseudonymise"]),
    "a key file that is a folder": (2, "index mimic-iv {root} --out {tmp}/c --pseudonymise {tmp}", None, ["--pseudonymise", "file"]),
    "weights of no teacher": (2, "doctor --weights {tmp}/w.pt", None, ["--teacher"]),
    "an unknown way to match": (2, "index mimic-iv {root} --out {tmp}/c --match nearset", None, ["nearest"]),
    "a server far away": (1, "extract-notes {catalog} --out {tmp}/c --server http://8.8.8.8/v1 --model m", None, ["--allow-remote", "8.8.8.8"]),
    "a model without a server": (2, "extract-notes {catalog} --model m", None, ["--server"]),
    "X, Y, Z by an unknown matrix": (2, "cache-ecg {catalog} --vcg dowre --out {tmp}/e.zarr", None, ["dower"]),
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
    "weights that are text": (1, "cache-echo {catalog} --teacher echoprime --weights {made}/labels.csv --out {tmp}/e.zarr", tables_with("x,y\n1,2\n"), ["labels.csv holds no weights", "text", "download"]),
    "weights that are a folder": (1, "cache-echo {catalog} --teacher panecho --weights {tmp} --out {tmp}/e.zarr", None, ["is a folder"]),
    "random weights of no number": (1, "cache-echo {catalog} --teacher panecho --weights random:x --out {tmp}/e.zarr", None, ["random:SEED:BLOCKS"]),
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
    "a view where none is known": (2, "train echoing_ecg --recipe small --catalog {catalog} --echo {echo} --ecg {ecg} --out {tmp}/r --set data.views=A4C", None, ["A4C", "view_classifier", "draw, merge, all"]),
    "a run's folder to begin with": (2, "train echoing_ecg --recipe small --catalog {catalog} --echo {echo} --ecg {ecg} --out {tmp}/r --init {run}", None, ["give", "run/model.safetensors"]),
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


def test_labels_of_notes_that_are_lost_with_a_catalog_are_told(tmp_path, cohort):
    def index(*more):
        return ecgecho("index", "mimic-iv", cohort.root, "--out", tmp_path / "c", *more)

    index()
    assert ecgecho("extract-notes", tmp_path / "c").returncode == 0
    assert "extract-notes" not in index().stderr
    assert f"ecgecho extract-notes {tmp_path / 'c'}" in index("--window-days", 60).stderr


def test_two_versions_are_told_by_the_doctor_as_by_the_index(tmp_path, cohort):
    done = ecgecho("doctor", two_versions(tmp_path, cohort))
    assert (done.returncode, "two candidates" in done.stdout) == (1, True)


def test_half_a_download_is_told_before_any_job(tmp_path, cohort):
    told = ecgecho("index", "ptb-xl", half_ptb_xl(tmp_path, cohort), "--out", tmp_path / "c").stdout
    assert "missing_file" in told


def test_a_label_out_of_its_range_is_left_out_and_told(tmp_path, cohort):
    root = tables_with("subject_id,name,value,unit\np1,lvef,130,%\np2,lvef,55,%\n")(tmp_path, cohort)
    done = ecgecho("index", "tables", root, "--out", tmp_path / "c")
    assert "out_of_range" in done.stdout
    assert "lvef 1" in done.stdout


def test_advice_about_a_stale_store_works_when_followed(tmp_path, cohort):
    shutil.copytree(cohort.echo, tmp_path / "echo.zarr")
    other = ("cache-echo", cohort.catalog, "--teacher", "echoclip", "--weights", "random:0")
    refused = ecgecho(*other, "--out", tmp_path / "echo.zarr")
    assert refused.returncode == 1
    assert "teacher" in refused.stderr
    assert "another output" in refused.stderr
    assert ecgecho("store", "verify", tmp_path / "echo.zarr").returncode == 0
