"""All views of a study in a batch: which, in which order, at most how many, and views that only the teacher names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import embed_cache
from ecgecho.config import DataOptions
from ecgecho.data.batches import Batches
from ecgecho.data.examples import Examples, Material
from ecgecho.data.sampler import some_views
from ecgecho.data.tables import EchoTable
from ecgecho.types import UserError

CPU = torch.device("cpu")
NUM_CLIPS = (1, 3, 9, 2)
DIM = 4


class Signals:
    """ECGs whose values nobody asks for."""

    class signal:
        shape = (12, 20)

        @staticmethod
        def hold(blocks):
            pass

    @staticmethod
    def take(rows):
        return torch.zeros(len(rows), 12, 20), torch.ones(len(rows), 12, dtype=torch.bool)


def make_store(path, view_names=(), shares=None, column=True):
    """As many cines as NUM_CLIPS says; the moments of row r are all r in slot 0 and r / 2 in slot 1."""
    ids = [f"{s}-{c}" for s, count in enumerate(NUM_CLIPS) for c in range(count)]
    columns = [embed_cache.Column("moments", (2, DIM), "float16")]
    if view_names and column:
        columns.append(embed_cache.Column("view", (len(view_names),), "float16"))
    identity = {"teacher": {"name": "tiny", "view_names": list(view_names)}} if view_names else {"teacher": "tiny"}
    plan = embed_cache.make_plan(ids, [i.partition("-")[0] for i in ids], seed=0)
    writer = embed_cache.Writer.create_or_resume(
        path, kind="echo", identity=identity, columns=columns, counts=("num_frames",), plan=plan
    )
    number = 0
    for part in writer.pending():
        rows = {}
        for item, *_ in writer.rows_of(part):
            values = {"moments": np.stack([np.full(DIM, number), np.full(DIM, number / 2)]).astype(np.float16)}
            if view_names and column:
                values["view"] = np.array(shares[item] if item in shares else [0.0] * len(view_names), np.float16)
            rows[item] = embed_cache.Row("ok", values=values, counts={"num_frames": number + 1})
            number += 1
        writer.commit(part, rows, {})
    writer.seal({})
    return embed_cache.open(path)


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    return EchoTable([make_store(tmp_path_factory.mktemp("views") / "a.zarr")], ["a"], CPU)


def make_batches(echo, **options):
    clips = tuple(np.array(sorted(echo.rows[f"{s}-{c}"] for c in range(count)), np.int64) for s, count in enumerate(NUM_CLIPS))
    order = np.arange(len(clips))
    split = Examples(
        ecg_id=tuple(f"e{s}" for s in order),
        row=order,
        subject=order,
        text=np.full(len(order), -1),
        labels=np.zeros((len(order), 0), np.float32),
        labels_valid=np.zeros((len(order), 0), bool),
        pair_ecg=order,
        pair_study=order,
    )
    made = DataOptions(batch_size=4, ratio=0.5, augment="none", views="all", **options)
    return clips, Batches(
        material=Material(splits={"train": split, "val": split}, texts=(), clips=clips, notes=()),
        signals=Signals(),
        echo=echo,
        tokens=None,
        normaliser=lambda signal, valid: signal,
        needs=frozenset({"echo"}),
        options=made,
        seed=5,
        device=CPU,
    )


def rows_by_study(batch):
    """Study -> the rows of the store that it shows, as its moments tell."""
    block = batch.echo
    assert torch.equal(block.values[:, 1], block.values[:, 0] / 2)
    shown = block.values[:, 0, 0].long().tolist()
    start = block.start.tolist()
    studies = batch.study[block.row].tolist()
    return {s: shown[a:b] for s, a, b in zip(studies, start[:-1], start[1:], strict=True)}


def test_a_batch_holds_every_view_of_each_of_its_studies_and_no_other(echo):
    clips, batches = make_batches(echo)
    for batch in (batches.train(0), next(batches.validation())):
        assert batch.echo.values.shape == (sum(NUM_CLIPS), 2, DIM)
        assert rows_by_study(batch) == {s: rows.tolist() for s, rows in enumerate(clips)}


def test_of_a_long_study_each_pass_draws_others_and_validation_takes_the_first(echo):
    clips, batches = make_batches(echo, max_views=3)
    drawn = [rows_by_study(batches.train(step)) for step in range(60)]
    again = rows_by_study(make_batches(echo, max_views=3)[1].train(7))
    assert again == drawn[7]
    for shown in drawn:
        assert {s: len(rows) for s, rows in shown.items()} == {0: 1, 1: 3, 2: 3, 3: 2}
        assert shown[2] == sorted(set(shown[2]))
        assert set(shown[2]) <= set(clips[2].tolist())
    met = np.bincount(np.searchsorted(clips[2], np.concatenate([shown[2] for shown in drawn])), minlength=9)
    assert met.sum() == 180
    assert met.min() >= 8
    assert rows_by_study(next(batches.validation()))[2] == clips[2][:3].tolist()


def drawn(seed=1, number=2, study=3, count=50, wanted=10):
    return some_views(seed, *(np.array([x]) for x in (number, study, count)), wanted)


def test_what_is_drawn_of_a_study_depends_on_the_seed_the_pass_and_the_study_alone():
    first = drawn()
    for other in (drawn(seed=2), drawn(number=3), drawn(study=4)):
        assert not np.array_equal(first, other)
    assert sorted(set(first.tolist())) == first.tolist()
    together = some_views(1, np.array([7, 2, 2]), np.array([5, 3, 9]), np.array([11, 50, 12]), 10).reshape(3, 10)
    np.testing.assert_array_equal(together[1], first)
    assert [len(set(row)) for row in together.tolist()] == [10] * 3
    assert together.max(1).tolist() <= [10, 49, 11]


def test_any_clip_and_any_pair_of_clips_is_drawn_as_often():
    numbers = np.arange(6000)
    shown = some_views(3, numbers, numbers % 7, np.full(6000, 5), 2).reshape(-1, 2)
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (shown[:, 0], shown[:, 1]), 1)
    assert np.triu(pairs, 1).sum() == 6000
    found = pairs[np.triu_indices(5, 1)]
    assert ((found - 600) ** 2 / 600).sum() < 27.9  # chi-square of 9 degrees, p = 0.001


@pytest.mark.parametrize("views", ["draw", "merge"])
def test_one_entry_a_study_says_so_in_its_start(views, echo):
    _, batches = make_batches(echo)
    batches.options = replace(batches.options, views=views)
    block = batches.train(0).echo
    assert block.start.tolist() == [0, 1, 2, 3, 4]
    assert block.values.shape == (4, 2, DIM)


SHARES = {"0-0": [0.1, 0.9], "1-0": [0.6, 0.4], "2-3": [0.2, 0.3]}


def test_the_teachers_view_is_its_most_probable_and_none_where_it_says_nothing(tmp_path):
    table = EchoTable([make_store(tmp_path / "a.zarr", ("A4C", "PLAX"), SHARES)], ["a"], CPU)
    seen = {item: table.view_of_row(row) for item, row in table.rows.items()}
    assert {item: name for item, name in seen.items() if name} == {"0-0": "PLAX", "1-0": "A4C", "2-3": "PLAX"}
    without = EchoTable([make_store(tmp_path / "b.zarr", ("A4C", "PLAX"), column=False)], ["b"], CPU)
    assert {without.view_of_row(row) for row in without.rows.values()} == {""}


def test_a_column_of_views_that_does_not_fit_its_names_is_refused(tmp_path):
    table = EchoTable([make_store(tmp_path / "a.zarr", ("A4C", "PLAX"), SHARES)], ["a"], CPU)
    table.view_names = ("A4C",)
    with pytest.raises(UserError, match="column 'view'"):
        table.view_of_row(0)
