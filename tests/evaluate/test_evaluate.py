"""Judging a run end to end: reasons, floors, leaks, another place, the same twice, runs side by side."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))  # the world of random data that training is tested on

from tiny_world import make_world, quick_recipe

from ecgecho import catalog as tables
from ecgecho import embed, evaluate, stats
from ecgecho.cli import app
from ecgecho.report.tables import compare, table
from ecgecho.train import train
from ecgecho.types import UsageError, UserError

torch.set_num_threads(1)
QUICK = {"bootstraps": 100, "settings": ("fine_tune.steps=4", "linear_probe.draws=2")}
METHODS = {
    "clip": ("ecg_clip", "method.on=text", False),
    "student": ("echoing_ecg", "seed=0", True),
    "supervised": ("supervised", "seed=0", False),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A world, and a run of each method in it."""
    root = tmp_path_factory.mktemp("judged")
    world = make_world(root, subjects=120)
    for name, (method, setting, echo) in METHODS.items():
        echos = [world.echo] if echo else []
        recipe = quick_recipe(method, setting)
        train(recipe, catalogs=[world.catalog], ecgs=[world.ecg], echos=echos, out=root / name, device="cpu", progress=False)
    return root


@pytest.fixture(scope="module")
def judged(place):
    return {name: evaluate.evaluate(place / name, **QUICK) for name in METHODS}


def rows_of(result, evaluation):
    return [row for row in result["rows"] if row["evaluation"] == evaluation]


def elsewhere(root, family, seed=1, splits=None):
    world = make_world(root, subjects=60, seed=seed, family=family, splits=splits)
    return {"catalog": world.catalog, "ecg": world.ecg}


def test_every_number_has_its_interval_its_n_and_what_it_is_held_against(judged):
    for result in judged.values():
        for row in result["rows"]:
            assert row["value"] is not None or row["reason"]
            if row["value"] is not None and row["low"] is not None:
                assert row["low"] <= row["value"] <= row["high"]
                assert row["n"] >= row["subjects"] > 0
            if row["evaluation"] in ("zero_shot", "linear_probe", "fine_tune", "supervised") and row["value"] is not None:
                assert row["chance"] is not None
                assert row["metric"] in ("macro_auroc", "balanced_accuracy") or 0 < row["positives"] < row["n"]
        assert all(row["floor"] is not None for row in rows_of(result, "linear_probe") if row["value"] is not None)


def test_an_absent_capability_is_a_row_with_its_reason(judged):
    assert all("without text" in row["reason"] for row in rows_of(judged["supervised"], "zero_shot"))
    assert all("without text" in row["reason"] for row in rows_of(judged["supervised"], "retrieval"))
    assert "variance" in rows_of(judged["clip"], "uncertainty")[0]["reason"]
    assert rows_of(judged["supervised"], "supervised")[0]["value"] is not None
    assert rows_of(judged["clip"], "supervised") == []


def test_other_questions_are_judged_when_they_are_asked(place, tmp_path):
    asked = ("lvef_40_50", "lvef_ge_50")
    result = evaluate.evaluate(place / "student", tasks=asked, evals=["linear_probe"], out=tmp_path / "m.json", bootstraps=50)
    assert tuple(result["tasks"]) == asked
    assert {row["task"] for row in rows_of(result, "linear_probe")} == set(asked)
    with pytest.raises(UsageError, match="Did you mean 'lvef_40_50'"):
        evaluate.evaluate(place / "student", tasks=["lvef_40_55"], out=tmp_path / "m.json")
    with pytest.raises(UsageError, match="Did you mean 'lvef_3'"):
        evaluate.evaluate(place / "student", tasks=["lvef3"], out=tmp_path / "m.json")


