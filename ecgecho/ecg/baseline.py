"""The chain of OTiS and Echo2ECG over a recording: clipped, freed of its baseline, standardised by groups of leads.

  1. clip       to 4 standard deviations of all leads and samples together, around 0 (not the mean), baseline and all
  2. baseline   of each lead by asymmetric least squares, subtracted
  3. groups     limb, augmented and chest leads: (x - mean) / sqrt(var + 1e-12), one mean and population variance a group

What differs from the source: NaN is no 0, a lead that holds one is invalid and left out; a sample on the baseline weighs as one
below it, not nothing, so that a flat lead is no singular system; a group without voltage is zeros, not magnified rounding.

Source: Echo2ECG ecg/data_processing/processing.py:91-109 (64c9610). Asymmetric least squares: Eilers and Boelens 2005.
C leads, L samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dpbsv

from ecgecho.types import STANDARD_LEADS

F64 = npt.NDArray[np.float64]

CLIP_STD = 4.0
SMOOTHNESS = 1e7
"""lambda. At 500 Hz and with weights of 1/2 the line takes 97 % of a wave of 0.5 Hz, half of one of 1.2, 6 % of one of 2.4."""
ABOVE = 0.3
"""p: what a sample above the baseline weighs; one below weighs 1 - p."""
ITERATIONS = 5
VAR_EPS = 1e-12
FLAT = 1e-4
"""A group that deviates less, 0.1 uV or as many standard deviations, holds nothing and becomes zeros."""
GROUPS = (STANDARD_LEADS[:3], STANDARD_LEADS[3:6], STANDARD_LEADS[6:])


def otis(values: npt.NDArray[np.floating], leads: Sequence[str]) -> F64:
    """The whole chain over the valid leads of a recording, by name. (C, L) -> (C, L)."""
    clipped = clip(np.asarray(values, np.float64))
    return by_groups(clipped - baseline(clipped), leads)


def clip(values: F64) -> F64:
    """(C, L) -> (C, L) within 4 standard deviations of all of it, around 0."""
    limit = CLIP_STD * values.std()
    return np.clip(values, -limit, limit)


def baseline(values: F64) -> F64:
    """The line z under each lead, (C, L) -> (C, L): minimises sum(w (y - z)^2) + lambda * sum((second difference of z)^2).

    w is 1 at first, then 0.3 above the last z and 0.7 elsewhere; five solutions. Every w is at least 0.3 and so the smallest
    eigenvalue, however long the lead: the condition is at most 16 lambda / 0.3 = 5e8, within float64 and beyond float32.
    """
    # A constant is part of the line: taken out first, so that it costs no digits and a flat lead is exactly its own line.
    offset = values[:, :1]
    shifted = values - offset
    length = values.shape[1]
    penalty = _penalty(length)
    result = np.empty(values.shape)
    # The first system is the same for all leads: factored once.
    first = _solve(penalty, np.ones(length), shifted.T)
    for row, lead in enumerate(shifted):
        line = first[:, row]
        for _ in range(ITERATIONS - 1):
            weight = np.where(lead > line, ABOVE, 1 - ABOVE)
            line = _solve(penalty, weight, weight * lead)
        result[row] = line
    return result + offset


def by_groups(values: F64, leads: Sequence[str]) -> F64:
    """(C, L) -> (C, L): limb, augmented and chest leads each with mean 0 and standard deviation 1, over those that are there."""
    group = np.array([_group(name) for name in leads])
    result = np.zeros(values.shape)
    for number in set(group.tolist()):
        rows = group == number
        centred = values[rows] - values[rows].mean()
        var = np.square(centred).mean()
        if var > FLAT**2:
            result[rows] = centred / np.sqrt(var + VAR_EPS)
    return result


def _group(lead: str) -> int:
    for number, names in enumerate(GROUPS):
        if lead in names:
            return number
    raise ValueError(f"{lead!r} is in no group of leads; the chain knows {', '.join(STANDARD_LEADS)}.")


def _penalty(length: int) -> F64:
    """lambda * D D^T of the second differences D (length, length - 2): its lower bands (3, length)."""
    bands = np.zeros((3, length), order="F")
    bands[0, :-2] += 1.0
    bands[0, 1:-1] += 4.0
    bands[0, 2:] += 1.0
    bands[1, : length - 2] -= 2.0
    bands[1, 1 : length - 1] -= 2.0
    bands[2, : length - 2] = 1.0
    return SMOOTHNESS * bands


def _solve(penalty: F64, weight: F64, right: F64) -> F64:
    """(3, L), (L,), (L,) or (L, C) -> the solution, of the shape of `right`. LAPACK, by Cholesky's factors."""
    # solveh_banded would take the upper bands, 1.5 times as slow, and check what is known.
    system = penalty.copy(order="F")
    system[0] += weight
    _, solution, info = dpbsv(system, right, lower=1, overwrite_ab=1, overwrite_b=0)
    assert info == 0, f"row {info} of a system that is positive definite"
    result: F64 = solution
    return result
