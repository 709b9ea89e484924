"""Studies embedded by a finished run: which stores it reads, and what of a study reaches the method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_world import make_world, quick_recipe
from torch import nn

import ecgecho
import embed_cache
from ecgecho.config import override
from ecgecho.data.tables import merge_moments
from ecgecho.train import train
from ecgecho.types import Embedding, UserError


class MeanOfViews(nn.Module):
    """As simple as a method gets: the mean of a study's views, remembering how many it was shown."""

    def __init__(self, *, takes_views: bool) -> None:
        super().__init__()
        self.takes_views = takes_views
        self.shown: list[list[int]] = []

    def embed_study(self, views):
        count = views.start.diff()
        assert torch.equal(views.row, torch.arange(len(count)))
        assert views.values.dtype == torch.float32
        assert views.start[-1] == len(views.values)
        self.shown.append(count.tolist())
        study = torch.repeat_interleave(torch.arange(len(count)), count)
        total = torch.zeros(len(count), *views.values.shape[1:]).index_add(0, study, views.values)
        mean = total / count[:, None, None]
        return Embedding(mean=mean[:, 0], logvar=mean[:, 1])


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "run"
    train(quick_recipe("ecg_clip", "method.on=both", "optim.steps=1"), **world.paths(), out=out, progress=False)
    return ecgecho.load(out)


@pytest.fixture(scope="module")
def store(world):
    return embed_cache.open(world.echo)


def of_views(student, *words, **changes):
    """The run as if it had learnt from each view of a study by itself."""
    return replace(
        student, recipe=override(student.recipe, ["data.views=all", *words]), model=MeanOfViews(takes_views=True), **changes
    )


STUDIES = [np.array(rows) for rows in ([3], [0, 7, 2, 9], [5, 1], [30], [11, 12, 13, 14, 15])]


def moments(store, rows):
    return store.read("moments", rows).astype(np.float32)


def test_a_method_that_takes_views_is_shown_each_and_batches_change_nothing(run, store):
    student = of_views(run)
    mean, spread = student.embed_studies([store], STUDIES)
    np.testing.assert_allclose(mean, [moments(store, rows)[:, 0].mean(0) for rows in STUDIES], atol=1e-6)
    np.testing.assert_allclose(spread, [moments(store, rows)[:, 1].mean(0) for rows in STUDIES], atol=1e-6)
    again, _ = student.embed_studies(student.open_echo([store.path]), STUDIES, batch=2)
    np.testing.assert_allclose(again, mean, atol=1e-6)
    assert student.model.shown == [[1, 4, 2, 1, 5], [1, 4], [2, 1], [5]]


@pytest.mark.parametrize(
    ("takes_views", "views"), [(False, "draw"), (False, "merge"), (True, "draw"), (True, "merge"), (True, "PLAX")]
)
def test_what_learnt_from_one_vector_a_study_is_shown_the_moments_over_all_its_frames(run, store, takes_views, views):
    recipe = override(run.recipe, [f"data.views={views}"])
    student = replace(run, recipe=recipe, model=MeanOfViews(takes_views=takes_views))
    mean, spread = student.embed_studies([store], STUDIES, batch=3)
    frames = store.index.column("num_frames").to_numpy()
    for k, rows in enumerate(STUDIES):
        one = moments(store, rows).astype(np.float64)
        np.testing.assert_allclose(np.stack([mean[k], spread[k]]), merge_moments(one[:, 0], one[:, 1], frames[rows]), atol=1e-6)
    assert student.model.shown == [[1, 1, 1], [1, 1]]


def test_of_a_study_with_more_views_than_the_recipe_allows_the_first_are_shown(run, store):
    student = of_views(run, "data.max_views=2")
    mean, _ = student.embed_studies([store], STUDIES)
    np.testing.assert_allclose(mean[1], moments(store, np.array([0, 7]))[:, 0].mean(0), atol=1e-6)
    assert student.model.shown == [[1, 2, 2, 1, 2]]


def test_studies_with_many_views_come_in_smaller_batches(run, store):
    student = of_views(run)
    many = [np.resize(np.arange(60), 100)] * 3 + [np.array([1])]
    mean, _ = student.embed_studies([store], many, batch=4)  # 128 views at once
    assert student.model.shown == [[100], [100], [100, 1]]
    np.testing.assert_allclose(mean[0], mean[1], atol=0)


def test_a_study_without_a_cine_and_no_study_at_all_are_refused(run, store):
    student = of_views(run)
    with pytest.raises(UserError, match="study 1 of 2 has no usable cine"):
        student.embed_studies([store], [np.array([0]), np.array([], np.int64)])
    with pytest.raises(UserError, match="no study to embed"):
        student.embed_studies([store], [])
    with pytest.raises(UserError, match="no echo store"):
        student.embed_studies([], [np.array([0])])


TEACHER = {"name": "one", "dim": 16, "colour": "rgb", "mask": "sector"}


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("teacher.name is 'two', not 'one'", {"teacher": {**TEACHER, "name": "two"}}),
        ("teacher.colour is 'bgr', not 'rgb'", {"teacher": {**TEACHER, "colour": "bgr"}}),
        ("weights_sha256 is '1111", {"weights_sha256": "1" * 64}),
        ("mask is 'none', not 'sector, version 1'", {"mask": "none"}),
        ("precision is 'bf16', not None", {"precision": "bf16"}),
    ],
)
def test_a_store_of_another_teacher_is_refused_by_the_field_that_differs(run, words, changed, tmp_path):
    learnt = {"teacher": TEACHER, "teacher_sha256": "a", "weights_sha256": "0" * 64, "mask": "sector, version 1"}
    other = make_world(tmp_path, subjects=2, **{**learnt, "teacher_sha256": "b", **changed}).echo
    student = of_views(run, run={**run.run, "teacher": learnt})
    with pytest.raises(UserError, match="was not made as the echo store that") as refused:
        student.open_echo([other])
    assert words in str(refused.value)
    assert str(other) in str(refused.value)


def test_a_store_that_tells_views_apart_has_the_same_moments_and_is_read(run, tmp_path):
    learnt = {"teacher": TEACHER, "teacher_sha256": "a", "weights_sha256": "0" * 64}
    told = {**learnt, "teacher": {**TEACHER, "view_names": ["A4C", "PLAX"]}, "teacher_sha256": "b"}
    other = make_world(tmp_path, subjects=2, **told).echo
    student = of_views(run, run={**run.run, "teacher": learnt})
    assert len(student.open_echo([other]).rows) == 2


def test_an_ecg_store_is_no_echo_store(run, world):
    with pytest.raises(UserError, match="store of kind 'ecg'"):
        of_views(run).open_echo([world.ecg])


def test_a_run_that_learnt_from_text_alone_has_no_echo(run, world):
    student = replace(run, run={**run.run, "teacher": None})
    assert not student.has_echo
    with pytest.raises(UserError, match="trained without echo"):
        student.open_echo([world.echo])


def test_a_method_that_embeds_no_studies_has_no_echo(run, world):
    student = replace(run, model=nn.Linear(2, 2))
    assert not student.has_echo
    with pytest.raises(UserError, match="which does not embed studies"):
        student.embed_studies([world.echo], STUDIES)