def test_ecgs_and_studies_of_the_test_split_ask_for_each_other(place, judged):
    result, catalog = judged["student"], tables.read(place / "catalog")
    split = dict(zip(catalog.subjects["subject_id"].to_pylist(), catalog.subjects["split"].to_pylist(), strict=True))
    own = {s: p for s, p in zip(catalog.clips["study_id"].to_pylist(), catalog.clips["subject_id"].to_pylist(), strict=True)}
    studies = {study for study, person in own.items() if split[person] == "test"}
    assert (result["data"]["studies"]["studies"], result["data"]["studies"]["ecgs"]) == (len(studies), 2 * len(studies))
    seen = pq.read_table(place / "student" / "predictions.parquet").to_pylist()
    asked = [row for row in seen if row["task"] == "study_to_ecg.lvef" and row["metric"] == "precision_at_1"]
    assert {row["ecg_id"] for row in asked} == studies
    (row,) = [r for r in rows_of(result, "phenotype_retrieval") if (r["task"], r["metric"]) == ("study_to_ecg.lvef", "mean_rank")]
    assert (row["unit"], row["n"]) == ("study", len(studies))
    people = {e: p for e, p in zip(catalog.ecgs["ecg_id"].to_pylist(), catalog.ecgs["subject_id"].to_pylist(), strict=True)}
    number = {}
    for line in seen:  # one number a person, in ECGs and studies
        person = people.get(line["ecg_id"]) or own[line["ecg_id"]]
        assert number.setdefault(person, line["subject"]) == line["subject"]


@pytest.mark.parametrize(("name", "said"), [("clip", "ecg_clip was trained without echo"), ("supervised", "without echo")])
def test_a_run_without_an_echo_side_says_so(judged, name, said):
    (row,) = rows_of(judged[name], "phenotype_retrieval")
    assert said in row["reason"]


def test_elsewhere_studies_are_asked_when_their_store_is_named(place, tmp_path):
    world = make_world(tmp_path, subjects=60, family="other", seed=1)
    there = {"catalog": world.catalog, "ecg": world.ecg, "evals": ["phenotype_retrieval"], "bootstraps": 20}
    bare = evaluate.evaluate(place / "student", out=tmp_path / "m.json", **there)
    assert "--echo" in bare["rows"][0]["reason"]
    with_echo = evaluate.evaluate(place / "student", out=tmp_path / "m.json", echo=[world.echo], **there)
    assert with_echo["rows"][0]["value"] is not None
    foreign = make_world(tmp_path / "f", subjects=20, family="other", weights_sha256="1" * 64)
    with pytest.raises(UserError, match="weights_sha256"):
        evaluate.evaluate(place / "student", out=tmp_path / "m.json", **{**there, "echo": [foreign.echo]})


def changed(run, to, change):
    """A copy of a run with another run.json, whose sources stay where they are."""
    shutil.copytree(run, to)
    facts = json.loads((run / "run.json").read_text())
    facts["paths"] = {kind: [str((run / path).resolve()) for path in paths] for kind, paths in facts["paths"].items()}
    change(facts)
    (to / "run.json").write_text(json.dumps(facts))
    return to


def damaged(store):
    for path in store.rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: root / "gone.zarr", "are not there"),
        (lambda root: make_world(root, subjects=20, weights_sha256="1" * 64).echo, "weights_sha256"),
        (lambda root: (echo := make_world(root, subjects=20).echo, damaged(echo))[0], "cannot be used"),
    ],
    ids=["gone", "another teacher", "damaged"],
)
def test_echo_stores_that_cannot_be_used_are_a_reason_where_they_are_asked_for(place, tmp_path, harm, said):
    echo = harm(tmp_path / "w")
    run = changed(place / "student", tmp_path / "run", lambda facts: facts["paths"].update(echos=[str(echo)]))
    result = evaluate.evaluate(run, evals=["knn", "phenotype_retrieval"], labels_share=(1.0,), bootstraps=10)
    (row,) = rows_of(result, "phenotype_retrieval")
    assert said in row["reason"]
    assert str(tmp_path) not in json.dumps(result)
    assert rows_of(result, "knn")[0]["value"] is not None
    with pytest.raises(ValueError, match=r"."):  # what was named by hand has to do
        evaluate.evaluate(run, evals=["phenotype_retrieval"], echo=[echo], bootstraps=10)


LOOKS_AT_STUDIES = '''"""How many studies there are."""
from dataclasses import dataclass
from ecgecho.types import EvalRow
NEEDS_STUDIES = {needs}
@dataclass(frozen=True)
class Config: pass
class Count:
    def run(self, inputs):
        return [EvalRow(evaluation="count", task="", metric="n", value=inputs.studies and float(len(inputs.studies.mean)))]
def build(config): return Count()
'''


