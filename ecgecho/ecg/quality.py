"""What is wrong with a recording, as codes; nothing is mended here. C leads, L samples.

  nan_samples                 a lead that was recorded has samples that are not there
  all_flat, flat_lead_NAME    no voltage in any lead, in this one
  clipped_lead_NAME           the lead rests at its highest or lowest value, again and again or for long
  beyond_10_mv                a voltage that no heart makes
  einthoven_disagrees         II is not I + III
  goldberger_disagrees        an augmented lead is not the sum of I and II that it is defined as
  lead_order_suspect_A_B      the identities hold once these limb leads change places: the names in the file are wrong

More than three leads with one defect are one code (`many_flat_leads`), so that a row's reason stays short. Recordings in
z-scores have no millivolts, and scaling by lead breaks the identities: of these only the order is judged.

What the identities cannot tell: an electrode at the wrong limb (I upside down, II and III exchanged) obeys all of them.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

from ecgecho.ecg.contract import LIMB
from ecgecho.types import F32, STANDARD_LEADS, EcgRecord

F64 = npt.NDArray[np.float64]

LARGEST_MV = 10.0
"""ECGBench's card of MIMIC-IV-ECG counts 989 records beyond it."""
FLAT = 0.01
"""Range of a flat lead, in mV (twice the 5 uV step of MIMIC-IV-ECG) or in standard deviations. Chosen."""
CLIPPED_RANGE = 0.2
"""A lead with a smaller range rests at its ends because its steps are coarse. Chosen."""
CLIPPED_RUN_S, CLIPPED_RUN, CLIPPED_RUNS = 0.008, 3, 3
"""Clipped: at least three runs of at least three samples and 8 ms at one extreme. A rounded wave rests so at one top; that
three beats do so at exactly the same height is a rail. Chosen; measured in tests/ecg/test_quality.py."""
SATURATED_S = 0.1
"""Or one run of this length."""
AGREES = 0.05
"""Of the largest deviation of a limb lead: what an identity may be off by. Filters by lead and rounding stay below. Chosen."""
AGREES_MV = 0.01
"""And always this much: two steps of 5 uV."""
NAMED = 3
"""As many leads are named by a code each."""
_LIMB = tuple(LIMB)
_KNOWN = frozenset((*STANDARD_LEADS, "X", "Y", "Z"))
_RULES: F64 = np.array(
    [
        [1.0, -1.0, 1.0, 0, 0, 0],
        [0.5, 0.5, 0, 1.0, 0, 0],
        [-1.0, 0.5, 0, 0, 1.0, 0],
        [0.5, -1.0, 0, 0, 0, 1.0],
    ]
)
"""(4, 6) over I, II, III, aVR, aVL, aVF: each row times the leads is zero. Einthoven, then Goldberger."""


def defects_of(record: EcgRecord) -> tuple[str, ...]:
    """The codes of one recording, the gravest first."""
    signal, valid = record.signal, record.lead_valid
    found = [] if valid.all() or np.isfinite(signal[~valid]).all() else ["nan_samples"]
    rows = np.flatnonzero(valid)
    if not len(rows):
        return tuple(found)
    values = signal if len(rows) == len(signal) else signal[rows]
    high, low = values.max(axis=1), values.min(axis=1)
    flat = high - low <= FLAT
    if flat.all():
        return (*found, "all_flat")
    names = [record.leads[row] for row in rows]
    found += _order(dict(zip(names, values, strict=True)), {n for n, f in zip(names, flat, strict=True) if f}, record.unit)
    if record.unit == "mv" and max(float(high.max()), -float(low.min())) > LARGEST_MV:
        found.append("beyond_10_mv")
    found += _named("flat", [name for name, is_flat in zip(names, flat, strict=True) if is_flat])
    clipped = _clipped(values, high, low, record.fs_hz)
    found += _named("clipped", [name for name, rests, f in zip(names, clipped, flat, strict=True) if rests and not f])
    return tuple(found)


def _named(what: str, leads: list[str]) -> list[str]:
    if len(leads) > NAMED:
        return [f"many_{what}_leads"]
    # Codes are stored: a name that a file made up may be anything, a person's too.
    return list(dict.fromkeys(f"{what}_lead_{name if name in _KNOWN else 'other'}" for name in leads))


def _clipped(values: F32, high: F32, low: F32, fs_hz: float) -> list[bool]:
    """(C,) whether a lead rests at an extreme."""
    least = max(CLIPPED_RUN, round(CLIPPED_RUN_S * fs_hz))
    wide = high - low > CLIPPED_RANGE
    result = np.zeros(len(values), bool)
    for extreme in (high, low):
        at = values == extreme[:, None]
        many = wide & (np.count_nonzero(at, axis=1) >= min(least * CLIPPED_RUNS, round(SATURATED_S * fs_hz)))
        for row in np.flatnonzero(many & ~result):
            places = np.flatnonzero(at[row])
            ends = np.flatnonzero(np.diff(places) > 1)
            runs = np.diff(np.concatenate([[-1], ends, [len(places) - 1]]))
            result[row] = np.count_nonzero(runs >= least) >= CLIPPED_RUNS or runs.max() >= max(SATURATED_S * fs_hz, least)
    return [bool(rests) for rests in result]


def _order(leads: dict[str, F32], flat: set[str], unit: str) -> list[str]:
    """What the identities of the limb leads say; a flat or missing lead takes its own out."""
    present = [name for name in _LIMB if name in leads and name not in flat]
    if len(present) < 3:
        return []
    gram = np.zeros((6, 6))
    where = [_LIMB.index(name) for name in present]
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.stack([leads[name] for name in present])
        values = values - values.mean(axis=1, keepdims=True)
        gram[np.ix_(where, where)] = (values @ values.T).astype(np.float64) / values.shape[1]
    if not np.isfinite(gram).all():
        return []  # beyond what a voltage can be, which is told elsewhere
    absent = np.array([name not in present for name in _LIMB])
    usable = ~(_RULES[:, absent] != 0).any(axis=1)
    largest = np.sqrt(gram.diagonal().max())
    allowed = max(AGREES * largest, AGREES_MV if unit == "mv" else 0.0)
    wrong = usable & (_errors(gram, _RULES) > allowed)
    if not wrong.any():
        return []
    found = []
    if unit == "mv":
        found += ["einthoven_disagrees"] * bool(wrong[0]) + ["goldberger_disagrees"] * bool(wrong[1:].any())
    if usable.all():
        orders, rules = _permuted()
        errors = _errors(gram, rules).max(axis=1)
        best = int(errors.argmin())
        if errors[best] <= allowed:
            moved = [_LIMB[place] for place in range(6) if orders[best][place] != place]
            found.append("_".join(["lead_order_suspect", *moved]))
    return found


def _errors(gram: F64, rules: F64) -> F64:
    """Root mean square of what should be zero, from the covariance of the leads: (..., R, 6) -> (..., R)."""
    errors: F64 = np.sqrt(np.maximum(((rules @ gram) * rules).sum(axis=-1), 0.0))
    return errors


@lru_cache(maxsize=1)
def _permuted() -> tuple[list[tuple[int, ...]], F64]:
    """All orders of the six limb leads, and the identities as they would read: (720, 4, 6)."""
    orders = list(permutations(range(6)))
    rules = np.empty((len(orders), *_RULES.shape))
    for number, order in enumerate(orders):
        rules[number][:, list(order)] = _RULES
    return orders, rules
