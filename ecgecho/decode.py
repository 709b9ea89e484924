"""What a decode worker does with one file: an echo clip prepared for a teacher, an ECG under a contract. Never imports torch.

Shape letters: L samples.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ecgecho import plugins
from ecgecho.echo.sector import blank, find_sector
from ecgecho.io import read_ecg, read_echo
from ecgecho.io.fingerprint import fingerprint
from ecgecho.types import EcgContract, EcgRecord, ItemError, PreparedClip, TeacherSpec

DCT_MARGIN = 5 / 4
"""The "echoclip" crop keeps 80 % of a picture's short side: so many lines more than the teacher's are enough for it."""
LEAST_LINES = 280
"""Of pictures with fewer, the outline of the blanked sector gave away the heart rate: docs/decoding.md."""
Decode = Literal["full", "dct"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoTask:
    """One clip for a decode worker."""

    path: str
    teacher: str
    spec: TeacherSpec
    decode: Decode = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What a row keeps of a clip besides its vectors."""

    num_frames: int
    fingerprint: str
    defects: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedClip:
    """One clip back from a worker."""

    prepared: PreparedClip
    facts: ClipFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgTask:
    """One recording for a worker; `contract` None keeps the recording's own rate and length."""

    path: str
    contract: EcgContract | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedEcg:
    """One recording back from a worker: int16 (12, L) or (L, 12) raw, with its scale and lead flags."""

    columns: dict[str, Any]
    fs_mhz: int
    fingerprint: str
    defects: tuple[str, ...]


def decode_clip(task: EchoTask) -> DecodedClip:
    """Read, find the sector, blank the rest, prepare. Runs in a worker; raises ItemError."""
    clip = read_echo(task.path, decode=task.decode, least=least_lines(task.spec))
    if clip.kind == "colour":
        raise ItemError("colour_doppler", "colour Doppler clips are not embedded", outcome="excluded")
    frames, defects = clip.frames, list(clip.defects)
    if task.spec.mask == "sector":
        sector = find_sector(clip)
        defects += sector.defects
        frames = blank(frames, sector, clip.kind)
    prepared = plugins.load("teachers", task.teacher).prepare(task.spec, frames, clip.frame_time_ms)
    facts = ClipFacts(num_frames=len(clip.frames), fingerprint=fingerprint(task.path), defects=tuple(defects))
    return DecodedClip(prepared=prepared, facts=facts)


def least_lines(spec: TeacherSpec) -> int:
    """Lines that a picture decoded at a smaller size must have at least."""
    return max(LEAST_LINES, round(DCT_MARGIN * spec.size))


def decode_ecg(task: EcgTask) -> DecodedEcg:
    """Read a recording and, where a contract is given, apply it. Runs in a worker; raises ItemError."""
    from ecgecho.ecg.contract import canonical_leads

    record = canonical_leads(read_ecg(task.path))
    if not record.lead_valid.any():
        raise ItemError("no_valid_lead", "no lead of this recording is usable")
    defects = tuple(f"invalid_lead_{name}" for name, ok in zip(record.leads, record.lead_valid, strict=True) if not ok)
    columns = raw_columns(record)
    if task.contract is not None:
        # By way of the raw columns, so that a raw store and the files themselves give the same rows.
        columns = contract_columns(columns, record.fs_hz, task.contract)
    return DecodedEcg(
        columns=columns, fs_mhz=round(record.fs_hz * 1000), fingerprint=fingerprint(*wfdb_files(task.path)), defects=defects
    )


def raw_columns(record: EcgRecord) -> dict[str, Any]:
    """A 12-lead record as int16 (L, 12), float32 scale (12,), uint8 lead_valid (12,)."""
    from ecgecho.ecg.quantise import to_int16

    stored, scale = to_int16(record.signal)
    return {"signal": np.ascontiguousarray(stored.T), "scale": scale, "lead_valid": record.lead_valid.astype(np.uint8)}


def contract_columns(raw: Mapping[str, Any], fs_hz: float, contract: EcgContract) -> dict[str, Any]:
    """Raw columns at their own rate -> int16 (12, num_samples) under a contract. ItemError where the contract refuses."""
    from ecgecho.ecg.contract import apply_contract
    from ecgecho.ecg.quantise import from_int16, to_int16
    from ecgecho.types import STANDARD_LEADS

    signal = from_int16(np.ascontiguousarray(raw["signal"].T), raw["scale"])
    record = EcgRecord(
        signal=signal, leads=STANDARD_LEADS, lead_valid=np.asarray(raw["lead_valid"], bool), unit="mv", fs_hz=fs_hz
    )
    values, lead_valid = apply_contract(record, contract)
    stored, scale = to_int16(values)
    return {"signal": stored, "scale": scale, "lead_valid": lead_valid.astype(np.uint8)}


def wfdb_files(path: str) -> tuple[str, ...]:
    """The files that an ECG is read from: header and samples of a WFDB record, as far as they are there; else the file itself."""
    stem = path.removesuffix(".hea").removesuffix(".dat")
    return tuple(file for file in (f"{stem}.hea", f"{stem}.dat") if os.path.isfile(file)) or (path,)
