"""A table gives the same rows from every place, and nothing for a row that there is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_stores import groups_of, make_store, two_stores

from ecgecho.data import place as places
from ecgecho.data.chunks import Chunks
from ecgecho.data.place import Table, choose
from ecgecho.data.sampler import BlockOrder
from ecgecho.types import UsageError, UserError

CPU = torch.device("cpu")
PLACES = ("device", "pinned", "mapped", "blocks")
SHAPES = {
    "whole pages": {"shape": (2, 512)},
    "odd": {"shape": (3,), "entry": (5,)},
    "large": {"shape": (3000,), "entry": (1000, 3)},
}


@pytest.fixture(scope="module", params=SHAPES)
def stores(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [
        make_store(folder / "a", extra=5, **SHAPES[request.param]),
        make_store(folder / "b", seed=1, studies=7, **SHAPES[request.param]),
    ]


def tables(stores, column):
    return [Table(stores, column, CPU, place, BlockOrder(block_bytes=4096, pool=3)) for place in PLACES]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), count=st.integers(0, 70))
def test_every_place_gathers_what_take_gathers(stores, seed, count):
    whole = np.concatenate([store.array("moments") for store in stores])
    rows = np.random.default_rng(seed).integers(0, len(whole), count)
    for table in tables(stores, "moments"):
        np.testing.assert_array_equal(table.gather(rows).numpy(), np.take(whole, rows, axis=0), err_msg=table.place)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), count=st.integers(0, 70))
def test_every_place_gathers_ragged_rows_one_after_another(stores, seed, count):
    each = [store.read_ragged("frames", row) for store in stores for row in range(len(store))]
    rows = np.random.default_rng(seed).integers(0, len(each), count)
    whole = np.concatenate([each[row] for row in rows]) if count else each[0][:0]
    for table in tables(stores, "frames"):
        values, start = table.gather_ragged(rows)
        np.testing.assert_array_equal(values.numpy(), whole, err_msg=table.place)
        np.testing.assert_array_equal(start.diff().numpy(), [len(each[row]) for row in rows])


@pytest.mark.parametrize("row", [-1, 10_000])
def test_a_row_that_there_is_not_is_refused_by_every_place(stores, row):
    for column in ("moments", "frames"):
        for table in tables(stores, column):
            with pytest.raises(IndexError, match=str(row)):
                (table.gather_ragged if column == "frames" else table.gather)(np.array([0, row, 1]))


@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 20])
def test_blocks_cover_all_rows_and_tear_no_group(stores, block_bytes):
    groups = groups_of(stores)
    for column in ("moments", "frames"):
        edges = Chunks(stores, column).block_edges(block_bytes)
        assert [edges[0], edges[-1]] == [0, len(groups)]
        assert (np.diff(edges) > 0).all()
        assert all(groups[edge - 1] != groups[edge] for edge in edges[1:-1])


def test_held_blocks_are_read_whole_and_never_more_than_there_are_slots(tmp_path):
    stores = two_stores(tmp_path)
    table = Table(stores, "moments", CPU, "blocks", BlockOrder(block_bytes=4096, pool=2))
    reader = table._reader
    everything = np.arange(len(table))
    memory = reader.slots * reader.slot_bytes
    reader.slots, reader._free = 5, reader._free[:5]
    table.hold(range(len(reader.edges) - 1))
    assert len(reader._loads) == 5
    table.gather(everything[: reader.edges[5]])
    assert reader.alone == 0
    table.gather(everything[reader.edges[5] :])
    assert reader.alone == len(everything) - reader.edges[5]
    table.hold([7, 5])
    table.hold([7, 6])
    assert set(reader._loads) >= {6, 7}
    assert len(reader._loads) + len(reader._free) == 5
    assert len(reader._pool) == memory


@pytest.mark.parametrize("place", ["pinned", "mapped", "blocks"])
def test_a_batch_that_anyone_still_looks_at_is_not_written_over(place, tmp_path):
    stores = two_stores(tmp_path)
    moments, frames = (Table(stores, column, CPU, place) for column in ("moments", "frames"))
    draws = [np.random.default_rng(k).integers(0, len(moments), 20) for k in range(30)]
    views = [
        lambda values: values,
        lambda values: values[3:, ..., :7],
        lambda values: values.numpy()[1:],
        lambda values: values.float(),
        lambda values: values.view(torch.int16)[0],
    ]
    seen = [(views[k % 5](table.gather(rows)), k, rows) for table in (moments,) for k, rows in enumerate(draws)]
    ragged = [(frames.gather_ragged(rows)[0][1:], rows) for rows in draws]
    for rows in draws:
        moments.gather(rows)
        frames.gather_ragged(rows)
    fresh = [Table(stores, column, CPU, place) for column in ("moments", "frames")]
    for value, k, rows in seen:
        np.testing.assert_array_equal(value, views[k % 5](fresh[0].gather(rows)))
    for value, rows in ragged:
        np.testing.assert_array_equal(value, fresh[1].gather_ragged(rows)[0][1:])
    assert len(moments._memory._owned) <= 4


def test_memory_is_lent_again_when_nobody_looks_at_it(tmp_path):
    table = Table(two_stores(tmp_path), "moments", CPU, "pinned")
    rows = np.arange(20)
    assert len({table.gather(rows).data_ptr() for _ in range(20)}) == 1


def test_a_file_cut_short_is_refused_with_its_name(tmp_path):
    stores = [make_store(tmp_path / "a")]
    table = Table(stores, "moments", CPU, "blocks")
    path = table.chunks.paths[1]
    with open(path, "r+b") as file:
        file.truncate(100)
    table.hold([0])
    with pytest.raises(UserError, match="c\\.1.*ends too early"):
        table.gather(np.arange(len(table)))


def test_a_place_is_chosen_by_size(monkeypatch):
    monkeypatch.setattr(places, "free_memory", lambda: 1000)
    assert [choose(n, CPU) for n in (499, 500, 899, 900)] == ["pinned", "mapped", "mapped", "blocks"]


def test_processes_on_one_machine_keep_a_table_each_only_where_all_copies_fit(monkeypatch):
    monkeypatch.setattr(places, "free_memory", lambda: 1000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [choose(n, CPU) for n in (124, 125, 499, 900)] == ["pinned", "mapped", "mapped", "blocks"]


def test_a_place_that_cannot_be_is_refused(tmp_path, monkeypatch):
    stores = [make_store(tmp_path / "a")]
    with pytest.raises(UsageError, match="attic"):
        Table(stores, "moments", CPU, "attic")
    monkeypatch.setattr(places, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"moments.*GB free"):
        Table(stores, "moments", CPU, "pinned")
    assert Table(stores, "moments", CPU).place == "blocks"


def test_a_limit_on_the_process_counts_as_the_end_of_memory(monkeypatch):
    monkeypatch.setattr(places, "_cgroup_rooms", lambda: [12345])
    assert places.free_memory() == 12345


def test_a_store_in_a_bucket_is_read_whole_or_refused(bucket, tmp_path):
    local = [make_store(tmp_path / "a", extra=5), make_store(tmp_path / "b", seed=1)]
    remote = [make_store(f"{bucket}/a", extra=5), local[1]]
    rows = np.random.default_rng(0).permutation(sum(len(s) for s in local))
    assert torch.equal(Table(local, "moments", CPU).gather(rows), Table(remote, "moments", CPU).gather(rows))
    for one, two in zip(
        Table(local, "frames", CPU).gather_ragged(rows), Table(remote, "frames", CPU).gather_ragged(rows), strict=True
    ):
        assert torch.equal(one, two)
    with pytest.raises(UserError, match=f"{bucket}/a.*local disk"):
        Table(remote, "moments", CPU, "mapped")
