"""Every evaluation: perfect embeddings score 1, shuffled ones score chance, the order of the rows changes nothing."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from ecgecho import config, plugins
from ecgecho.evals import zero_shot
from ecgecho.types import EvalInputs, Task

TASKS = (
    Task(name="lvef_lt_40", label="lvef", op="<", threshold=40, unit="%", title="LVEF < 40 %"),
    Task(name="severe_lvh", label="wall_mm", op=">=", threshold=16, unit="mm", title="wall >= 16 mm"),
)
NUM_ECGS, NUM_SUBJECTS, DIM = 900, 500, 7
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
    values = {
        "mean": mean,
        "logvar": logvar[order],
        "subject": subject[order],
        "split": split[order],
        "tasks": TASKS,
        "labels": {t.name: y[order, k] for k, t in enumerate(TASKS)},
        "text_key": text_key[order],
        "text_mean": text,
        "embed_texts": prompt_vectors,
        "floor_mean": floor[order],
        "predictions": {t.name: mean[:, k].copy() for k, t in enumerate(TASKS)},
        "fine_tune": linear_fit(mean),
        "bootstraps": 100,
    }
    return EvalInputs(**(values | changes))


def rows_of(name, given):
    module = plugins.load("evals", name)
    # The laws hold for any number of draws; most of the time is theirs.
    few = ["draws=2"] if name == "linear_probe" else []
    return module.build(config.override(module.Config(), few)).run(given)


@functools.cache
def usual_rows(name, *, shuffled, seed=0):
    return rows_of(name, inputs(shuffled=shuffled, seed=seed))


@pytest.mark.parametrize("name", NAMES)
def test_perfect_embeddings_score_1(name):
    rows = usual_rows(name, shuffled=False)
    assert rows
    for row in rows:
        if row.evaluation == "floor":
            continue
        assert row.value == pytest.approx(0.0 if row.subset == "low - high" else 1.0, abs=1e-9), row
        assert row.n > 0
        assert row.low <= row.value <= row.high


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_embeddings_score_chance_within_the_interval(name):
    values = {}
    for seed in range(3):
        for row in usual_rows(name, shuffled=True, seed=seed):
            chance = 0.0 if row.subset == "low - high" else row.chance
            if chance is None:  # the halves do not repeat the chance of the whole
                chance = {"recall_at_1": 2 / 280, "recall_at_10": 20 / 280}.get(row.metric, 0.5)
            key = (row.evaluation, row.task, row.metric, row.share, row.subset)
            values.setdefault(key, []).append((row.value - chance, row.high - row.low))
    for key, found in values.items():
        offset, width = np.mean(found, axis=0)
        assert abs(offset) <= max(width, 0.02), (key, found)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_rows_changes_nothing(name):
    order = np.random.default_rng(9).permutation(NUM_ECGS)
    a, b = usual_rows(name, shuffled=True), rows_of(name, inputs(shuffled=True, order=order))
    for one, other in zip(a, b, strict=True):
        assert (one.evaluation, one.task, one.metric, one.n, one.positives, one.reason) == (
            (other.evaluation, other.task, other.metric, other.n, other.positives, other.reason)
        )
        # The probe's optimiser adds up in another order, so two near scores may change places.
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_run_cannot_do_is_a_row_with_its_reason(name):
    absent = {"text": "no text", "fine_tune": "no encoder", "supervised": "no labels", "uncertainty": "no variance"}
    bare = inputs(logvar=None, text_mean=None, embed_texts=None, predictions={}, fine_tune=None, floor_mean=None, absent=absent)
    for row in rows_of(name, bare):
        assert row.value is not None or row.reason
        if name != "linear_probe":
            assert (row.value, row.reason) in [(None, reason) for reason in absent.values()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["one class", "empty"])
def test_a_degenerate_split_is_a_reason_and_never_a_crash_or_a_nan(name, split, kind):
    given = inputs()
    hit = given.split == split
    if kind == "one class":
        given = dataclasses.replace(given, labels={k: np.where(hit & (v > 0), 0, v) for k, v in given.labels.items()})
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


@pytest.mark.parametrize("name", ["zero_shot", "linear_probe", "fine_tune", "supervised"])
def test_no_threshold_looks_at_the_test_labels(name):
    given = inputs(shuffled=True)
    test = given.split == "test"
    turned = dataclasses.replace(given, labels={k: np.where(test & (v >= 0), 1 - v, v) for k, v in given.labels.items()})
    for one, other in zip(usual_rows(name, shuffled=True), rows_of(name, turned), strict=True):
        if one.metric == "balanced_accuracy":
            assert one.value + other.value == pytest.approx(1.0)


def test_the_floor_stands_beside_the_probe_with_a_paired_gain():
    rows = usual_rows("linear_probe", shuffled=False)
    probes, floors = ([row for row in rows if row.evaluation == name] for name in ("linear_probe", "floor"))
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