def test_studies_are_embedded_only_for_an_evaluation_that_needs_them(place, tmp_path, judged, monkeypatch):
    (tmp_path / "needs.py").write_text(LOOKS_AT_STUDIES.format(needs=True))
    (tmp_path / "not.py").write_text(LOOKS_AT_STUDIES.format(needs=False))
    there = {"out": tmp_path / "m.json", "bootstraps": 20}
    one = evaluate.evaluate(place / "student", evals=[str(tmp_path / "needs.py")], **there)
    assert one["rows"][0]["value"] == judged["student"]["data"]["studies"]["studies"]
    monkeypatch.setattr(embed.Student, "open_echo", None)
    other = evaluate.evaluate(place / "student", evals=[str(tmp_path / "not.py")], **there)
    assert other["rows"][0]["value"] is None
    assert "studies" not in other["data"]


def test_a_study_further_than_the_runs_own_window_says_nothing(place, tmp_path):
    def week(facts):
        facts["identity"]["recipe"]["data"]["window_days"] = 7.0

    run = changed(place / "student", tmp_path / "run", week)
    world = make_world(tmp_path / "w", subjects=60, family="other", seed=1)
    pairs = pq.read_table(world.catalog / "pairs.parquet")
    at = pairs.column_names.index("gap_days")
    far = [gap and (20.0 if k % 4 else 1.0) for k, gap in enumerate(pairs["gap_days"].to_pylist())]
    pq.write_table(pairs.set_column(at, pairs.schema.field(at), pa.array(far, pairs.schema.field(at).type)), tmp_path / "p")
    shutil.copy(tmp_path / "p", world.catalog / "pairs.parquet")
    there = {"catalog": world.catalog, "ecg": world.ecg, "echo": [world.echo], "evals": ["phenotype_retrieval"], "bootstraps": 10}
    ecgs = {}
    for days in (None, 7.0, 30.0):
        data = evaluate.evaluate(run, window_days=days, out=tmp_path / "m.json", **there)["data"]
        ecgs[days] = data["studies"]["ecgs"]
        assert data["window_days"] == (days or 7.0)
    assert 0 < ecgs[None] == ecgs[7.0] < ecgs[30.0]
    with pytest.raises(UsageError, match=r"the window is 0\.1 days"):
        evaluate.evaluate(run, window_days=0.1, **there)


def test_the_command_takes_a_window(place, monkeypatch):
    class Seen(Exception):
        pass

    def see(run, **how):
        raise Seen(how["window_days"])

    monkeypatch.setattr(evaluate, "evaluate", see)
    for words, days in (([], None), (["--window-days", "7.5"], 7.5)):
        done = CliRunner().invoke(app, ["eval", str(place / "student"), *words])
        assert isinstance(done.exception, Seen), done.output
        assert done.exception.args == (days,)


def test_features_are_fitted_on_when_they_are_asked_for(place, tmp_path):
    there = {"evals": ["knn"], "labels_share": (1.0,), "bootstraps": 10, "out": tmp_path / "m.json"}
    usual = evaluate.evaluate(place / "student", **there)
    result = evaluate.evaluate(place / "student", settings=["knn.on=features"], **there)
    assert "on" not in usual["evals"]["knn"]
    assert result["evals"]["knn"]["on"] == "features"
    for name in ("knn", "floor.knn"):
        values = [[row["value"] for row in rows_of(each, name)] for each in (usual, result)]
        assert len(values[0]) == len(values[1]) > 0
        assert values[0] != values[1]


def test_shares_of_the_labels_stand_side_by_side(place, tmp_path):
    evals = ["linear_probe", "knn"]
    result = evaluate.evaluate(
        place / "student", evals=evals, labels_share=(1.0, 0.5, 0.002, 0.2), out=tmp_path / "m.json", bootstraps=20
    )
    assert result["labels_share"] == [0.002, 0.2, 0.5, 1.0]
    text = table(result)
    head = next(line for line in text.splitlines() if line.startswith("task"))
    assert re.findall(r"[\d.]+ % labels", head) == ["0.2 % labels", "20 % labels", "50 % labels", "100 % labels"]
    assert "less than one of each of 2 classes (linear_probe at 0.2 %, knn at 0.2 %)" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(UsageError, match="at most 1"):
        evaluate.evaluate(place / "student", labels_share=(10.0,))


def test_metrics_json_is_what_was_returned_and_names_its_causes(place, judged):
    written = json.loads((place / "student" / "metrics.json").read_text())
    assert written == judged["student"]
    assert written["schema"] == "ecgecho.metrics"
    assert written["version"] == 1
    assert len(written["data"]["ecg_stores"][0]) == len(written["run"]["weights_sha256"]) == 64
    assert written["seed"] == 0
    assert str(place) not in json.dumps(written)


