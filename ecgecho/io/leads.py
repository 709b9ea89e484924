"""Lead names as files spell them -> as the package spells them; voltages of named leads -> EcgRecord."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ecgecho.types import F32, STANDARD_LEADS, EcgRecord, ItemError

FRANK_LEADS = ("X", "Y", "Z")
EIGHT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""What many carts store: the other four are sums of I and II."""
OTHER_LEADS = (
    *("V7", "V8", "V9", "V2R", "V3R", "V4R", "V5R", "V6R", "V7R", "V8R", "V9R"),
    *("MLI", "MLII", "MLIII", "CM1", "CM2", "CM3", "CM4", "CM5", "CM6", "CC5", "ES", "AS", "AI"),
)
"""Names of electrode places; any other word of a hospital file may be a patient's and is not kept."""
SCP_LEADS = (
    dict(
        enumerate(
            ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "V7", "V2R", "V3R", "V4R", "V5R", "V6R", "V7R", *FRANK_LEADS), 1
        )
    )
    | dict(enumerate(("III", "aVR", "aVL", "aVF"), 61))
    | dict(enumerate(("V8", "V9", "V8R", "V9R"), 66))
)
"""Numbers of the leads in SCP-ECG (EN 1064, section 3), in DICOM as 5.6.3-9-N (scheme SCPECG) and as MDC 2:N."""
MAX_LEADS = 64
MIN_FS_HZ, MAX_FS_HZ = 10.0, 100_000.0
_CANONICAL = {name.lower(): name for name in (*STANDARD_LEADS, *FRANK_LEADS)} | {"vx": "X", "vy": "Y", "vz": "Z"}
_CANONICAL |= {"di": "I", "dii": "II", "diii": "III"}  # "derivation", in Spanish, Portuguese and French
_OTHER = {name.lower(): name for name in OTHER_LEADS}
_MV_PER = (
    dict.fromkeys(("mv", "millivolt", "millivolts"), 1.0)
    | dict.fromkeys(("uv", "\u00b5v", "\u03bcv", "microvolt", "microvolts"), 1e-3)
    | dict.fromkeys(("v", "volt", "volts"), 1e3)
    | dict.fromkeys(("nv", "nanovolt", "nanovolts"), 1e-6)
)


def canonical_lead(name: str) -> str:
    """ "avr", "AVR", "Lead aVR" -> "aVR"; "vx" -> "X"; an unknown name is kept, trimmed."""
    trimmed = name.strip()
    # "aVR (inverted)" and "aVR (-)" are other signals than aVR; "aVR, augmented voltage, right" is not.
    if re.search(r"[(,].*(?:inv|neg|-)", trimmed, flags=re.IGNORECASE):
        return trimmed
    short = re.sub(r"\s*(?:\(.*\)|,.*)$", "", trimmed)
    short = re.sub(r"^(mdc_ecg_lead_|(?:lead|ecg|ekg)[\s_:]+)+", "", short, flags=re.IGNORECASE)
    return _CANONICAL.get(short.lower(), trimmed)


def is_ecg_lead(name: str) -> bool:
    """True for a canonical name of the 12 leads or the Frank leads."""
    return name in STANDARD_LEADS or name in FRANK_LEADS


def lead_or_channel(spelt: str, number: int) -> str:
    """The name of a known electrode place, else "channel N", so that no free text of a hospital file gets out."""
    name = canonical_lead(spelt)
    if is_ecg_lead(name):
        return name
    short = re.sub(r"^(mdc_ecg_lead_|(?:lead|ecg|ekg)[\s_:]+)+", "", name, flags=re.IGNORECASE)
    return _OTHER.get(short.lower(), f"channel {number}")


def mv_per(unit: str, *, silent: str | None = None) -> float | None:
    """Millivolts in one of `unit`; where the file says nothing, of `silent` ("mv", "uv"); None for what is no voltage."""
    return _MV_PER.get(unit.strip().lower() or silent or "")


def near_integer(fs_hz: float) -> float:
    """A rate from a rounded time between samples: 3333 us is 300 Hz. Whole to one part in 5,000 is whole."""
    near = float(round(fs_hz))
    return near if abs(fs_hz - near) <= 2e-4 * fs_hz else fs_hz


def rate(fs_hz: float, path: Path) -> float:
    """A sampling rate that an ECG can have."""
    if not MIN_FS_HZ <= fs_hz <= MAX_FS_HZ:
        raise ItemError("damaged_header", f"{path.name}: a rate of {fs_hz:g} Hz, outside {MIN_FS_HZ:g} to {MAX_FS_HZ:g}")
    return float(fs_hz)


def record_of(
    path: Path,
    leads: Sequence[str],
    signal_mv: Sequence[F32] | F32,
    fs_hz: float,
    *,
    usable: Sequence[bool] = (),
    defects: tuple[str, ...] = (),
) -> EcgRecord:
    """Named voltages -> record; of the eight leads that carts store, III, aVR, aVL and aVF are made of I and II.

    A lead that is not `usable` (its electrode was off) keeps its samples and is not valid.
    """
    if len(set(leads)) != len(leads):
        twice = next(lead for lead in leads if list(leads).count(lead) > 1)
        raise ItemError("lead_named_twice", f"{path.name} has two leads {twice}")
    rows: dict[str, F32] = dict(zip(leads, signal_mv, strict=True))
    if len({len(row) for row in rows.values()}) != 1 or not len(next(iter(rows.values()))):
        raise ItemError("damaged_header", f"{path.name}: its leads are of different lengths, or empty")
    good = dict(zip(leads, usable or [True] * len(leads), strict=True))
    if set(EIGHT_LEADS) <= set(leads):
        _add_limb_leads(rows, good)
    order = [*(name for name in STANDARD_LEADS if name in rows), *(name for name in rows if name not in STANDARD_LEADS)]
    if set(order) == set(leads):
        order = list(leads)
    # A Holter of a day is not copied.
    as_is = isinstance(signal_mv, np.ndarray) and order == list(leads)
    signal: F32 = np.asarray(signal_mv) if as_is else np.stack([rows[name] for name in order])
    finite = np.isfinite(signal)
    signal[~finite] = np.nan
    valid = np.asarray(finite.all(axis=1) & np.array([good[name] for name in order]))
    return EcgRecord(signal=signal, leads=tuple(order), lead_valid=valid, unit="mv", fs_hz=fs_hz, defects=defects)


def _add_limb_leads(rows: dict[str, F32], good: dict[str, bool]) -> None:
    """Einthoven and Goldberger: III = II - I, aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2."""
    one, two = rows["I"].astype(np.float64), rows["II"].astype(np.float64)
    made = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    for name, values in made.items():
        if name not in rows:
            rows[name], good[name] = values.astype(np.float32), good["I"] and good["II"]
