"""Laws of the order in which rows are met."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.data.sampler import AHEAD, Sampler, block_pass, permutation, stretch, views


def sampler(num_ecgs=50, num_pairs=7, batch_size=8, ratio=0.25, batches="joint", seed=3, **blocks):
    return Sampler(
        num_ecgs=num_ecgs, num_pairs=num_pairs, batch_size=batch_size, ratio=ratio, batches=batches, seed=seed, **blocks
    )


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 30), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=12), seed=st.integers(0, 2**40))
def test_a_stream_read_in_any_pieces_is_whole_passes_each_a_permutation(size, cuts, seed):
    pieces, start = [], 0
    for cut in cuts:
        things, number = stretch(lambda n: permutation(seed, "ecg", n, size), size, start, cut)
        np.testing.assert_array_equal(number, np.arange(start, start + cut) // size)
        pieces.append(things)
        start += cut
    whole = np.concatenate(pieces)
    for k in range(start // size):
        assert sorted(whole[k * size : (k + 1) * size]) == list(range(size))


def test_passes_differ_seeds_differ_and_the_same_pass_is_the_same():
    first = permutation(1, "ecg", 0, 100)
    np.testing.assert_array_equal(first, permutation(1, "ecg", 0, 100))
    for other in (permutation(1, "ecg", 1, 100), permutation(2, "ecg", 0, 100), permutation(1, "echo", 0, 100)):
        assert not np.array_equal(first, other)


def test_every_batch_has_its_share_of_echo_pairs_and_an_epoch_meets_every_ecg():
    made = sampler()
    draws = [made.draw(step) for step in range(100)]
    assert all(len(d.pairs) == 2 and len(d.ecgs) == 6 for d in draws)
    met = np.concatenate([d.ecgs for d in draws])
    assert sorted(met[:50]) == list(range(50))
    assert made.steps_per_epoch == pytest.approx(50 / 6)
    pairs = np.bincount(np.concatenate([d.pairs for d in draws]), minlength=7)
    assert pairs.max() - pairs.min() <= 1


def test_a_draw_depends_on_the_step_alone():
    one, two = sampler(), sampler()
    [one.draw(step) for step in (9, 2, 30)]
    for step in (30, 2):
        np.testing.assert_array_equal(one.draw(step).ecgs, two.draw(step).ecgs)
        np.testing.assert_array_equal(one.draw(step).pairs, two.draw(step).pairs)


def test_without_pairs_or_ratio_a_batch_is_all_ecgs_and_without_ecgs_all_pairs():
    assert len(sampler(num_pairs=0).draw(0).ecgs) == len(sampler(ratio=0.0).draw(0).ecgs) == 8
    assert len(sampler(num_ecgs=0).draw(0).pairs) == 8
    assert len(sampler(ratio=0.001).draw(0).pairs) == 1


def test_single_batches_are_of_one_kind_and_meet_nothing_twice_in_an_epoch():
    made = sampler(num_ecgs=50, num_pairs=20, batches="single")
    assert made.steps_per_epoch == 8
    for epoch in range(3):
        draws = [made.draw(8 * epoch + k) for k in range(8)]
        assert sorted((len(d.ecgs), len(d.pairs)) for d in draws) == [(0, 8)] * 2 + [(8, 0)] * 6
        ecgs = np.concatenate([d.ecgs for d in draws])
        assert len(set(ecgs.tolist())) == len(ecgs) == 48


def test_single_batches_draw_the_kind_evenly_while_both_last():
    firsts = [len(sampler(num_ecgs=800, num_pairs=80, batches="single", seed=s).draw(0).pairs) > 0 for s in range(200)]
    assert 0.35 < np.mean(firsts) < 0.65


def test_a_study_shows_each_clip_equally_often():
    num_clips = np.array([1, 2, 5])
    shown = np.stack([views(0, number, num_clips) for number in range(2000)])
    assert (shown[:, 0] == 0).all()
    for study, count in enumerate(num_clips):
        shares = np.bincount(shown[:, study], minlength=count) / 2000
        np.testing.assert_allclose(shares, 1 / count, atol=0.04)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 300), num_blocks=st.integers(1, 40), pool=st.integers(1, 8), seed=st.integers(0, 2**40))
def test_a_pass_by_blocks_meets_everything_once_with_few_blocks_in_use(size, num_blocks, pool, seed):
    block_of = np.random.default_rng(seed).integers(0, num_blocks, size)
    made = block_pass(seed, "ecg", 0, block_of, pool)
    assert sorted(made.order) == list(range(size))
    for place in range(size):
        in_use = made.held(place, place + 1)
        assert block_of[made.order[place]] in in_use
        assert len(in_use) <= pool + 1
    ahead = made.held(0, size)
    assert (np.diff(made.first[ahead]) > 0).all()


def test_a_pass_by_blocks_differs_by_pass_and_seed_and_mixes_the_pool():
    block_of = np.repeat(np.arange(40), 25)
    first = block_pass(1, "ecg", 0, block_of, 8).order
    np.testing.assert_array_equal(first, block_pass(1, "ecg", 0, block_of, 8).order)
    assert not np.array_equal(first, block_pass(1, "ecg", 1, block_of, 8).order)
    assert not np.array_equal(first, block_pass(2, "ecg", 0, block_of, 8).order)
    inner = block_of[first][250:750].reshape(-1, 50)
    assert np.mean([len(set(part)) for part in inner]) > 7


@pytest.mark.parametrize("batches", ["joint", "single"])
@pytest.mark.parametrize("blocks", [False, True])
def test_the_slices_of_any_number_of_ranks_are_the_batch(batches, blocks):
    made = sampler(
        num_pairs=30, batch_size=10, ratio=0.3, batches=batches, **({"block_of": np.arange(50) // 6} if blocks else {})
    )
    for step in range(12):
        whole = made.draw(step)
        for ranks in (1, 2, 3, 4):
            parts = [made.draw(step).slice(rank, ranks) for rank in range(ranks)]
            for name in ("ecgs", "pairs", "pair_pass"):
                np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))
            assert max(len(p.ecgs) for p in parts) - min(len(p.ecgs) for p in parts) <= 1


@pytest.mark.parametrize(("num_ecgs", "batches"), [(200, "joint"), (200, "single"), (0, "joint")])
def test_the_blocks_of_a_batch_are_held_when_it_comes_and_each_is_read_once_a_pass(num_ecgs, batches):
    block_of = np.random.default_rng(0).permutation(200) // 5
    given = {"num_ecgs": num_ecgs, "num_pairs": 200 if num_ecgs == 0 else 20, "batches": batches}
    made = sampler(**given, block_of=block_of, pool=4)
    resumed = sampler(**given, block_of=block_of, pool=4)
    begun, before = [], set()
    num_steps = int(2 * made.steps_per_epoch)
    for step in range(num_steps):
        held, draw = made.held(step), made.draw(step)
        assert set(block_of[draw.ecgs if num_ecgs else draw.pairs]) <= set(held)
        assert len(held) <= 4 + 2 + AHEAD + 8
        assert held == resumed.held(step) if step % 7 == 0 else True
        begun += set(held) - before
        before = set(held)
    assert max(np.bincount(begun)) <= 3  # two passes, and the beginning of the third
    assert (
        made.draw(num_steps // 2).ecgs.tolist() == sampler(**given, block_of=block_of, pool=4).draw(num_steps // 2).ecgs.tolist()
    )


def test_a_position_says_all_that_decides_the_next_rows():
    position = sampler().position(20, "abc")
    assert (position.seed, position.epoch, position.step, position.global_batch) == (3, 2, 20, 8)
    assert position.stores_sha256 == "abc"