def test_a_call_for_less_leaves_the_whole_result_as_it_is(place, judged):
    run, less = place / "student", {"evals": ["knn"], "tasks": ["lvef_lt_40"], "bootstraps": 20}
    before = {name: (run / name).read_bytes() for name in ("metrics.json", "predictions.parquet")}
    result = evaluate.evaluate(run, settings=["knn.k=3"], **less)
    assert {name: (run / name).read_bytes() for name in before} == before
    assert evaluate.place(run, None, result) == run / "metrics.knn.json"
    assert json.loads((run / "metrics.knn.json").read_text())["evals"]["knn"]["k"] == 3
    assert (run / "metrics.knn.predictions.parquet").is_file()
    assert "student" in compare([("student", run / "metrics.knn.json")])


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (None, "metrics.json"),
        ("{", "metrics.json"),
        ('{"schema": "another"}', "metrics.json"),
        ({"evals": {"knn": {}}}, "metrics.json"),
        ({"evals": {"knn": {}, "floor": {}}}, "metrics.knn.json"),
        ({"tasks": {"a": "A", "b": "B"}}, "metrics.knn.json"),
        ({"classes": {"c": {}}}, "metrics.knn.json"),
        ({"labels_share": [0.1, 1.0]}, "metrics.knn.json"),
    ],
)
def test_a_result_goes_beside_one_that_holds_more(tmp_path, there, name):
    asked = {"schema": "ecgecho.metrics", "version": 1, "evals": {"knn": {}}, "tasks": {"a": "A"}, "classes": {}}
    asked["labels_share"] = [1.0]
    if there is not None:
        text = there if isinstance(there, str) else json.dumps({**asked, **there})
        (tmp_path / "metrics.json").write_text(text)
    assert evaluate.place(tmp_path, None, asked).name == name


def test_judging_twice_gives_the_same_digest(place, judged):
    again = evaluate.evaluate(place / "student", out=place / "again.json", **QUICK)
    assert again["digest"] == judged["student"]["digest"]
    other = evaluate.evaluate(place / "student", evals=["zero_shot"], seed=1, bootstraps=100, out=place / "again.json")
    assert other["digest"] != again["digest"]


def test_labels_and_splits_of_the_test_rows_are_the_catalogs(place, judged):
    catalog = tables.read(place / "catalog")
    split = dict(zip(catalog.subjects["subject_id"].to_pylist(), catalog.subjects["split"].to_pylist(), strict=True))
    owner = dict(zip(catalog.ecgs["ecg_id"].to_pylist(), catalog.ecgs["subject_id"].to_pylist(), strict=True))
    labels = catalog.labels_named("lvef")
    lvef = dict(zip(labels["subject_id"].to_pylist(), labels["value"].to_pylist(), strict=True))
    whole = pq.read_table(place / "student" / "predictions.parquet").to_pylist()
    owner_of = dict(zip(catalog.clips["study_id"].to_pylist(), catalog.clips["subject_id"].to_pylist(), strict=True))
    assert {split[owner_of[row["ecg_id"]]] for row in whole if row["unit"] == "study"} == {"test"}
    seen = [row for row in whole if row["unit"] == "ecg"]
    for row in seen:
        assert split[owner[row["ecg_id"]]] == "test"
        if row["task"] == "lvef_lt_40":
            assert row["y"] == (lvef[owner[row["ecg_id"]]] < 40)
    tested = {row["ecg_id"] for row in seen}
    assert tested == {e for e, s in owner.items() if split[s] == "test"}


def test_predictions_give_back_the_printed_numbers(place, judged):
    written = pq.read_table(place / "student" / "predictions.parquet").to_pylist()
    for row in rows_of(judged["student"], "zero_shot"):
        if row["metric"] == "auroc":
            mine = [r for r in written if r["evaluation"] == "zero_shot" and r["task"] == row["task"]]
            assert stats.auroc([r["y"] for r in mine], [r["score"] for r in mine]) == row["value"]


