"""WFDB records -> EcgRecord. Format 16 by our own reader; what else there is, by the wfdb library.

Format 16 is int16 little endian, samples of all signals of one file interleaved; -32768 marks a sample that is not there.
mV = (raw - baseline) / gain. Source: WFDB header(5) and signal(5) manual pages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import canonical_lead, is_ecg_lead
from ecgecho.types import F32, Bool, EcgRecord, ItemError

DEFAULT_GAIN = 200.0  # header(5): where the gain is absent or zero
DEFAULT_FS_HZ = 250.0  # header(5)
INVALID = -32768
MAX_HEADER_BYTES = 1 << 20
MAX_SIGNALS = 256
MAX_VALUES = 1 << 28
"""Samples times signals: 1 GiB as float32, 74 h of three leads at 500 Hz."""
_MV_PER = {"mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "v": 1e3, "nv": 1e-6}
_GAIN = re.compile(r"^([0-9.eE+-]+)?(?:\((-?\d+)\))?(?:/(\S+))?$")
_FORMAT = re.compile(r"^(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalLine:
    """One signal of a header."""

    file: str
    format: int
    plain: bool
    """No extra samples per frame and no skew."""
    byte_offset: int
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHeader:
    """A parsed .hea file of one segment."""

    fs_hz: float
    num_samples: int
    """0 where the header does not say."""
    signals: tuple[SignalLine, ...]


def read(path: Path) -> EcgRecord:
    """The record of a .hea file; `path` may end in .hea, .dat or neither."""
    header_path = path.with_suffix(".hea") if path.suffix.lower() in (".hea", ".dat") else path.with_name(path.name + ".hea")
    if size_of(header_path) > MAX_HEADER_BYTES:
        raise ItemError("too_large", f"{header_path.name} is larger than any header")
    try:
        header = parse_header(read_bytes(header_path).decode("latin-1"), header_path.name)
    except (ValueError, OverflowError) as err:
        if isinstance(err, ItemError):
            raise
        raise ItemError("damaged_header", f"{header_path.name}: {err}") from err
    for signal in header.signals:
        # A header is untrusted: it may name only files that lie beside it.
        if Path(signal.file).name != signal.file or signal.file in ("", ".", "..") or "\\" in signal.file or "\0" in signal.file:
            raise ItemError("unsafe_file_name", f"{header_path.name} names the file {signal.file!r}, which is not beside it")
    if all(signal.format == 16 and signal.plain for signal in header.signals):
        digital, num_samples = _read_format_16(header, header_path)
        values = np.empty((len(header.signals), num_samples), np.float32)
        for row, signal in enumerate(header.signals):
            values[row] = (digital[row] - np.float64(signal.baseline)) / signal.gain
            values[row, digital[row] == INVALID] = np.nan
    else:
        values = _through_library(header, header_path)
    return _record(header, values, header_path.name)


def parse_header(text: str, name: str) -> RecordHeader:
    """The record line and the signal lines of a header."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ItemError("damaged_header", f"{name} has no record line")
    words = lines[0].split()
    if len(words) < 2:
        raise ItemError("damaged_header", f"{name}: the record line has no number of signals")
    if "/" in words[0]:
        raise ItemError("unsupported_format", f"{name} is a record of several segments")
    num_signals = int(words[1])
    fs_hz = float(re.split(r"[/(]", words[2])[0]) if len(words) > 2 else DEFAULT_FS_HZ
    num_samples = int(words[3]) if len(words) > 3 else 0
    if not 1 <= num_signals <= MAX_SIGNALS or len(lines) < 1 + num_signals:
        raise ItemError("damaged_header", f"{name}: {num_signals} signals are announced, {len(lines) - 1} are described")
    if not (0 < fs_hz < 1e6) or num_samples < 0:
        raise ItemError("damaged_header", f"{name}: {fs_hz} Hz, {num_samples} samples")
    if num_samples * num_signals > MAX_VALUES:
        raise ItemError("too_large", f"{name}: {num_samples} samples of {num_signals} signals are more than a reader takes")
    signals = tuple(_signal_line(line, name) for line in lines[1 : 1 + num_signals])
    return RecordHeader(fs_hz=fs_hz, num_samples=num_samples, signals=signals)


