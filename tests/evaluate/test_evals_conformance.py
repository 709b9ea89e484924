"""Every evaluation: perfect embeddings score 1, shuffled ones score chance, the order of the rows changes nothing."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from ecgecho import config, plugins
from ecgecho.evals import zero_shot
from ecgecho.types import Classes, EvalInputs, Phenotype, StudyInputs, Task, UsageError

TASKS = (
    Task(name="lvef_lt_40", label="lvef", op="<", threshold=40, unit="%", title="LVEF < 40 %"),
    Task(name="severe_lvh", label="wall_mm", op=">=", threshold=16, unit="mm", title="wall >= 16 mm"),
)
NUM_ECGS, NUM_SUBJECTS, DIM = 900, 500, 7
CLASSES = Classes(name="three", tasks=("lvef_lt_40", "severe_lvh", "neither"), title="three classes")
FITTED = ("linear_probe", "knn")
POSITIVE = {s: pair.task for pair in zero_shot.PROMPTS for s in pair.positive}
NAMES = plugins.names("evals")


def axis_of(task):
    return np.eye(DIM, dtype=np.float32)[[t.name for t in TASKS].index(task)]


def prompt_vectors(texts):
    """What affirms a task lies on its axis, what denies it on the last, where no ECG lies."""
    return np.stack([axis_of(POSITIVE[t]) if t in POSITIVE else np.eye(DIM, dtype=np.float32)[-1] for t in texts])


def linear_fit(mean):
    """A stand-in for training the encoder: least squares on the embedding itself."""

    def run(train, y_train, val, y_val, judge, *, steps, batch_size, learning_rate, seed):
        weights = np.linalg.lstsq(np.c_[mean[train], np.ones(len(train))], 2.0 * y_train - 1, rcond=1e-6)[0]
        return np.c_[mean[judge], np.ones(len(judge))] @ weights

    return run


def inputs(*, shuffled=False, seed=0, order=None, **changes):
    """Embeddings that hold both labels on two axes and the report on the others; shuffled, they hold those of someone else."""
    rng = np.random.default_rng(seed)
    subject = np.sort(rng.integers(0, NUM_SUBJECTS, NUM_ECGS))
    split = np.array(["train"] * 6 + ["val"] * 1 + ["test"] * 3)[subject % 10]
    ill = rng.random((NUM_SUBJECTS, 2)) < 0.3
    y = np.where(rng.random((NUM_ECGS, 2)) < 0.1, -1, ill[subject])
    text_key = np.where(rng.random(NUM_ECGS) < 0.05, -1, np.arange(NUM_ECGS) // 2)
    text = rng.normal(size=(NUM_ECGS, DIM)).astype(np.float32)
    text[:, [0, 1, -1]] = 0
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    mean = np.concatenate([2 * ill[subject] - 1.0, np.zeros((NUM_ECGS, DIM - 2))], axis=1).astype(np.float32)
    mean *= 0.1
    mean += text[np.arange(NUM_ECGS) // 2]
    logvar = rng.normal(size=(NUM_ECGS, DIM)).astype(np.float32)
    floor = rng.normal(size=(NUM_ECGS, 4)).astype(np.float32)
    if shuffled:
        mean = mean[rng.permutation(NUM_SUBJECTS)[subject] % NUM_ECGS]
        mean = rng.permutation(mean)
    order = np.arange(NUM_ECGS) if order is None else order
    mean = mean[order]
    number = np.where((y < 0).any(1), -1, np.where(ill[subject, 0], 0, np.where(ill[subject, 1], 1, 2)))
    values = {
        "mean": mean,
        "logvar": logvar[order],
        "subject": subject[order],
        "split": split[order],
        "tasks": TASKS,
        "labels": {t.name: y[order, k] for k, t in enumerate(TASKS)},
        "classes": {CLASSES: number[order]},
        "text_key": text_key[order],
        "text_mean": text,
        "embed_texts": prompt_vectors,
        "floor_mean": floor[order],
        "predictions": {t.name: mean[:, k].copy() for k, t in enumerate(TASKS)},
        "fine_tune": linear_fit(mean),
        "bootstraps": 100,
    }
    return EvalInputs(**(values | changes))


def inputs_of(name, **how):
    """Where an evaluation looks at lengths or at studies, embeddings that hold the labels, or a measurement, by these."""
    given = inputs(**how)
    if name == "knn":
        far = given.mean * np.array([100, 100] + [1] * (DIM - 2), np.float32)
        apart = np.random.default_rng(1).normal(0, 1e-3, far.shape)  # of equally near rows the first votes
        order = how.get("order", np.arange(NUM_ECGS))
        return dataclasses.replace(given, mean=far + apart[order].astype(np.float32))
    if name == "phenotype_retrieval":
        return with_studies(given, **how)
    return given


def with_studies(given, *, shuffled=False, seed=0, order=None):
    """A study of each subject of the test split; on a half circle ECGs and studies lie at the angle of what was measured."""
    rng = np.random.default_rng(seed + 70)
    measured = rng.random(NUM_SUBJECTS)
    people = np.unique(given.subject[given.split == "test"])
    place = np.searchsorted(people, given.subject).clip(max=len(people) - 1)
    anything = rng.random(NUM_ECGS)[np.arange(NUM_ECGS) if order is None else order]
    angle = np.pi * (anything if shuffled else measured[given.subject])
    where = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    truth = np.pi * (rng.permutation(measured[people]) if shuffled else measured[people])  # else matches lie side by side
    studies = StudyInputs(
        mean=np.stack([np.cos(truth), np.sin(truth)], axis=1).astype(np.float32),
        logvar=None,
        subject=people,
        of_ecg=np.where(given.split == "test", place, -1),
        phenotypes=(Phenotype(name="lvef", title="LVEF", unit="%", values=100 * measured[people]),),
    )
    return dataclasses.replace(given, mean=where, studies=studies)


def rows_of(name, given):
    module = plugins.load("evals", name)
    # The laws hold for any number of draws and costs; most of the time is theirs.
    few = {"knn": ["draws=2"], "linear_probe": ["draws=2", "costs=[0.01,1]"]}.get(name, [])
    return module.build(config.override(module.Config(), few)).run(given)


@functools.cache
def usual_rows(name, *, shuffled, seed=0):
    return rows_of(name, inputs_of(name, shuffled=shuffled, seed=seed))


@pytest.mark.parametrize("name", NAMES)
def test_perfect_embeddings_score_1(name):
    rows = usual_rows(name, shuffled=False)
    assert rows
    for row in rows:
        if row.evaluation.startswith("floor"):
            continue
        assert row.value == pytest.approx(0.0 if row.subset == "low - high" else 1.0, abs=1e-9), row
        assert row.n > 0
        assert row.low is None or row.low <= row.value <= row.high
        assert (row.low is None) == row.reason.startswith("no interval: all"), row


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_embeddings_score_chance_within_the_interval(name):
    values = {}
    for seed in range(3):
        for row in usual_rows(name, shuffled=True, seed=seed):
            if row.evaluation.endswith(".oracle"):
                continue
            chance = 0.0 if row.subset == "low - high" else row.chance
            if chance is None:  # the halves do not repeat the chance of the whole
                chance = {"recall_at_1": 2 / 280, "recall_at_10": 20 / 280}.get(row.metric, 0.5)
            key = (row.evaluation, row.task, row.metric, row.share, row.subset)
            values.setdefault(key, []).append((row.value - chance, 0.0 if row.low is None else row.high - row.low))
    for key, found in values.items():
        offset, width = np.mean(found, axis=0)
        assert abs(offset) <= max(width, 0.02), (key, found)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_rows_changes_nothing(name):
    order = np.random.default_rng(9).permutation(NUM_ECGS)
    a, b = usual_rows(name, shuffled=True), rows_of(name, inputs_of(name, shuffled=True, order=order))
    for one, other in zip(a, b, strict=True):
        assert (one.evaluation, one.task, one.metric, one.n, one.positives, one.reason) == (
            (other.evaluation, other.task, other.metric, other.n, other.positives, other.reason)
        )
        # The probe's optimiser adds up in another order, so two near scores may change places.
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_run_cannot_do_is_a_row_with_its_reason(name):
    absent = {
        "text": "no text",
        "fine_tune": "no encoder",
        "supervised": "no labels",
        "uncertainty": "no variance",
        "echo": "none",
    }
    bare = inputs(logvar=None, text_mean=None, embed_texts=None, predictions={}, fine_tune=None, floor_mean=None, absent=absent)
    for row in rows_of(name, bare):
        assert row.value is not None or row.reason
        if name not in FITTED:
            assert (row.value, row.reason) in [(None, reason) for reason in absent.values()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["one class", "empty"])
def test_a_degenerate_split_is_a_reason_and_never_a_crash_or_a_nan(name, split, kind):
    given = inputs_of(name)
    hit = given.split == split
    if kind == "one class":
        given = dataclasses.replace(
            given,
            labels={k: np.where(hit & (v > 0), 0, v) for k, v in given.labels.items()},
            classes={k: np.where(hit & (v > 0), 0, v) for k, v in given.classes.items()},
        )
    else:
        given = dataclasses.replace(given, split=np.where(hit, "none", given.split))
    for row in rows_of(name, given):
        assert row.reason or None not in (row.value, row.low, row.high)
        numbers = [row.value, row.low, row.high, row.floor, row.gain, row.chance]
        assert all(v is None or np.isfinite(v) for v in numbers)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_survives_json(name):
    module = plugins.load("evals", name)
    text = json.dumps(config.to_json(module.Config()))
    assert config.from_json(module.Config, json.loads(text)) == module.Config()


@pytest.mark.parametrize("name", ["zero_shot", "linear_probe", "knn", "fine_tune", "supervised"])
def test_no_threshold_looks_at_the_test_labels(name):
    given = inputs_of(name, shuffled=True)
    test = given.split == "test"
    turned = dataclasses.replace(given, labels={k: np.where(test & (v >= 0), 1 - v, v) for k, v in given.labels.items()})
    for one, other in zip(usual_rows(name, shuffled=True), rows_of(name, turned), strict=True):
        if one.metric == "balanced_accuracy" and one.task in given.labels:
            assert one.value + other.value == pytest.approx(1.0)


@pytest.mark.parametrize(("fitted", "floor"), [("linear_probe", "floor"), ("knn", "floor.knn")])
def test_the_floor_stands_beside_the_probe_with_a_paired_gain(fitted, floor):
    rows = usual_rows(fitted, shuffled=False)
    probes, floors = ([row for row in rows if row.evaluation == name] for name in (fitted, floor))
    assert {row.metric for row in probes if row.task == "three"} == {"macro_auroc", "balanced_accuracy"}
    assert [row.floor for row in probes] == [row.value for row in floors]
    for row in probes:
        assert row.gain == pytest.approx(row.value - row.floor)
        assert row.gain_low <= row.gain <= row.gain_high
        assert row.gain_low > 0


def test_equal_reports_count_as_hits_and_chance_counts_them_too():
    # All ECGs lie on one point, half of them share one report: every rank is drawn blindly, so the score is chance exactly.
    n = 40
    given = inputs()
    same = dataclasses.replace(
        given,
        mean=np.ones_like(given.mean),
        split=np.where(np.arange(NUM_ECGS) < n, "test", "none"),
        text_key=np.where(np.arange(NUM_ECGS) < n // 2, 0, np.arange(NUM_ECGS)),
    )
    for row in rows_of("retrieval", same):
        assert row.value == pytest.approx(row.chance)
    by_hand = 0.5 * 0.5 + 0.5 / n
    assert rows_of("retrieval", same)[0].chance == pytest.approx(by_hand)


def test_prompts_that_embed_alike_are_a_reason_not_a_half():
    blind = inputs(embed_texts=lambda texts: np.ones((len(texts), DIM), np.float32))
    assert [row.value for row in rows_of("zero_shot", blind)] == [None, None]


def test_below_all_labels_the_score_is_the_mean_over_draws_whose_range_is_told():
    for row in usual_rows("knn", shuffled=True):
        if row.share == 1:
            assert row.draws is None
        else:
            assert row.draws == 2
            assert row.draws_low <= row.value <= row.draws_high
            assert row.draws_low + row.draws_high == pytest.approx(2 * row.value)


@pytest.mark.parametrize("name", [*FITTED, "uncertainty"])
def test_features_are_looked_at_instead_of_embeddings_when_that_is_asked(name):
    given = inputs_of("knn", shuffled=name == "uncertainty")
    module, inner = plugins.load("evals", name), "linear_probe." if name == "uncertainty" else ""
    few = ["draws=2"] if name == "knn" else [f"{inner}draws=2", f"{inner}costs=[0.01]"]
    plain, asked = (module.build(config.override(module.Config(), [*few, f"{inner}on={on}"])) for on in ("embedding", "features"))
    blind = dataclasses.replace(given, mean=np.zeros_like(given.mean), floor_mean=None)
    usual = {(r.evaluation, r.task, r.metric, r.share, r.subset): r.value for r in plain.run(given)}
    found = {(r.evaluation, r.task, r.metric, r.share, r.subset): r for r in asked.run(
        dataclasses.replace(blind, features=given.mean, floor_features=given.floor_mean)
    )}  # fmt: skip
    own = [key for key in usual if key[0] in (name, "floor", "floor.knn", "uncertainty.linear_probe")]
    assert own
    assert [found[key].value for key in own] == [usual[key] for key in own]
    absent = asked.run(dataclasses.replace(blind, absent={"features": "none here"}))
    assert {row.reason for row in absent if row.evaluation in (name, "uncertainty.linear_probe")} == {"none here"}


@pytest.mark.parametrize("name", FITTED)
def test_a_share_that_holds_less_than_one_of_each_class_is_a_reason(name):
    rows = rows_of(name, inputs(shares=(0.004, 0.009)))
    asked = {(row.task, row.share): row for row in rows if row.evaluation == name}
    assert "less than one of each of 2 classes" in asked["severe_lvh", 0.004].reason
    assert "less than one of each of 3 classes" in asked["three", 0.009].reason
    if name == "knn":  # a few subjects have both classes, and fewer ECGs than neighbours are asked for
        assert "5 are needed" in asked["severe_lvh", 0.009].reason
    else:
        assert asked["severe_lvh", 0.009].value is not None


def test_a_class_between_two_others_is_found_by_the_probe():
    level = np.random.default_rng(0).uniform(-1, 1, NUM_ECGS)
    number = np.digitize(level, [-0.4, 0.4])
    given = inputs(shares=(1.0,))
    given = dataclasses.replace(given, mean=level[:, None].astype(np.float32), classes={CLASSES: number}, tasks=(), labels={})
    (row,) = [r for r in rows_of("linear_probe", given) if (r.evaluation, r.metric) == ("linear_probe", "macro_auroc")]
    assert row.value > 0.99
    absent = dataclasses.replace(given, classes={CLASSES: np.where((given.split == "test") & (number == 1), 0, number)})
    (row,) = [r for r in rows_of("linear_probe", absent) if r.evaluation == "linear_probe"]
    assert row.reason == "the test split has no ECG of the class severe_lvh"


def test_zero_shot_of_ecgs_that_have_collapsed_is_chance_exactly():
    given = inputs()
    same = np.random.default_rng(3).normal(size=(1, DIM)).astype(np.float32)
    blind = dataclasses.replace(given, mean=np.repeat(same, len(given.mean), 0))
    found = [row for row in rows_of("zero_shot", blind) if row.metric == "auroc"]
    assert [row.value for row in found] == [0.5] * len(TASKS)


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("knn", "k=0", r"knn\.k is 0; it must be 1 or more\."),
        ("knn", "draws=-1", r"knn\.draws is -1"),
        ("linear_probe", "draws=0", r"linear_probe\.draws is 0"),
        ("fine_tune", "steps=0", r"fine_tune\.steps is 0"),
        ("retrieval", "ks=[]", r"retrieval\.ks is empty"),
        ("phenotype_retrieval", "ks=[1,0]", r"phenotype_retrieval\.ks is 0"),
    ],
)
def test_a_setting_below_one_is_wrong_usage_before_anything_is_embedded(name, word, said):
    with pytest.raises(UsageError, match=said):
        config.override(plugins.load("evals", name).Config(), [word])