def test_the_floor_is_another_encoder_and_the_student_is_left_as_it_was(place):
    student = embed.load(place / "student")
    signals = student.open_signals(student.source_paths("ecgs"))
    rows = np.arange(8)
    before, _ = student.embed_rows(signals, rows)
    floor, _ = embed.Student.random(student, 0).embed_rows(signals, rows)
    tune = evaluate.FineTuner(student=student, signals=signals, rows=rows)
    y = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    first = tune(rows, y, rows, y, rows, steps=3, batch_size=4, learning_rate=1e-2, seed=0)
    again = tune(rows, y, rows, y, rows, steps=3, batch_size=4, learning_rate=1e-2, seed=0)
    after, _ = student.embed_rows(signals, rows)
    assert not np.allclose(before, floor)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(first, again)


def test_fine_tuning_learns_what_the_signal_shows(place):
    student = embed.load(place / "student")
    signals = student.open_signals(student.source_paths("ecgs"))
    loud = signals.take(np.arange(len(signals.rows)))[0].std((1, 2)).numpy()
    y = (loud > np.median(loud)).astype(np.int64)
    rows = np.arange(len(loud))
    tune = evaluate.FineTuner(student=student, signals=signals, rows=rows)
    train_rows, val, test = rows[:140], rows[140:180], rows[180:]
    scored = tune(train_rows, y[:140], val, y[140:180], test, steps=40, batch_size=32, learning_rate=3e-3, seed=0)
    assert stats.auroc(y[180:], scored) > 0.9


def test_another_family_is_judged_with_a_note(place, tmp_path):
    there = elsewhere(tmp_path, "other")
    result = evaluate.evaluate(place / "student", evals=["zero_shot"], out=tmp_path / "m.json", **there, bootstraps=50)
    assert result["data"]["elsewhere"]
    assert "cannot be compared" in result["data"]["notes"][0]
    assert (tmp_path / "m.predictions.parquet").is_file()


def test_the_same_people_under_pseudonyms_are_not_judged(place, tmp_path):
    there = elsewhere(tmp_path, "private:0123")
    about = there["catalog"] / "catalog.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "origin": "tiny"}))
    with pytest.raises(UserError, match="both come from the people of tiny"):
        evaluate.evaluate(place / "student", out=tmp_path / "m.json", **there)


def test_the_same_family_elsewhere_is_judged_on_its_test_split_without_a_note(place, tmp_path):
    there = elsewhere(tmp_path, "tiny")
    result = evaluate.evaluate(place / "student", evals=["zero_shot"], out=tmp_path / "m.json", **there, bootstraps=50)
    assert result["data"]["notes"] == []


def test_test_subjects_that_the_run_was_trained_on_are_refused_and_counted(place, tmp_path):
    trained = tables.read(place / "catalog").subjects.to_pylist()[:60]
    splits = ["test" if row["split"] == "train" else row["split"] for row in trained]
    there = elsewhere(tmp_path, "tiny", splits=splits)
    number = sum(row["split"] == "train" for row in trained)
    with pytest.raises(UserError, match=f"^{number} subjects of the test split") as caught:
        evaluate.evaluate(place / "student", out=tmp_path / "m.json", **there)
    assert "p0000" not in str(caught.value)
    assert not (tmp_path / "m.json").exists()


def test_when_the_training_catalog_is_gone_the_rule_decides(place, tmp_path):
    run = tmp_path / "runs" / "moved"  # its relative paths lead nowhere
    shutil.copytree(place / "student", run)
    with pytest.raises(UserError, match="--catalog"):
        evaluate.evaluate(run)
    by_rule = evaluate.evaluate(run, evals=["zero_shot"], **elsewhere(tmp_path / "a", "tiny"), bootstraps=50)
    assert "alone" in by_rule["data"]["notes"][0]
    official = elsewhere(tmp_path / "b", "tiny", splits=["train", "val", "test"] * 20)
    with pytest.raises(UserError, match="official split"):
        evaluate.evaluate(run, **official)


def test_a_store_of_another_contract_is_refused_with_the_field_that_differs(place, tmp_path):
    from dataclasses import replace

    student = embed.load(place / "student")
    world = make_world(tmp_path, subjects=30, family="other", contract=replace(student.contract, fs_hz=250.0))
    with pytest.raises(UserError, match="fs_hz"):
        evaluate.evaluate(place / "student", catalog=world.catalog, ecg=world.ecg, out=tmp_path / "m.json")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"evals": ["zero_shoot"]}, "zero_shot"),
        ({"settings": ["fine_tune.stepz=3"]}, "steps"),
        ({"settings": ["retrival.ks=[1]"]}, "retrieval"),
        ({"catalog": Path("x")}, "--ecg"),
        ({"ecg": Path("x")}, "--catalog"),
    ],
)
def test_wrong_usage_is_answered_with_the_near_miss(place, given, said):
    with pytest.raises(UsageError, match=said):
        evaluate.evaluate(place / "student", **given)


