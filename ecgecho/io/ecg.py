"""An ECG file of any kind -> EcgRecord in mV, leads by name."""

from __future__ import annotations

from pathlib import Path

from ecgecho.io import waveform, wfdb
from ecgecho.io.files import read_bytes
from ecgecho.types import EcgRecord, ItemError


def read_ecg(path: Path | str) -> EcgRecord:
    """A WFDB record (with or without .hea / .dat) or a DICOM waveform: mV, canonical lead names, NaN only on invalid leads."""
    path = Path(path)
    if path.suffix.lower() in (".hea", ".dat") or not path.exists() or path.is_dir():
        return wfdb.read(path)
    if read_bytes(path, size=132)[128:] == b"DICM":
        return waveform.read(path)
    if path.with_name(path.name + ".hea").exists():
        return wfdb.read(path)
    raise ItemError("not_ecg", f"{path.name} is neither a WFDB record nor a DICOM waveform")
