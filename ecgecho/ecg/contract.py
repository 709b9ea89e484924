"""A recording as an encoder wants to be fed: 12 leads by name, filtered, resampled, cut or padded, in mV or standardised.

Filters and resampling are linear, so they may be applied to z-scores; the result has neither their mean nor their deviation.
A chain (`contract.chain`) comes after both, so that its seconds are those of the contract's rate, and before anything is cut.

C leads, L samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ecgecho.ecg import baseline
from ecgecho.ecg.filters import band_pass, resample
from ecgecho.types import F32, STANDARD_LEADS, Bool, EcgContract, EcgRecord, ItemError

SPREAD_FLOOR = 1e-4
"""Of a lead that is standardised, 0.1 uV or as many standard deviations: what varies less is flat, and becomes zeros."""
WHOLE_S = 120.0
"""As much of a recording as a chain looks at: all that is recorded at rest, and of a Holter a bounded part. Chosen."""
LIMB = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""The limb leads as multiples of I and II. Source: Einthoven (III = II - I) and Goldberger (aVR = -(I + II) / 2, ...)."""


def apply_contract(record: EcgRecord, contract: EcgContract) -> tuple[F32, Bool]:
    """The recording under a contract -> (len(contract.leads), num_samples) in its unit, and which leads hold data.

    A lead that is missing and cannot be derived, or that holds a NaN, is all zeros and not valid.
    Raises ItemError: "unit_not_mv", "no_valid_lead", "too_short" (contract.short "refuse", contract.least_samples).
    """
    if record.unit != "mv" and contract.unit == "mv":
        raise ItemError("unit_not_mv", f"the recording is in {record.unit}, this contract needs mV")
    complete = canonical_leads(record, contract.leads)
    lead_valid = complete.lead_valid
    if not lead_valid.any():
        raise ItemError("no_valid_lead", f"none of the leads {', '.join(contract.leads)} is usable (file has {record.leads})")
    values: npt.NDArray[np.floating] = complete.signal[lead_valid]
    if contract.chain:
        values = values[:, : round(WHOLE_S * record.fs_hz)]
    if contract.band_hz is not None:
        values = band_pass(values, record.fs_hz, contract.band_hz, contract.fs_hz)
    values = resample(values, record.fs_hz, contract.fs_hz)
    least = max(contract.least_samples, contract.num_samples if contract.short == "refuse" else 0)
    if values.shape[1] < least:
        seconds = complete.signal.shape[1] / record.fs_hz
        raise ItemError("too_short", f"{seconds:.2f} s recorded, {least / contract.fs_hz:.2f} s wanted", outcome="excluded")
    if contract.chain == "otis":
        values = baseline.otis(values, [name for name, valid in zip(contract.leads, lead_valid, strict=True) if valid])
    values = values[:, : contract.num_samples]
    if contract.unit == "zscore" and not contract.chain:
        spread = values.std(axis=1, keepdims=True)
        values = np.where(spread > SPREAD_FLOOR, values - values.mean(axis=1, keepdims=True), 0.0)
        values = values / np.maximum(spread, SPREAD_FLOOR)
    result = np.zeros((len(contract.leads), contract.num_samples), np.float32)
    result[lead_valid, : values.shape[1]] = values
    return result, lead_valid


def canonical_leads(record: EcgRecord, leads: tuple[str, ...] = STANDARD_LEADS) -> EcgRecord:
    """The recording with exactly `leads`, chosen by name, at its own rate and length.

    Missing limb leads are derived from two valid ones. A lead that was recorded with a NaN keeps it and is not valid:
    what broke the electrode is no reason to trust a sum. A lead that is missing and cannot be derived is NaN, not valid.
    """
    if record.leads == leads:
        return record
    place = {name: row for row, name in enumerate(record.leads)}
    limb = [name for name in LIMB if name in place and record.lead_valid[place[name]]][:2]
    signal = np.full((len(leads), record.signal.shape[1]), np.nan, np.float32)
    lead_valid = np.zeros(len(leads), bool)
    for row, name in enumerate(leads):
        if name in place:
            signal[row], lead_valid[row] = record.signal[place[name]], record.lead_valid[place[name]]
        elif name in LIMB and len(limb) == 2:
            weights = np.linalg.solve(np.array([LIMB[known] for known in limb]).T, np.array(LIMB[name]))
            known = record.signal[[place[known] for known in limb]].astype(np.float64)
            signal[row], lead_valid[row] = weights @ known, True
    return EcgRecord(signal=signal, leads=leads, lead_valid=lead_valid, unit=record.unit, fs_hz=record.fs_hz)
