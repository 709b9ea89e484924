"""Which rows make the batch of a step: pure functions of (seed, step), so that a position is one number.

One stream passes the ECGs, another the echo pairs, each in a permutation of its own that is drawn anew for every pass. A table
larger than memory is passed in blocks: they follow one another in random order and the rows of a pool of them are mixed. On a
store in random order, as ours are, that meets rows as well mixed as a whole permutation would.

Shape letters: N things of a stream, B blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgecho.types import I64

STREAMS = {"ecg": 1, "echo": 2, "view": 3, "kind": 4}
BLOCK_BYTES = 4 << 20  # random reads of 4 MiB reach the disk's sequential speed, measured
POOL = 64
AHEAD = 16  # further blocks that are being read


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The rows of one batch: places in the list of ECGs, then places in the list of echo pairs with the pass each belongs to."""

    ecgs: I64
    pairs: I64
    pair_pass: I64

    def slice(self, rank: int, ranks: int) -> Draw:
        """What one of `ranks` processes takes of the batch; all slices together are the batch, whatever their number."""
        ecgs, pairs = (_slice(len(part), rank, ranks) for part in (self.ecgs, self.pairs))
        return Draw(ecgs=self.ecgs[ecgs], pairs=self.pairs[pairs], pair_pass=self.pair_pass[pairs])


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOrder:
    """How a table larger than memory is passed; part of a run's state, because it decides the order."""

    block_bytes: int = BLOCK_BYTES
    pool: int = POOL
    """Blocks whose rows are mixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The state of a sampler: all that decides which rows come next."""

    seed: int
    epoch: int
    step: int
    """Batches that were taken, over all epochs."""
    global_batch: int
    """Rows of a batch over all ranks."""
    stores_sha256: str
    """Of the content hashes of the stores that the rows are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The order of one pass by blocks, and when each block is needed."""

    order: I64
    """(N,) things."""
    first: I64
    """(B,) the place in `order` of the first thing of each block, N where it has none."""
    last: I64
    """(B,), -1 where it has none."""

    def held(self, begin: int, end: int) -> I64:
        """The blocks that are in use, or will be, between the places [begin, end), in the order of their first use."""
        found = np.flatnonzero((self.first < end) & (self.last >= begin))
        return found[np.argsort(self.first[found], kind="stable")]


def philox(seed: int, stream: str, number: int) -> np.random.Generator:
    """Random numbers of (seed, stream, pass)."""
    return np.random.Generator(np.random.Philox(key=[seed & 0xFFFFFFFFFFFFFFFF, (STREAMS[stream] << 56) | number]))


@lru_cache(maxsize=8)
def permutation(seed: int, stream: str, number: int, size: int) -> I64:
    """The order of `size` things in pass `number`."""
    return philox(seed, stream, number).permutation(size)


def block_pass(seed: int, stream: str, number: int, block_of: I64, pool: int) -> Pass:
    """The order of pass `number` of things that lie in the blocks `block_of` (N,).

    Block b begins at a time of its own, a permutation of 0, 1, 2, ..., and its things come at times uniform over the next
    `pool`: things of `pool` blocks are mixed at any time, and no more than pool + 1 blocks are in use.
    """
    random = philox(seed, stream, number)
    size, num_blocks = len(block_of), int(block_of.max(initial=-1)) + 1
    time = random.permutation(num_blocks)[block_of] + pool * random.random(size)
    order = np.argsort(time, kind="stable")
    first, last = np.full(num_blocks, size), np.full(num_blocks, -1)
    np.minimum.at(first, block_of[order], np.arange(size))
    np.maximum.at(last, block_of[order], np.arange(size))
    return Pass(order=order, first=first, last=last)


