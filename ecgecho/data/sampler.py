"""Which rows make the batch of a step: pure functions of (seed, step), so that a position is one number.

One stream passes the ECGs, another the echo pairs, each in a permutation of its own that is drawn anew for every pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgecho.types import I64

STREAMS = {"ecg": 1, "echo": 2, "view": 3, "kind": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The rows of one batch: places in the list of ECGs, then places in the list of echo pairs with the pass each belongs to."""

    ecgs: I64
    pairs: I64
    pair_pass: I64


def philox(seed: int, stream: str, number: int) -> np.random.Generator:
    """Random numbers of (seed, stream, pass)."""
    return np.random.Generator(np.random.Philox(key=[seed & 0xFFFFFFFFFFFFFFFF, (STREAMS[stream] << 56) | number]))


@lru_cache(maxsize=8)
def permutation(seed: int, stream: str, number: int, size: int) -> I64:
    """The order of `size` things in pass `number`."""
    return philox(seed, stream, number).permutation(size)


def stretch(seed: int, stream: str, size: int, start: int, count: int) -> tuple[I64, I64]:
    """Places [start, start + count) of the endless stream of passes over `size` things: which things, and the pass of each."""
    place = np.arange(start, start + count)
    number = place // size
    things = np.empty(count, np.int64)
    for n in np.unique(number):
        here = number == n
        things[here] = permutation(seed, stream, int(n), size)[place[here] % size]
    return things, number


class Sampler:
    """Batches of `batch_size` rows; a pass over the ECGs is an epoch.

    joint: every batch holds round(ratio * batch_size) echo pairs, at least one where there are any. With no ECGs to pass (a
    method that learns from echo alone) the pairs fill the batch and a pass over them is an epoch.
    single: a batch is all ECGs or all echo pairs. Within an epoch the kind is drawn uniformly while both have a whole batch
    left, and what does not fill a batch is dropped, as the reference does (EchoingECG src/datasets/sampler.py).
    """

    def __init__(
        self, *, num_ecgs: int, num_pairs: int, batch_size: int, ratio: float, batches: Literal["joint", "single"], seed: int
    ) -> None:
        self.num_ecgs, self.num_pairs, self.batch_size, self.seed, self.batches = num_ecgs, num_pairs, batch_size, seed, batches
        wanted = min(max(round(ratio * batch_size), 1), batch_size - 1) if ratio > 0 and num_pairs else 0
        self.pairs_each = batch_size if num_ecgs == 0 else wanted
        self.ecgs_each = batch_size - self.pairs_each
        if batches == "single":
            self.kinds = np.repeat([0, 1], [num_ecgs // batch_size, num_pairs // batch_size])

    @property
    def steps_per_epoch(self) -> float:
        """Batches in a pass; not a whole number when passes and batches do not end together."""
        if self.batches == "single":
            return float(len(self.kinds))
        return self.num_ecgs / self.ecgs_each if self.num_ecgs else self.num_pairs / self.pairs_each

    def draw(self, step: int) -> Draw:
        """The rows of step `step`."""
        if self.batches == "single":
            return self._draw_single(step)
        ecgs, _ = stretch(self.seed, "ecg", max(self.num_ecgs, 1), step * self.ecgs_each, self.ecgs_each)
        pairs, number = stretch(self.seed, "echo", max(self.num_pairs, 1), step * self.pairs_each, self.pairs_each)
        return Draw(ecgs=ecgs, pairs=pairs, pair_pass=number)

    def _draw_single(self, step: int) -> Draw:
        epoch, place = divmod(step, len(self.kinds))
        kinds = _kinds(self.seed, epoch, self.num_ecgs // self.batch_size, self.num_pairs // self.batch_size)
        start = int((kinds[:place] == kinds[place]).sum()) * self.batch_size
        none = np.empty(0, np.int64)
        if kinds[place] == 0:
            return Draw(
                ecgs=permutation(self.seed, "ecg", epoch, self.num_ecgs)[start : start + self.batch_size],
                pairs=none,
                pair_pass=none,
            )
        pairs = permutation(self.seed, "echo", epoch, self.num_pairs)[start : start + self.batch_size]
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
