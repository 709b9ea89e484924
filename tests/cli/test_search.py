"""Which studies a search finds, what it says of them, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import ecgecho, must
from typer.testing import CliRunner

import ecgecho as package
import embed_cache
from ecgecho import catalog as tables
from ecgecho import search as story
from ecgecho.cli import app
from ecgecho.train import train

sys.path.append(str(Path(__file__).parents[1] / "train"))
from tiny_world import DIM, _store, make_world, quick_recipe  # noqa: E402

STUDIES = 30
METHODS = {"csd": "echoing_ecg", "cosine": "ecg_clip"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for measure, method in METHODS.items():
        recipe = quick_recipe(method, "method.on=both", "optim.steps=1")
        train(recipe, **world.paths(), out=root / measure, progress=False, say=lambda line: None)
    return {measure: root / measure for measure in METHODS}


@pytest.fixture(scope="module")
def ecg(world, tmp_path_factory):
    """The third ECG of the store as a file."""
    store = embed_cache.open(world.ecg)
    path = tmp_path_factory.mktemp("ecg") / "one.npy"
    np.save(path, store.read("signal", np.array([2]))[0] * store.read("scale", np.array([2]))[0][:, None])
    path.with_suffix(".json").write_text(json.dumps({"fs_hz": 100, "unit": "mv", "leads": list(LEADS)}))
    return path


LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def found(result, what="study_id"):
    return [study[what] for study in result["found"]]


def changed(run: Path, to: Path, change) -> Path:
    """A copy of a run with another run.json, which stays as relative to its sources as it was."""
    shutil.copytree(run, to)
    facts = json.loads((run / "run.json").read_text())
    facts["paths"] = {kind: [str((run / path).resolve()) for path in paths] for kind, paths in facts["paths"].items()}
    change(facts)
    (to / "run.json").write_text(json.dumps(facts))
    return to


@pytest.mark.parametrize("measure", METHODS)
def test_studies_come_in_the_order_of_the_methods_own_likeness(runs, world, ecg, measure):
    result = story.search(runs[measure], ecg, k=STUDIES)
    student = package.load(runs[measure])
    one = student.embed(np.load(ecg), 100, LEADS)
    query, query_logvar = one.mean.numpy(), None if one.logvar is None else one.logvar.numpy()
    store = embed_cache.open(world.echo)
    groups = np.array(store.index.column("group").to_pylist())
    names = sorted(set(groups))
    mean, logvar = student.embed_studies([store], [np.flatnonzero(groups == name) for name in names])
    if measure == "cosine":
        value = mean @ query[0] / np.linalg.norm(mean, axis=1) / np.linalg.norm(query[0])
        order = np.argsort(-value, kind="stable")
    else:
        value = np.square(mean - query).sum(1) + np.exp(query_logvar).sum() + np.exp(logvar).sum(1)
        order = np.argsort(value, kind="stable")
        np.testing.assert_allclose(found(result, "uncertainty"), np.exp(logvar).sum(1)[order], rtol=1e-4)
        np.testing.assert_allclose(result["ecg"]["uncertainty"], np.exp(query_logvar).sum(), rtol=1e-3)
    assert result["measure"] == measure
    assert found(result) == [names[i] for i in order]
    np.testing.assert_allclose(found(result, measure), value[order], atol=1e-4)
    assert found(result, "views") == [2] * STUDIES


def test_fewer_are_the_first_of_more_whatever_is_held_at_once(runs, ecg, monkeypatch):
    whole = story.search(runs["csd"], ecg, k=STUDIES)
    seen = []
    monkeypatch.setattr(story, "SLICE", 7)
    few = story.search(runs["csd"], ecg, k=4, progress=lambda done, total: seen.append((done, total)))
    assert found(few) == found(whole)[:4]
    assert seen == [(7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]
    assert few["num_studies"] == whole["num_studies"] == STUDIES


def test_what_was_measured_is_told_of_the_found_of_all_and_of_chance(runs, world, ecg):
    result = story.search(runs["csd"], ecg, k=6)
    severity = dict(zip(world.ids, world.severity, strict=True))
    lvef = np.array([45 + 25 * severity[name.removesuffix("-st")] for name in found(result)])
    np.testing.assert_allclose([study["phenotypes"]["lvef"] for study in result["found"]], lvef)
    line = {line["name"]: line for line in result["summary"]}["lvef"]
    everyone = 45 + 25 * world.severity[::2]
    assert line["unit"] == "%"
    for name, values in (("found", lvef), ("store", everyone)):
        quartiles = [line[name][end] for end in ("low", "median", "high")]
        np.testing.assert_allclose(quartiles, np.quantile(values, (0.25, 0.5, 0.75)))
        assert line[name]["n"] == len(values)
    low, high = line["chance"]
    assert everyone.min() < low < np.median(everyone) < high < everyone.max()
    splits = dict(zip(*(tables.read(world.catalog).subjects[c].to_pylist() for c in ("subject_id", "split")), strict=True))
    assert found(result, "split") == [splits[name.removesuffix("-st")] for name in found(result)]


def test_chance_of_all_studies_is_their_median(runs, ecg):
    for line in story.search(runs["csd"], ecg, k=STUDIES)["summary"]:
        np.testing.assert_allclose(line["chance"], [line["store"]["median"]] * 2)
        assert line["found"] == line["store"]


def test_a_stroke_volume_that_no_label_says_is_the_difference_of_the_volumes(runs, ecg, tmp_path):
    other = make_world(tmp_path, subjects=4, family="other", prefix="q")
    path = other.catalog / "labels.parquet"
    labels = pq.read_table(path)
    names = ["edv_ml" if name == "lvef" else "esv_ml" for name in labels["name"].to_pylist()]
    at = labels.column_names.index("name")
    pq.write_table(labels.set_column(at, labels.schema.field(at), pa.array(names).cast(labels.schema.field(at).type)), path)
    result = story.search(runs["csd"], ecg, k=2, stores=[other.echo], catalogs=[other.catalog])
    assert [(line["name"], line["unit"]) for line in result["summary"][1:]] == [
        ("edv_ml", "ml"),
        ("esv_ml", "ml"),
        ("sv_ml", "ml"),
    ]
    for told in found(result, "phenotypes"):
        assert told["sv_ml"] == pytest.approx(told["edv_ml"] - told["esv_ml"])


def test_a_run_that_learnt_from_one_view_finds_by_that_view(runs, ecg, tmp_path):
    def one_view(facts):
        facts["identity"]["recipe"]["data"]["views"] = "PLAX"

    result = story.search(changed(runs["csd"], tmp_path / "run", one_view), ecg, k=3)
    assert found(result, "views") == [1, 1, 1]
    assert any("PLAX" in note for note in result["notes"])


def test_studies_of_people_the_run_never_saw_are_new_and_without_a_catalog_unknown(runs, ecg, tmp_path):
    other = make_world(tmp_path, subjects=4, family="other", prefix="q")
    there = story.search(runs["csd"], ecg, k=2, stores=[other.echo], catalogs=[other.catalog])
    assert found(there, "split") == ["new", "new"]
    bare = story.search(runs["csd"], ecg, k=2, stores=[other.echo])
    assert found(bare, "split") == ["unknown", "unknown"]
    assert found(bare) == found(there)
    assert [line["name"] for line in bare["summary"]] == ["csd"]
    assert "4 of 4 cines are in no catalog" in bare["notes"][0]
    both = story.search(runs["csd"], ecg, k=32, stores=[other.echo, runs["csd"] / _echo(runs["csd"])], catalogs=[other.catalog])
    assert set(found(there)) < set(found(both))


def test_studies_of_two_stores_that_share_a_name_alone_stay_two(runs, ecg, tmp_path):
    other = make_world(tmp_path, subjects=4, family="other", prefix="q")
    store = embed_cache.open(other.echo)
    identity, columns = dict(store.manifest.identity), [embed_cache.Column("moments", (2, DIM), "float16")]
    one = {"moments": store.read("moments", np.array([0]))[0]}
    _store(tmp_path / "more.zarr", "echo", identity, columns, {"x": one}, {"x": "q0000-st"}, counts={"x": 8})
    bare = story.search(runs["csd"], ecg, k=3, stores=[other.echo, tmp_path / "more.zarr"])
    assert sorted(zip(found(bare), found(bare, "views"), strict=True)) == [("q0000-st", 1), ("q0000-st", 2), ("q0002-st", 2)]


def _echo(run):
    return json.loads((run / "run.json").read_text())["paths"]["echos"][0]


def test_the_command_prints_the_studies_and_writes_nothing(runs, ecg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (*runs["csd"].rglob("*"), *ecg.parent.rglob("*"))}
    told = must("search", runs["csd"], ecg, "-k", 3)
    result = json.loads(must("search", runs["csd"], ecg, "-k", 3, "--json"))
    assert before == {path: path.stat().st_mtime_ns for path in (*runs["csd"].rglob("*"), *ecg.parent.rglob("*"))}
    assert not list(tmp_path.iterdir())
    lines = told.splitlines()
    assert re.match(r"The 3 of 30 studies most like this ECG, by csd \(echoing_ecg on resnet_small\); csd:", lines[0])
    assert re.match(r"ECG: 10 s, 12 leads, uncertainty \d", lines[1])
    assert lines[3].split() == ["rank", "study", "csd", "uncertainty", "views", "split", "lvef", "[%]", "wall_mm", "[mm]"]
    assert [line.split()[1] for line in lines[4:7]] == found(result)
    assert "median of 3 at random, 95 %" in lines[8]


def test_a_method_without_variances_shows_none(runs, ecg):
    told = must("search", runs["cosine"], ecg, "-k", 3)
    assert "uncertainty" not in told


def test_one_recording_of_many_is_found_by_its_row(runs, ecg, tmp_path):
    one = np.load(ecg)
    np.save(tmp_path / "many.npy", np.stack([one[:, ::-1], one]))
    given = ("--fs-hz", 100, "--unit", "mv", "--leads", ",".join(LEADS), "-k", 3, "--json")
    result = json.loads(must("search", runs["csd"], tmp_path / "many.npy", "--row", 1, *given))
    assert result["found"] == json.loads(must("search", runs["csd"], ecg, "-k", 3, "--json"))["found"]


def test_a_short_recording_is_said_to_be_padded(runs, ecg, tmp_path):
    np.save(tmp_path / "short.npy", np.load(ecg)[:, :400])
    shutil.copy(ecg.with_suffix(".json"), tmp_path / "short.json")
    assert "ECG: 4 s (padded with 6 s of zeros), 12 leads" in must("search", runs["csd"], tmp_path / "short.npy", "-k", 1)


def written(ecg, to, values=None, **said):
    np.save(to, np.load(ecg) if values is None else values)
    beside = json.loads(ecg.with_suffix(".json").read_text())
    to.with_suffix(".json").write_text(json.dumps({**beside, **said}))
    return to


def cut(ecg, to):
    to.write_bytes(ecg.read_bytes()[:200])
    shutil.copy(ecg.with_suffix(".json"), to.with_suffix(".json"))
    return to


def empty_store(world, to):
    identity = dict(embed_cache.open(world.echo).manifest.identity)
    writer = embed_cache.Writer.create_or_resume(
        to,
        kind="echo",
        identity=identity,
        columns=[embed_cache.Column("moments", (2, DIM), "float16")],
        counts=("num_frames",),
        plan=embed_cache.make_plan(["a"], ["s"], seed=0),
    )
    for part in writer.pending():
        writer.commit(part, {"a": embed_cache.Row("excluded", reason="still")}, {})
    writer.seal({})
    return to


def without_echo(facts):
    facts["teacher"] = None


def of_another_teacher(facts):
    facts["teacher"]["weights_sha256"] = "1" * 64


# What is given instead, the status, and what the line names.
WRONG = {
    "k beyond the store": (lambda w: (w.run, w.ecg, "-k", 31), 2, "-k is 31, but there are 30 studies"),
    "k of 0": (lambda w: (w.run, w.ecg, "-k", 0), 2, "-k"),
    "no such file": (lambda w: (w.run, w.tmp / "gone.hea"), 1, "Error: there is no file {tmp}/gone.hea. Check the path."),
    "no such record": (lambda w: (w.run, w.tmp / "gone"), 1, "Error: there is no file {tmp}/gone. Check the path."),
    "a folder": (lambda w: (w.run, w.tmp), 1, "Error: {tmp} is a folder; give the recording itself."),
    "cut file": (lambda w: (w.run, cut(w.ecg, w.tmp / "cut.npy")), 1, "Error: {tmp}/cut.npy"),
    "z-scores": (lambda w: (w.run, written(w.ecg, w.tmp / "z.npy", unit="zscore")), 1, "unit_not_mv"),
    "no rate": (lambda w: (w.run, written(w.ecg, w.tmp / "r.npy", fs_hz=None)), 1, "--fs-hz"),
    "many and no row": (lambda w: (w.run, written(w.ecg, w.tmp / "m.npy", np.zeros((3, 12, 50)))), 1, "Say it with --row"),
    "no such row": (lambda w: (w.run, w.ecg, "--row", 3), 1, "--row"),
    "flat": (lambda w: (w.run, written(w.ecg, w.tmp / "f.npy", np.zeros((12, 1000)))), 1, "all_flat"),
    "wrong unit": (lambda w: (w.run, w.ecg, "--unit", "volts"), 2, "--unit is 'volts'"),
    "a rate of 0": (lambda w: (w.run, w.ecg, "--fs-hz", 0), 2, "--fs-hz is 0"),
    "ECG in a bucket": (lambda w: (w.run, "s3://lab/one.npy"), 1, "s3://lab/one.npy is in a bucket"),
    "no run": (lambda w: (w.tmp, w.ecg), 1, "no run.json"),
    "no store": (lambda w: (w.run, w.ecg, "--store", w.tmp / "gone.zarr"), 1, "there is no store at"),
    "an ECG store": (lambda w: (w.run, w.ecg, "--store", w.world.ecg), 1, "store of kind 'ecg'"),
    "an empty store": (lambda w: (w.run, w.ecg, "--store", empty_store(w.world, w.tmp / "e.zarr")), 1, "no study has a usable"),
    "no catalog": (lambda w: (w.run, w.ecg, "--catalog", w.tmp / "gone"), 1, "gone"),
    "a run without echo": (lambda w: (changed(w.run, w.tmp / "r", without_echo), w.ecg), 1, "trained without echo"),
    "another teacher": (lambda w: (changed(w.run, w.tmp / "r", of_another_teacher), w.ecg), 1, "weights_sha256 is '0000"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_one_line_that_names_it(wrong, runs, world, ecg, tmp_path):
    class Given:
        run, tmp = runs["csd"], tmp_path

    Given.world, Given.ecg = world, ecg
    words, status, named = WRONG[wrong]
    done = ecgecho("search", *words(Given))
    assert done.returncode == status, done.stderr
    assert named.format(tmp=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("Error: ")
    assert not done.stdout


@pytest.mark.parametrize("wrong", ["no such file", "a folder", "no store"])
def test_what_is_not_there_is_told_before_the_run_is_read(wrong, ecg, tmp_path):
    class Given:
        run, tmp = tmp_path / "no run", tmp_path

    Given.ecg = ecg
    words, status, named = WRONG[wrong]
    done = CliRunner().invoke(app, ["search", *map(str, words(Given))])
    assert done.exit_code == status
    assert "no run" not in done.output
    assert named.format(tmp=tmp_path).removeprefix("Error: ") in str(done.exception)