def stretch(order: Callable[[int], I64], size: int, start: int, count: int) -> tuple[I64, I64]:
    """Places [start, start + count) of the endless stream of passes over `size` things: which things, and the pass of each.

    `order` gives the permutation of a pass.
    """
    place = np.arange(start, start + count)
    number = place // size
    things = np.empty(count, np.int64)
    for n in np.unique(number):
        here = number == n
        things[here] = order(int(n))[place[here] % size]
    return things, number


class Sampler:
    """Batches of `batch_size` rows; a pass over the ECGs is an epoch.

    joint: every batch holds round(ratio * batch_size) echo pairs, at least one where there are any. With no ECGs to pass (a
    method that learns from echo alone) the pairs fill the batch and a pass over them is an epoch.
    single: a batch is all ECGs or all echo pairs. Within an epoch the kind is drawn uniformly while both have a whole batch
    left, and what does not fill a batch is dropped, as the reference does (EchoingECG src/datasets/sampler.py).

    `block_of` (num_ecgs,), or (num_pairs,) where there are no ECGs to pass, makes that stream pass by blocks.
    """

    def __init__(
        self,
        *,
        num_ecgs: int,
        num_pairs: int,
        batch_size: int,
        ratio: float,
        batches: Literal["joint", "single"],
        seed: int,
        block_of: I64 | None = None,
        pool: int = POOL,
    ) -> None:
        self.num_ecgs, self.num_pairs, self.batch_size, self.seed, self.batches = num_ecgs, num_pairs, batch_size, seed, batches
        wanted = min(max(round(ratio * batch_size), 1), batch_size - 1) if ratio > 0 and num_pairs else 0
        self.pairs_each = batch_size if num_ecgs == 0 else wanted
        self.ecgs_each = batch_size - self.pairs_each
        self.block_of, self.pool = block_of, pool
        self._ahead = 0 if block_of is None else AHEAD * len(block_of) // (int(block_of.max(initial=0)) + 1)
        self._passes: dict[int, Future[Pass]] = {}
        if batches == "single":
            self.kinds = np.repeat([0, 1], [num_ecgs // batch_size, num_pairs // batch_size])

    @property
    def steps_per_epoch(self) -> float:
        """Batches in a pass; not a whole number when passes and batches do not end together."""
        if self.batches == "single":
            return float(len(self.kinds))
        return self.num_ecgs / self.ecgs_each if self.num_ecgs else self.num_pairs / self.pairs_each

    def position(self, step: int, stores_sha256: str) -> Position:
        """The state after `step` batches."""
        epoch = int(step / self.steps_per_epoch)
        return Position(seed=self.seed, epoch=epoch, step=step, global_batch=self.batch_size, stores_sha256=stores_sha256)

    def draw(self, step: int) -> Draw:
        """The rows of step `step`."""
        if self.batches == "single":
            return self._draw_single(step)
        ecgs, _ = stretch(self._ecgs, max(self.num_ecgs, 1), step * self.ecgs_each, self.ecgs_each)
        pairs, number = stretch(self._pairs, max(self.num_pairs, 1), step * self.pairs_each, self.pairs_each)
        return Draw(ecgs=ecgs, pairs=pairs, pair_pass=number)

    def held(self, step: int) -> list[int]:
        """The blocks to hold, or to begin to read, at a step, in the order of their need; none without blocks."""
        if self.block_of is None:
            return []
        size = len(self.block_of)
        number, place = self._place(step)
        ahead = self.batch_size + self._ahead
        found: list[int] = self._pass(number).held(place, place + ahead).tolist()
        if place + ahead > size:
            found += [b for b in self._pass(number + 1).held(0, place + ahead - size).tolist() if b not in set(found)]
        return found

    def _place(self, step: int) -> tuple[int, int]:
        """The pass and the place in it where the stream that passes by blocks is at a step."""
        if self.batches == "joint":
            return divmod(step * (self.ecgs_each or self.pairs_each), self.num_ecgs or self.num_pairs)
        epoch, place = divmod(step, len(self.kinds))
        kinds = _kinds(self.seed, epoch, self.num_ecgs // self.batch_size, self.num_pairs // self.batch_size)
        return epoch, int((kinds[:place] == int(self.num_ecgs == 0)).sum()) * self.batch_size

    def _ecgs(self, number: int) -> I64:
        if self.block_of is not None:
            return self._pass(number).order
        return permutation(self.seed, "ecg", number, max(self.num_ecgs, 1))

    def _pairs(self, number: int) -> I64:
        if self.block_of is not None and self.num_ecgs == 0:
            return self._pass(number).order
        return permutation(self.seed, "echo", number, max(self.num_pairs, 1))

    def _pass(self, number: int) -> Pass:
        """A pass by blocks; two are kept, because a batch can reach into the next, which a thread makes in good time."""
        assert self.block_of is not None
        self._passes = {n: made for n, made in self._passes.items() if abs(n - number) <= 1}
        for n in (number, number + 1):
            if n not in self._passes:
                stream = "ecg" if self.num_ecgs else "echo"
                self._passes[n] = _threads().submit(block_pass, self.seed, stream, n, self.block_of, self.pool)
        return self._passes[number].result()

    def _draw_single(self, step: int) -> Draw:
        epoch, place = divmod(step, len(self.kinds))
        kinds = _kinds(self.seed, epoch, self.num_ecgs // self.batch_size, self.num_pairs // self.batch_size)
        start = int((kinds[:place] == kinds[place]).sum()) * self.batch_size
        none = np.empty(0, np.int64)
        if kinds[place] == 0:
            return Draw(
                ecgs=self._ecgs(epoch)[start : start + self.batch_size],
                pairs=none,
                pair_pass=none,
            )
        pairs = self._pairs(epoch)[start : start + self.batch_size]
        return Draw(ecgs=none, pairs=pairs, pair_pass=np.full(len(pairs), epoch))


@lru_cache(maxsize=4)
def _kinds(seed: int, epoch: int, num_ecg_batches: int, num_pair_batches: int) -> npt.NDArray[np.int8]:
    """The kind (0 ECGs, 1 echo pairs) of each batch of an epoch: uniform among the kinds that still have a whole batch."""
    random, left, kinds = philox(seed, "kind", epoch), [num_ecg_batches, num_pair_batches], []
    while any(left):
        kind = int(random.integers(2)) if all(left) else int(left[1] > 0)
        left[kind] -= 1
        kinds.append(kind)
    return np.array(kinds, np.int8)


def views(seed: int, number: int, num_clips: I64) -> I64:
    """(S,) which clip each study shows in pass `number`, uniform among its `num_clips`."""
    return np.minimum((philox(seed, "view", number).random(len(num_clips)) * num_clips).astype(np.int64), num_clips - 1)


def some_views(seed: int, number: I64, study: I64, count: I64, wanted: int) -> I64:
    """(C * wanted,) which of their clips C studies show, each in its pass `number` (C,), in order: any set is as likely.

    `count` (C,) is above `wanted`. Each clip gets a random number of (seed, pass, study, clip); the lowest are shown.
    """
    first = np.cumsum(count) - count
    of = np.repeat(np.arange(len(count)), count)
    clip = np.arange(len(of)) - first[of]
    drawn = np.full(len(count), seed, np.uint64)
    for word in (number, study):
        drawn = _mixed(drawn ^ word.astype(np.uint64))
    lowest = np.lexsort((_mixed(drawn[of] ^ clip.astype(np.uint64)), of))[clip < wanted]
    return clip[np.sort(lowest)]


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The next number of splitmix64 after a state; its finaliser is Stafford's variant 13 of MurmurHash3's."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "passes")


def _slice(count: int, rank: int, ranks: int) -> slice:
    """The even share of a rank; where they cannot be equal some ranks have one more, the last always."""
    return slice(*(count * r // ranks for r in (rank, rank + 1)))
