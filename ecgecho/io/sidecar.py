"""What a file of plain numbers does not say of itself: rate, unit and leads, from its dataset or from a JSON file beside it.

`record.npy` has `record.json`: {"fs_hz": 500, "unit": "mv", "leads": ["I", "II", ...]}, and for HDF5 also "dataset".
Nothing is ever assumed: where neither says it, or where the two disagree, the recording is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import canonical_lead
from ecgecho.types import F32, EcgRecord, EcgSource, ItemError

MAX_JSON_BYTES = 1 << 16
MAX_LEADS = 256
MAX_NAME = 64
_SUFFIXES = (".csv.gz", ".csv", ".npy", ".h5", ".hdf5", ".mat")
Unit = Literal["mv", "uv", "zscore"]
_UNITS: dict[str, Unit] = {"mv": "mv", "uv": "uv", "zscore": "zscore"}
_MISSING = {"fs_hz": "rate_unknown", "unit": "unit_unknown", "leads": "leads_unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is known of a file besides its numbers; None or () where nobody says it."""

    fs_hz: float | None = None
    unit: Unit | None = None
    leads: tuple[str, ...] = ()
    dataset: str = ""
    """Of an HDF5 file."""

    def need(self, *fields: Literal["fs_hz", "unit", "leads"], name: str) -> None:
        """Raises ItemError ("rate_unknown", "unit_unknown", "leads_unknown") where one of these is not known."""
        for field in fields:
            if not getattr(self, field):
                beside = sidecar_of(Path(name)).name
                raise ItemError(_MISSING[field], f'{name} does not say its {field}; give it in {beside}: {{"{field}": ...}}')


def sidecar_of(path: Path) -> Path:
    """Where the JSON file of a file of numbers lies."""
    lower = path.name.lower()
    suffix = next((suffix for suffix in _SUFFIXES if lower.endswith(suffix)), "")
    return path.with_name((path.name[: -len(suffix)] if suffix else path.name) + ".json")


def said_of(path: Path, source: EcgSource | None) -> Said:
    """What the dataset and the file beside it say; "sidecar_disagrees" where they say two things."""
    given = Said() if source is None else Said(fs_hz=source.fs_hz, unit=source.unit, leads=_leads(source.leads, path.name))
    beside = sidecar_of(path)
    if not beside.is_file():
        return given
    found = _parse(beside)
    for field in ("fs_hz", "unit", "leads"):
        ours, theirs = getattr(given, field), getattr(found, field)
        if ours and theirs and ours != theirs:
            raise ItemError("sidecar_disagrees", f"{beside.name} says {field} {theirs}, the dataset says {ours}")
    return Said(
        fs_hz=given.fs_hz or found.fs_hz,
        unit=given.unit or found.unit,
        leads=given.leads or found.leads,
        dataset=found.dataset,
    )


def record_of(values: npt.NDArray[Any], said: Said, name: str, defects: tuple[str, ...] = ()) -> EcgRecord:
    """Numbers (C, L) in the unit that is said -> a record in mV, or in z-scores; what is not finite makes its lead invalid."""
    said.need("fs_hz", "unit", "leads", name=name)
    assert said.fs_hz is not None
    assert said.unit is not None
    if len(values) != len(said.leads):
        raise ItemError("shape_unknown", f"{name} holds {len(values)} signals for {len(said.leads)} leads")
    with np.errstate(over="ignore", invalid="ignore"):
        signal: F32 = np.ascontiguousarray(values, np.float32)
        if said.unit == "uv":
            signal = np.asarray(signal * np.float32(1e-3), np.float32)
    valid = np.asarray(np.isfinite(signal).all(axis=1))
    if not valid.all():
        signal = np.where(np.isfinite(signal), signal, np.float32(np.nan))
    unit: Literal["mv", "zscore"] = "zscore" if said.unit == "zscore" else "mv"
    return EcgRecord(signal=signal, leads=said.leads, lead_valid=valid, unit=unit, fs_hz=said.fs_hz, defects=defects)


def _parse(path: Path) -> Said:
    if size_of(path) > MAX_JSON_BYTES:
        raise ItemError("damaged_sidecar", f"{path.name} is larger than any description of a recording")
    try:
        found = json.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as err:
        raise ItemError("damaged_sidecar", f"{path.name} is no JSON: {type(err).__name__}") from err
    if not isinstance(found, dict):
        raise ItemError("damaged_sidecar", f'{path.name} must be an object: {{"fs_hz": 500, "unit": "mv", "leads": ["I", ...]}}')
    fs_hz, unit, leads, dataset = (found.get(key) for key in ("fs_hz", "unit", "leads", "dataset"))
    if fs_hz is not None and (isinstance(fs_hz, bool) or not isinstance(fs_hz, (int, float)) or not 0 < fs_hz < 1e6):
        raise ItemError("damaged_sidecar", f"{path.name}: fs_hz must be a number of Hz")
    if unit is not None and (not isinstance(unit, str) or unit.lower() not in _UNITS):
        raise ItemError("damaged_sidecar", f"{path.name}: unit must be one of {', '.join(_UNITS)}")
    if isinstance(leads, str):
        leads = leads.split(",")
    if leads is not None and (not isinstance(leads, list) or not all(isinstance(lead, str) for lead in leads)):
        raise ItemError("damaged_sidecar", f"{path.name}: leads must be a list of names")
    if dataset is not None and (not isinstance(dataset, str) or len(dataset) > MAX_NAME):
        raise ItemError("damaged_sidecar", f"{path.name}: dataset must be the name of an array")
    return Said(
        fs_hz=float(fs_hz) if fs_hz is not None else None,
        unit=_UNITS[unit.lower()] if unit is not None else None,
        leads=_leads(tuple(leads or ()), path.name),
        dataset=dataset or "",
    )


def _leads(leads: tuple[str, ...], name: str) -> tuple[str, ...]:
    named = tuple(canonical_lead(lead) for lead in leads)
    if len(set(named)) != len(named):
        raise ItemError("lead_named_twice", f"{name}: a lead is named twice in {', '.join(named[:16])}")
    if len(named) > MAX_LEADS or any(not lead or len(lead) > MAX_NAME for lead in named):
        raise ItemError("leads_unknown", f"{name}: these cannot be names of leads")
    return named
