"""What a finished run gives back: a student that embeds ECGs and texts."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_world import DIM, quick_recipe

import ecgecho
import embed_cache
from ecgecho.embed import Student
from ecgecho.tasks import TASKS
from ecgecho.train import train
from ecgecho.types import STANDARD_LEADS, UserError


@pytest.fixture(scope="module")
def students(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("students")
    steps = {"echoing_ecg": 30, "supervised": 30}
    for method, count in steps.items():
        train(quick_recipe(method, f"optim.steps={count}"), **world.paths(), out=root / method)
    return {method: ecgecho.load(root / method) for method in steps}


def severity_of(world, ids):
    level = dict(zip(world.ids, world.severity, strict=True))
    return np.array([level[i.partition("-")[0]] for i in ids])


def test_rows_of_a_store_and_one_recording_are_embedded_alike(students, world):
    student, store = students["echoing_ecg"], embed_cache.open(world.ecg)
    rows = np.array([3, 0, 7])
    mean, logvar = student.embed_rows(store, rows, batch_size=2)
    assert mean.shape == logvar.shape == (3, DIM)
    np.testing.assert_allclose(np.linalg.norm(mean, axis=1), 1, atol=1e-5)
    again, _ = student.embed_rows(student.open_signals([world.ecg]), rows)
    np.testing.assert_allclose(again, mean, atol=1e-6)
    signal = np.random.default_rng(0).normal(size=(12, 5000))
    one = student.embed(signal, 500, STANDARD_LEADS)
    order = list(reversed(range(12)))
    other = student.embed(signal[order], 500, [STANDARD_LEADS[i] for i in order])
    assert one.mean.shape == (1, DIM)
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-6)


def test_a_lead_that_is_missing_or_not_a_number_does_not_spoil_the_embedding(students):
    signal = np.random.default_rng(0).normal(size=(12, 5000))
    signal[8, 10] = np.nan
    with_hole = students["echoing_ecg"].embed(signal, 500, STANDARD_LEADS)
    kept = [i for i in range(12) if i != 8]
    without = students["echoing_ecg"].embed(signal[kept], 500, [STANDARD_LEADS[i] for i in kept])
    assert np.isfinite(with_hole.mean).all()
    np.testing.assert_allclose(with_hole.mean, without.mean, atol=1e-6)


def test_the_trained_student_tells_what_the_text_says_and_the_random_one_less(students, world):
    student, store = students["echoing_ecg"], embed_cache.open(world.ecg)
    ids = store.index.column("id").to_pylist()
    severity = severity_of(world, ids)
    texts, _ = student.embed_texts(["amplitude normal", "amplitude severely reduced"])
    mean, _ = student.embed_rows(store, np.arange(len(ids)))
    floor, _ = Student.random(student, 1).embed_rows(store, np.arange(len(ids)))
    assert not np.allclose(mean, floor)
    told = np.corrcoef(mean @ (texts[0] - texts[1]), severity)[0, 1]
    assert abs(told) > 0.5


def test_random_students_of_two_seeds_differ_and_of_one_seed_agree(students, world):
    store, rows = embed_cache.open(world.ecg), np.arange(4)
    first, again, other = (Student.random(students["echoing_ecg"], s).embed_rows(store, rows)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_supervised_student_predicts_its_tasks_and_others_say_that_they_do_not(students, world):
    student, store = students["supervised"], embed_cache.open(world.ecg)
    rows = np.arange(len(store))
    chance = student.predict_rows(store, rows)
    assert chance.shape == (len(rows), len(student.tasks))
    assert ((chance >= 0) & (chance <= 1)).all()
    assert set(student.tasks) <= set(TASKS)
    severity = severity_of(world, store.index.column("id").to_pylist())
    assert np.corrcoef(chance[:, 0], severity)[0, 1] < -0.3
    with pytest.raises(UserError, match="predicts no labels"):
        students["echoing_ecg"].predict_rows(store, rows)
    with pytest.raises(UserError, match="without texts"):
        student.embed_texts(["normal"])


def test_an_unfinished_run_and_a_folder_that_is_none_are_refused(students, tmp_path):
    with pytest.raises(UserError, match="no run"):
        ecgecho.load(tmp_path)
    run = json.loads((students["echoing_ecg"].path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "done": False}))
    with pytest.raises(UserError, match="not done"):
        ecgecho.load(tmp_path)


def test_the_package_is_imported_without_torch():
    code = "import sys, ecgecho; assert 'torch' not in sys.modules; assert 'load' in ecgecho.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)