def test_a_cohort_without_measurements_and_reports_is_refused_and_without_measurements_has_reasons(place, tmp_path):
    world = make_world(tmp_path, subjects=60, family="other")
    (world.catalog / "labels.parquet").unlink()
    result = evaluate.evaluate(place / "student", catalog=world.catalog, ecg=world.ecg, out=tmp_path / "m.json", **QUICK)
    for row in result["rows"]:
        assert (row["value"] is None) == (row["task"] != "text_to_ecg")
        assert row["value"] is not None or row["reason"]
    table(result)
    pairs = pq.read_table(world.catalog / "pairs.parquet").to_pylist()
    schema = tables.SCHEMAS["pairs"]
    pq.write_table(
        pa.Table.from_pylist([{**row, "text_id": None, "study_id": None} for row in pairs], schema=schema),
        world.catalog / "pairs.parquet",
    )
    with pytest.raises(UserError, match="test split"):
        evaluate.evaluate(place / "student", catalog=world.catalog, ecg=world.ecg, out=tmp_path / "m.json")


def test_the_table_prints_every_row_and_no_nan(judged):
    for result in judged.values():
        text = table(result)
        printed = [row for row in result["rows"] if row["metric"] != "average_precision"]
        lines = [row for row in printed if not row["evaluation"].startswith("phenotype_retrieval")]
        evaluations = {row["evaluation"] for row in lines}
        body = [line for line in text.split("\n\n")[1].splitlines()[2:] if not re.match(r"\(\d+\) |    ", line)]
        assert len(body) == len(lines) + len(evaluations)
        assert max(map(len, text.splitlines())) <= 120
        assert "nan" not in text.lower()
        assert "None" not in text
        told = " ".join(text.split())
        for row in printed:
            assert row["evaluation"].endswith(".oracle") or row["reason"] in told


def test_runs_stand_side_by_side_with_their_floor_and_paired_gains(place, judged):
    files = [(name, place / name / "metrics.json") for name in METHODS]
    text = compare(files)
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[4:8]] == ["floor (random encoder)", *METHODS]
    assert "All were trained for 12 steps." in text
    assert "student minus clip" in text
    for block, column in (("nearest neighbours", "floor"), ("several classes", "floor"), ("ECG and echo study", "oracle")):
        head = next(line for line in lines if line.startswith(block))
        assert column in head
    assert "student minus clip, paired" in next(line for line in lines if line.startswith("nearest neighbours"))
    assert "nan" not in text
    itself = compare([files[0], files[0]])
    assert "+0.000 [+0.00, +0.00]" in itself


def test_runs_judged_on_different_ecgs_are_not_set_against_each_other(place, tmp_path):
    other = elsewhere(tmp_path, "other")
    evaluate.evaluate(place / "student", evals=["zero_shot"], out=tmp_path / "m.json", **other, bootstraps=50)
    text = compare([("here", place / "student" / "metrics.json"), ("there", tmp_path / "m.json")])
    assert "not judged on the same ECGs" in text
    assert "minus" not in text


def test_a_simulated_cohort_says_so_everywhere(place, tmp_path):
    there = elsewhere(tmp_path, "other")
    (tables.read(there["catalog"]).root / "simulated.json").write_text("{}")
    result = evaluate.evaluate(place / "student", evals=["zero_shot"], out=tmp_path / "m.json", **there, bootstraps=50)
    assert table(result).startswith("SIMULATED")
    assert compare([("student", tmp_path / "m.json")]).startswith("SIMULATED")


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([9, 5, 3, 2, 1, 1, 1, 1, 1, 1], True),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1.5, 1], False),
        ([9, 5], None),
        ([9, 3, 1, 1, 2, 3, 4, 5], True),
    ],
)
def test_a_run_has_levelled_off_when_its_validation_loss_no_longer_falls(tmp_path, losses, verdict):
    lines = [json.dumps({"kind": "val", "step": 10 * (k + 1), "loss": loss}) for k, loss in enumerate(losses)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert evaluate._has_levelled_off(tmp_path / "metrics.jsonl") is verdict
