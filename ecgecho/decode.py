"""What a decode worker does with one file: an echo clip prepared for a teacher, an ECG under a contract. Never imports torch.

Codes of an ECG that is read and not used, besides those of the readers: lead_missing (X, Y or Z), no_valid_lead, all_flat,
too_long, unit_differs, and those of the contract. Codes of one that is used: derived_from_xyz and its like (ecg/vcg.py),
invalid_lead_NAME, many_invalid_leads, what the reader noted, and what ecg/quality.py finds.

Shape letters: L samples.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ecgecho import plugins
from ecgecho.echo.echoprime_mask import mask_as_echoprime
from ecgecho.echo.sector import blank, find_sector
from ecgecho.io import read_ecg, read_echo
from ecgecho.io.fingerprint import fingerprint
from ecgecho.io.sidecar import sidecar_of
from ecgecho.types import EcgContract, EcgRecord, EcgSource, ItemError, PreparedClip, TeacherSpec

DCT_MARGIN = 5 / 4
"""The "echoclip" crop keeps 80 % of a picture's short side: so many lines more than the teacher's are enough for it."""
LEAST_LINES = 280
"""Of pictures with fewer, the outline of the blanked sector gave away the heart rate: docs/decoding.md."""
MAX_SAMPLES = 1 << 22
"""Of a row of a store: 70 minutes at 1000 Hz. Of a Holter the catalog names excerpts."""
MAX_NAMED = 3
"""As many invalid leads are named by a code each."""
PLAIN_ARRAYS = (".npy", ".csv", ".csv.gz", ".h5", ".hdf5")
Decode = Literal["full", "dct"]
EcgUnit = Literal["mv", "zscore"]
VcgMethod = Literal["dower", "kors"]


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
    source: EcgSource | None = None
    """Which recording of the file, and what the file does not say."""
    unit: EcgUnit = "mv"
    """Of a store without a contract: a recording in the other one is refused."""
    vcg: VcgMethod = "dower"
    """How X, Y, Z become 12 leads; recordings that have limb or chest leads are left alone."""
    flip_z: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTask:
    """A row of a raw store for a worker: what became of the recording there, and its columns where that is "ok"."""

    columns: Mapping[str, Any]
    fs_mhz: int
    fingerprint: str
    status: Literal["ok", "excluded", "failed"]
    reason: str
    permanent: bool
    contract: EcgContract
    unit: EcgUnit


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
    elif task.spec.mask == "echoprime":
        frames = mask_as_echoprime(frames)
    prepared = plugins.load("teachers", task.teacher).prepare(task.spec, frames, clip.frame_time_ms)
    if len(frames) < clip_span(task.spec):
        defects.append("shorter_than_a_clip")
    facts = ClipFacts(num_frames=len(clip.frames), fingerprint=fingerprint(*echo_files(task.path)), defects=tuple(defects))
    return DecodedClip(prepared=prepared, facts=facts)


def clip_span(spec: TeacherSpec) -> int:
    """Frames of a cine that a clip of the teacher reaches over; 0 for a teacher of frames. Shorter ones are filled up."""
    return (spec.clip_frames - 1) * spec.frame_stride + 1 if spec.clip_frames else 0


def echo_files(path: str) -> tuple[str, ...]:
    """The files that a clip is read from: a MetaImage header with its samples beside it, else one."""
    samples = f"{path[:-4]}.raw"
    return (path, samples) if path.lower().endswith(".mhd") and os.path.isfile(samples) else (path,)


def least_lines(spec: TeacherSpec) -> int:
    """Lines that a picture decoded at a smaller size must have at least."""
    return max(LEAST_LINES, round(DCT_MARGIN * spec.size))


def decode_ecg(task: EcgTask) -> DecodedEcg:
    """Read a recording and, where a contract is given, apply it. Runs in a worker; raises ItemError."""
    found = read_ecg(task.path, task.source)
    record, defects = _twelve(found, task)
    if task.contract is None and record.unit != task.unit:
        raise ItemError("unit_differs", f"the recording is in {record.unit}, the others of this store are in {task.unit}")
    columns = raw_columns(record)
    if task.contract is not None:
        # By way of the raw columns, so that a raw store and the files themselves give the same rows.
        columns = contract_columns(columns, record.fs_hz, task.contract, record.unit)
    mark = ecg_fingerprint(task.path, task.source, found)
    return DecodedEcg(columns=columns, fs_mhz=round(record.fs_hz * 1000), fingerprint=mark, defects=defects)


def convert_row(task: RowTask) -> DecodedEcg:
    """Apply a contract to a row of a raw store. Runs in a worker; raises ItemError."""
    if task.status != "ok":
        raise ItemError(task.reason, "the raw store has no signal for it", outcome=task.status, permanent=task.permanent)
    columns = contract_columns(task.columns, task.fs_mhz / 1000, task.contract, task.unit)
    defects = tuple(filter(None, task.reason.split(";")))
    return DecodedEcg(columns=columns, fs_mhz=task.fs_mhz, fingerprint=task.fingerprint, defects=defects)


def mark_ecg(task: EcgTask) -> str:
    """The fingerprint of a recording. Runs in a worker; raises ItemError."""
    return ecg_fingerprint(task.path, task.source)


def look_at_ecg(task: EcgTask) -> list[str]:
    """The codes of what is wrong with a recording that can be used. Runs in a worker; raises ItemError where none can."""
    return list(_twelve(read_ecg(task.path, task.source), task)[1])


def _twelve(record: EcgRecord, task: EcgTask) -> tuple[EcgRecord, tuple[str, ...]]:
    """The 12 leads of a recording, and the defects of what was recorded."""
    from ecgecho.ecg.contract import canonical_leads
    from ecgecho.ecg.quality import defects_of
    from ecgecho.ecg.vcg import is_xyz, twelve_leads

    if record.signal.shape[1] > MAX_SAMPLES:
        hours = record.signal.shape[1] / record.fs_hz / 3600
        raise ItemError("too_long", f"{hours:.1f} hours are no ECG of one row; the catalog must name an excerpt of it")
    seen = defects_of(record)
    whole = twelve_leads(record, task.vcg, task.flip_z) if is_xyz(record) else canonical_leads(record)
    invalid = [name for name, ok in zip(whole.leads, whole.lead_valid, strict=True) if not ok]
    if len(invalid) == len(whole.leads):
        raise ItemError("no_valid_lead", "no lead of this recording is usable")
    if "all_flat" in seen:
        raise ItemError("all_flat", "no lead of this recording holds a voltage")
    named = [f"invalid_lead_{name}" for name in invalid] if len(invalid) <= MAX_NAMED else ["many_invalid_leads"]
    return whole, tuple(dict.fromkeys([*whole.defects, *record.defects, *named, *seen]))


def ecg_fingerprint(path: str, source: EcgSource | None, record: EcgRecord | None = None) -> str:
    """ "SIZE:SHA256" of the files of an ECG, or "SIZE:TAG:SHA256" of what a source tells of them.

    Of a row or an excerpt the values that are read are hashed, not the file: an array may hold 72,475 recordings in 17 GB.
    SIZE is always that of the files. `record` is what was read, where it was.
    """
    tag = source_tag(source)
    if source is None or not tag:
        return fingerprint(*ecg_files(path))
    if not is_part(source):
        size, _, found = fingerprint(*ecg_files(path)).rpartition(":")
        return f"{size}:{tag}:{found}"
    read = record if record is not None else read_ecg(path, source)
    values = hashlib.sha256(repr((read.leads, read.unit, read.fs_hz, read.signal.shape)).encode())
    values.update(np.ascontiguousarray(read.signal).tobytes())
    try:
        size = str(sum(os.stat(file).st_size for file in ecg_files(path)))
    except OSError as err:
        raise ItemError("unreadable", f"{os.path.basename(path)}: {err.strerror}", permanent=False) from err
    return f"{size}:{tag}:{values.hexdigest()}"


def is_part(source: EcgSource | None) -> bool:
    """Whether a row or an excerpt is meant, whose fingerprint takes a reader and therefore a worker."""
    return source is not None and (source.row is not None or source.start_s != 0 or source.duration_s is not None)


def source_tag(source: EcgSource | None) -> str:
    """What a fingerprint keeps of a source, so that another row, excerpt, unit, rate or lead is seen without reading."""
    if source is None:
        return ""
    # Only what is said: a field that sources may get later changes no tag of today.
    said = {field.name: getattr(source, field.name) for field in fields(source) if getattr(source, field.name) != field.default}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16] if said else ""


def raw_columns(record: EcgRecord) -> dict[str, Any]:
    """A 12-lead record as int16 (L, 12), float32 scale (12,), uint8 lead_valid (12,)."""
    from ecgecho.ecg.quantise import to_int16

    stored, scale = to_int16(record.signal)
    return {"signal": np.ascontiguousarray(stored.T), "scale": scale, "lead_valid": record.lead_valid.astype(np.uint8)}


def contract_columns(raw: Mapping[str, Any], fs_hz: float, contract: EcgContract, unit: EcgUnit = "mv") -> dict[str, Any]:
    """Raw columns at their own rate -> int16 (12, num_samples) under a contract. ItemError where the contract refuses."""
    from ecgecho.ecg.contract import apply_contract
    from ecgecho.ecg.quantise import from_int16, to_int16
    from ecgecho.types import STANDARD_LEADS

    signal = from_int16(np.ascontiguousarray(raw["signal"].T), raw["scale"])
    record = EcgRecord(
        signal=signal, leads=STANDARD_LEADS, lead_valid=np.asarray(raw["lead_valid"], bool), unit=unit, fs_hz=fs_hz
    )
    values, lead_valid = apply_contract(record, contract)
    stored, scale = to_int16(values)
    return {"signal": stored, "scale": scale, "lead_valid": lead_valid.astype(np.uint8)}


def ecg_files(path: str) -> tuple[str, ...]:
    """The files that an ECG is read from, as far as they are there; else the file itself.

    Header and samples of a WFDB record (.dat, or .mat), what is written beside an array and the array, or one file. The last
    one holds the samples.
    """
    lower = path.lower()
    if not lower.endswith(PLAIN_ARRAYS):
        stem = path.removesuffix(".hea").removesuffix(".dat").removesuffix(".mat")
        header, samples = f"{stem}.hea", f"{stem}.dat"
        if os.path.isfile(header):
            if not os.path.isfile(samples):
                samples = f"{stem}.mat"
            return (header, samples) if os.path.isfile(samples) else (header,)
        if os.path.isfile(samples):
            return (samples,)
    if lower.endswith((*PLAIN_ARRAYS, ".mat")):
        beside = str(sidecar_of(Path(path)))
        return (beside, path) if os.path.isfile(beside) else (path,)
    return (path,)
