"""Z-scores by lead from the statistics of a training split. N recordings, C leads, L samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from ecgecho.types import F32, Bool

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", npt.NDArray[np.float32], "Tensor")

STD_FLOOR = 1e-8  # EchoingECG src/datasets/helpers.py:73-76


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadStatistics:
    """What a normaliser was fitted to; plain lists, so that it goes into a run's JSON as it is."""

    mean_mv: tuple[float, ...]
    std_mv: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean_mv) != len(self.std_mv) or not np.isfinite(self.mean_mv + self.std_mv).all():
            raise ValueError(f"a mean and a standard deviation a lead, all finite, not {self.mean_mv} and {self.std_mv}")


def standardise(signal: Array, mean: Array, std: Array) -> Array:
    """(signal - mean) / max(std, 1e-8) by lead: (..., C, L) with (C,), in numpy or torch, on any device."""
    scored: Array = (signal - mean[..., None]) / std.clip(STD_FLOOR)[..., None]
    return scored


def fit(blocks: Iterable[tuple[F32, Bool]]) -> LeadStatistics:
    """Mean and population standard deviation by lead over all samples of blocks (N, C, L) with lead_valid (N, C).

    A lead that is never valid gets mean 0 and standard deviation 1. Merged pairwise (Chan et al. 1979), in float64.
    """
    count = mean = spread = np.zeros(0)
    for signal, lead_valid in blocks:
        values, weight = np.asarray(signal, np.float64), np.asarray(lead_valid, np.float64)
        if not count.size:
            count, mean, spread = (np.zeros(values.shape[1]) for _ in range(3))
        more = weight.sum(0) * values.shape[-1]
        block_mean = np.einsum("nc,ncl->c", weight, values) / np.maximum(more, 1)
        deviation = (values - block_mean[:, None]) * weight[..., None]
        delta, total = block_mean - mean, count + more
        spread = spread + np.einsum("ncl,ncl->c", deviation, deviation) + delta**2 * count * more / np.maximum(total, 1)
        mean = mean + delta * more / np.maximum(total, 1)
        count = total
    std = np.where(count > 0, np.sqrt(spread / np.maximum(count, 1)), 1.0)
    return LeadStatistics(mean_mv=tuple(mean.tolist()), std_mv=tuple(std.tolist()))