def _signal_line(line: str, name: str) -> SignalLine:
    words = line.split(maxsplit=8)
    form = _FORMAT.match(words[1]) if len(words) > 1 else None
    gain = _GAIN.match(words[2]) if len(words) > 2 else None
    if form is None or (gain is None and len(words) > 2):
        raise ItemError("damaged_header", f"{name}: the signal line {line[:60]!r} cannot be read")
    value = float(gain[1]) if gain is not None and gain[1] else DEFAULT_GAIN
    adc_zero = int(words[4]) if len(words) > 4 else 0
    if not np.isfinite(value):
        raise ItemError("damaged_header", f"{name}: a gain of {value}")
    return SignalLine(
        file=words[0],
        format=int(form[1]),
        plain=form[2] in (None, "1") and form[3] in (None, "0"),
        byte_offset=int(form[4] or 0),
        gain=value or DEFAULT_GAIN,
        baseline=int(gain[2]) if gain is not None and gain[2] else adc_zero,
        unit=(gain[3] if gain is not None and gain[3] else "mV"),
        checksum=int(words[6]) if len(words) > 6 else None,
        name=words[8] if len(words) > 8 else "",
    )


def _read_format_16(header: RecordHeader, header_path: Path) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int16]], int]:
    """(C, L) raw values of all files of the record."""
    files = list(dict.fromkeys(signal.file for signal in header.signals))
    groups = {file: [row for row, signal in enumerate(header.signals) if signal.file == file] for file in files}
    num_samples = header.num_samples
    for file, rows in groups.items():
        there = (size_of(header_path.with_name(file)) - header.signals[rows[0]].byte_offset) // (2 * len(rows))
        if header.num_samples == 0:
            num_samples = there if num_samples == 0 else min(there, num_samples)
        elif there < header.num_samples:
            raise ItemError("truncated", f"{file} holds {max(there, 0)} of the {header.num_samples} samples its header promises")
    if num_samples < 1 or num_samples * len(header.signals) > MAX_VALUES:
        raise ItemError("truncated" if num_samples < 1 else "too_large", f"{header_path.name}: {num_samples} samples a signal")
    digital = np.empty((len(header.signals), num_samples), np.int16)
    for file, rows in groups.items():
        offset = header.signals[rows[0]].byte_offset
        data = read_bytes(header_path.with_name(file), offset=offset, size=2 * len(rows) * num_samples)
        if len(data) < 2 * len(rows) * num_samples:
            raise ItemError("truncated", f"{file} became shorter while it was read")
        digital[rows] = np.frombuffer(data, "<i2").reshape(num_samples, len(rows)).T
    # Writers that do not compute checksums leave zeros.
    if header.num_samples and any(signal.checksum for signal in header.signals):
        sums = digital.sum(axis=1, dtype=np.int64)
        for signal, total in zip(header.signals, sums, strict=True):
            if signal.checksum is not None and (int(total) - signal.checksum) % 65536:
                raise ItemError(
                    "checksum_differs", f"{signal.file}: the samples of {signal.name!r} do not add up to its checksum"
                )
    return digital, num_samples


def _through_library(header: RecordHeader, header_path: Path) -> F32:
    import wfdb

    for signal in header.signals:
        size_of(header_path.with_name(signal.file))
    try:
        record = wfdb.rdrecord(str(header_path.with_suffix("")), physical=True)
        values = np.ascontiguousarray(record.p_signal.T, np.float32)
    except MemoryError:
        raise
    except Exception as err:
        formats = sorted({signal.format for signal in header.signals})
        raise ItemError("undecodable", f"{header_path.name}, formats {formats}: {type(err).__name__}: {err}") from err
    if values.ndim != 2 or values.shape[0] != len(header.signals) or values.shape[1] < 1:
        raise ItemError("undecodable", f"{header_path.name}: signals of shape {values.shape}")
    return values


def _record(header: RecordHeader, values: F32, name: str) -> EcgRecord:
    """Keeps the voltages, in mV; a channel of another unit that is no ECG lead (respiration, pressure) is left out."""
    rows, leads = [], []
    for row, signal in enumerate(header.signals):
        lead = canonical_lead(signal.name) or f"signal {row}"
        scale = _MV_PER.get(signal.unit.lower())
        if scale is None:
            if is_ecg_lead(lead):
                raise ItemError("unit_unknown", f"{name}: lead {lead} is in {signal.unit!r}, which is no voltage")
            continue
        if lead in leads:
            raise ItemError("lead_named_twice", f"{name} has two leads {lead}")
        if scale != 1.0:
            values[row] *= np.float32(scale)
        rows.append(row)
        leads.append(lead)
    if not rows:
        raise ItemError("not_ecg", f"{name} has no signal in volts")
    signal_mv = values if len(rows) == len(values) else values[rows]
    valid: Bool = np.asarray(np.isfinite(signal_mv).all(axis=1))
    signal_mv[~np.isfinite(signal_mv)] = np.nan
    return EcgRecord(signal=signal_mv, leads=tuple(leads), lead_valid=valid, unit="mv", fs_hz=header.fs_hz)
