"""Vectorcardiograms: X, Y, Z -> 12 leads, and 12 leads -> X, Y, Z. C leads, L samples.

12 leads that were made of X, Y and Z carry three signals: they are perfectly collinear (rank 3), and what single chest leads
alone see is lost. A model of recorded 12-lead ECGs gets input unlike any that it was trained on; say so beside its numbers.
On the real record of tests/ecg/test_vcg.py, Dower's V1 and V2 correlate with the recorded ones at 0.60 and 0.23.

Axes: X to the left, Y to the feet, Z to the back, so that V1 and V2 see Z from behind with the sign turned. The matrices are
for the corrected orthogonal leads of Frank; the X, Y, Z of a Holter are bipolar leads near these axes, and the sign of their Z
is not always said (MUSIC's is unverified): `z_looks_flipped` tells what speaks against it, and only the user turns it.

Sources: Kors et al., Eur Heart J 1990;11:1083-92; Dower et al., J Electrocardiol 1980;13:109-16; Edenbrandt and Pahlm,
J Electrocardiol 1988;21:361-7. The papers were not read: the numbers agree in 8 and more independent public code bases, and
for Kors in Jaros et al., Sensors 2019;19:3072, table 2.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ecgecho.ecg.contract import LIMB
from ecgecho.types import STANDARD_LEADS, Bool, EcgRecord, ItemError

F64 = npt.NDArray[np.float64]
Method = Literal["dower", "kors"]

XYZ = ("X", "Y", "Z")
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The independent leads of a 12-lead ECG, in the order of the matrices."""

KORS: F64 = np.array(
    [
        [0.38, -0.07, -0.13, 0.05, -0.01, 0.14, 0.06, 0.54],
        [-0.07, 0.93, 0.06, -0.02, -0.05, 0.06, -0.17, 0.13],
        [0.11, -0.23, -0.43, -0.06, -0.14, -0.20, -0.11, 0.31],
    ]
)
"""(3, 8): XYZ = KORS @ EIGHT, by regression."""
DOWER: F64 = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
"""(8, 3): EIGHT = DOWER @ XYZ."""
INVERSE_DOWER: F64 = np.array(
    [
        [0.156, -0.010, -0.172, -0.074, 0.122, 0.231, 0.239, 0.194],
        [-0.227, 0.887, 0.057, -0.019, -0.106, -0.022, 0.041, 0.048],
        [0.022, 0.102, -0.229, -0.310, -0.246, -0.063, 0.055, 0.108],
    ]
)
"""(3, 8): XYZ = INVERSE_DOWER @ EIGHT; the pseudo-inverse of DOWER as published, to three decimals."""
INVERSE_KORS: F64 = np.asarray(np.linalg.pinv(KORS), np.float64)
"""(8, 3): the pseudo-inverse of KORS. Kors published no such transform, and it is not physiological: lead I gets -0.35 Z."""

CHECKED_S = 60.0
"""As much of a recording as the sign of Z is looked for in."""
QRS_S = 0.1
"""The window of a beat, a little less than the longest normal QRS."""
BEAT_SHARE = 0.3
"""Of the 99th percentile of the squared speed of the vector: what exceeds it is part of a QRS. Chosen."""


def is_xyz(record: EcgRecord) -> bool:
    """Whether this is a vectorcardiogram: X, Y or Z, and none of the 12 leads."""
    leads = set(record.leads)
    return leads.isdisjoint(STANDARD_LEADS) and not leads.isdisjoint(XYZ)


def twelve_leads(record: EcgRecord, method: Method = "dower", flip_z: bool = False) -> EcgRecord:
    """X, Y, Z -> the 12 leads, in the same unit; invalid all where one of the three is.

    Defects: "derived_from_xyz", "by_pinv_kors", "z_flipped", and "z_polarity_suspect" where Z seems to be upside down.
    Raises ItemError "lead_missing" where X, Y or Z is: two axes do not tell the chest leads.
    """
    place = {name: row for row, name in enumerate(record.leads)}
    if missing := [name for name in XYZ if name not in place]:
        raise ItemError(
            "lead_missing",
            f"the recording has {'-'.join(n for n in XYZ if n in place)} and no {', '.join(missing)}: not 12 leads",
        )
    rows = [place[name] for name in XYZ]
    xyz = record.signal[rows].astype(np.float64)
    if flip_z:
        xyz[2] = -xyz[2]
    eight = (DOWER if method == "dower" else INVERSE_KORS) @ xyz
    limb = np.array([LIMB[name] for name in STANDARD_LEADS[:6]]) @ eight[:2]
    valid: Bool = np.full(12, bool(record.lead_valid[rows].all()))
    said = {
        "derived_from_xyz": True,
        "by_pinv_kors": method == "kors",
        "z_flipped": flip_z,
        "z_polarity_suspect": bool(valid[0]) and z_looks_flipped(xyz, record.fs_hz),
    }
    return EcgRecord(
        signal=np.concatenate([limb, eight[2:]]).astype(np.float32),
        leads=STANDARD_LEADS,
        lead_valid=valid,
        unit=record.unit,
        fs_hz=record.fs_hz,
        defects=(*record.defects, *(code for code, holds in said.items() if holds)),
    )


def vectorcardiogram(record: EcgRecord, method: Literal["kors", "inverse_dower"] = "kors") -> EcgRecord:
    """I, II, V1 to V6 of a recording -> X, Y, Z. Raises ItemError "lead_missing"."""
    place = {name: row for row, name in enumerate(record.leads)}
    if missing := [name for name in EIGHT if name not in place or not record.lead_valid[place[name]]]:
        raise ItemError("lead_missing", f"X, Y and Z need {', '.join(missing)} too")
    eight = record.signal[[place[name] for name in EIGHT]].astype(np.float64)
    xyz = (KORS if method == "kors" else INVERSE_DOWER) @ eight
    return EcgRecord(
        signal=xyz.astype(np.float32),
        leads=XYZ,
        lead_valid=np.ones(3, bool),
        unit=record.unit,
        fs_hz=record.fs_hz,
        defects=(*record.defects, f"xyz_by_{method}"),
    )


def z_looks_flipped(xyz: F64, fs_hz: float) -> bool:
    """Whether the QRS points to the front on the mean and V1, by Dower, is more R than S. (3, L) -> bool.

    In most hearts the left ventricle turns the mean QRS to the back (Z positive) and V1 is an rS. Right bundle branch block,
    right hypertrophy and old posterior infarction do the same as a flipped Z, so this is a doubt, not a finding.
    """
    part = xyz[:, : int(CHECKED_S * fs_hz)]
    part = part - np.median(part, axis=1, keepdims=True)
    width = max(1, round(QRS_S * fs_hz))
    if part.shape[1] < 4 * width:
        return False
    speed = np.square(np.gradient(part, axis=1)).sum(axis=0)
    speed = np.convolve(speed, np.ones(max(1, width // 2)), "same")
    above = np.flatnonzero(speed > BEAT_SHARE * np.percentile(speed, 99))
    if not len(above):
        return False
    beats = [int(run[speed[run].argmax()]) for run in np.split(above, np.flatnonzero(np.diff(above) > width) + 1)]
    windows = [part[:, at - width // 2 : at + width // 2 + 1] for at in beats if width // 2 <= at < part.shape[1] - width // 2]
    if not windows:
        return False
    v1 = [DOWER[2] @ window for window in windows]
    return bool(np.mean([w[2].mean() for w in windows]) < 0 and np.mean([v.max() + v.min() for v in v1]) > 0)
