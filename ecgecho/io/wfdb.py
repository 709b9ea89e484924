"""WFDB records -> EcgRecord. Format 16 by our own reader; what else there is, by the wfdb library.

Format 16 is int16 little endian, samples of all signals of one file interleaved; -32768 marks a sample that is not there.
mV = (raw - baseline) / gain. The samples may lie in a level 4 MATLAB file (`16+24`), whose own header must then agree.
Of an excerpt only its bytes are read; a checksum says something of whole records only.
Source: WFDB header(5) and signal(5) manual pages.

Defects of a record that was read: header_line_fused, trailing_bytes, excerpt_short. A file that is longer than its header
says by a simple ratio is refused ("length_disagrees"): then the number of signals or the length is wrong, as in 20 records of
MUSIC v1.0.1, which say 797,333 samples and hold 1,196,000. What the header says of rate, unit and leads is never overridden, and
never overrides what the dataset says: where they say two things, the record is refused ("rate_disagrees", "unit_disagrees",
"leads_disagree"). Words of a header that name no electrode place are not kept: such a signal is "channel N".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecgecho.io.excerpt import samples_of
from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import canonical_lead, is_ecg_lead, lead_or_channel
from ecgecho.io.mat import level_4_matrix
from ecgecho.types import F32, Bool, EcgRecord, EcgSource, ItemError

DEFAULT_GAIN = 200.0  # header(5): where the gain is absent or zero
DEFAULT_FS_HZ = 250.0  # header(5)
INVALID = -32768
MAX_HEADER_BYTES = 1 << 20
MAX_SIGNALS = 256
MAX_VALUES = 1 << 28
"""Samples times signals: 1 GiB as float32, 74 h of three leads at 500 Hz."""
MAX_RATIO = (4, 64)
"""Largest denominator and numerator of a ratio of lengths that is no accident: 3/2 is three signals where two are said."""
RATE_TOLERANCE = 1e-3
_RECORD_WORDS = 4
_SIGNAL_WORDS = 9
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
    defects: tuple[str, ...] = ()


def read(path: Path, source: EcgSource | None = None) -> EcgRecord:
    """The record of a .hea file, or an excerpt; `path` may end in .hea, .dat, .mat or none of them."""
    known = path.suffix.lower() in (".hea", ".dat", ".mat")
    header_path = path.with_suffix(".hea") if known else path.with_name(path.name + ".hea")
    if source is not None and source.row is not None:
        raise ItemError("row_outside", f"{header_path.name} is one recording, and row {source.row} of it is asked for")
    if size_of(header_path) > MAX_HEADER_BYTES:
        raise ItemError("too_large", f"{header_path.name} is larger than any header")
    try:
        header = parse_header(read_bytes(header_path).decode("latin-1"), header_path.name)
    except (ValueError, OverflowError) as err:
        if isinstance(err, ItemError):
            raise
        raise ItemError("damaged_header", f"{header_path.name}: {type(err).__name__} in a number") from err
    if source is not None and source.fs_hz is not None and abs(source.fs_hz / header.fs_hz - 1) > RATE_TOLERANCE:
        raise ItemError("rate_disagrees", f"{header_path.name} says {header.fs_hz:g} Hz, the dataset says {source.fs_hz:g}")
    for signal in header.signals:
        # A header is untrusted: it may name only files that lie beside it.
        if Path(signal.file).name != signal.file or signal.file in ("", ".", "..") or "\\" in signal.file or "\0" in signal.file:
            raise ItemError("unsafe_file_name", f"{header_path.name} names a file that is not beside it")
    if all(signal.format == 16 and signal.plain for signal in header.signals):
        digital, defects = _read_format_16(header, header_path, source)
        values = np.empty(digital.shape, np.float32)
        with np.errstate(over="ignore"):
            for row, signal in enumerate(header.signals):
                values[row] = (digital[row] - np.float64(signal.baseline)) / signal.gain
                values[row, digital[row] == INVALID] = np.nan
    else:
        values, defects = _through_library(header, header_path, source)
    return _record(header, values, header_path.name, source, (*header.defects, *defects))


def parse_header(text: str, name: str) -> RecordHeader:
    """The record line and the signal lines of a header."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ItemError("damaged_header", f"{name} has no record line")
    words = lines[0].split()
    fused = _is_fused(words, lines[1:])
    if fused:
        lines[:1] = [" ".join(words[:_RECORD_WORDS]), " ".join(words[_RECORD_WORDS:])]
        words = words[:_RECORD_WORDS]
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
    defects = ("header_line_fused",) if fused else ()
    return RecordHeader(fs_hz=fs_hz, num_samples=num_samples, signals=signals, defects=defects)


def _is_fused(words: list[str], below: list[str]) -> bool:
    """Whether the whole first signal line stands on the record line, as in JS23074.hea of Chapman-Shaoxing-Ningbo 1.0.0.

    The other one of that kind, JS01052.hea, has lost the name of the file and the length with the line break; it is refused.
    """
    if len(words) != _RECORD_WORDS + _SIGNAL_WORDS or not words[1].isdecimal() or int(words[1]) - 1 != len(below) or not below:
        return False
    next_words = below[0].split()
    return next_words[:2] == words[_RECORD_WORDS : _RECORD_WORDS + 2] and _FORMAT.match(next_words[1]) is not None


def _signal_line(line: str, name: str) -> SignalLine:
    words = line.split(maxsplit=8)
    form = _FORMAT.match(words[1]) if len(words) > 1 else None
    gain = _GAIN.match(words[2]) if len(words) > 2 else None
    if form is None or (gain is None and len(words) > 2):
        raise ItemError("damaged_header", f"{name}: a signal line cannot be read")
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


Digital = np.ndarray[tuple[int, int], np.dtype[np.int16]]


def _read_format_16(header: RecordHeader, header_path: Path, source: EcgSource | None) -> tuple[Digital, tuple[str, ...]]:
    """(C, L) raw values of all files of the record, or of the excerpt."""
    files = list(dict.fromkeys(signal.file for signal in header.signals))
    groups = {file: [row for row, signal in enumerate(header.signals) if signal.file == file] for file in files}
    num_samples, longer = header.num_samples, False
    for file, rows in groups.items():
        offset = header.signals[rows[0]].byte_offset
        if file.lower().endswith(".mat"):
            _check_matrix(header_path.with_name(file), offset, len(rows), header.num_samples)
        size = size_of(header_path.with_name(file)) - offset
        there = size // (2 * len(rows))
        if header.num_samples == 0:
            num_samples = there if num_samples == 0 else min(there, num_samples)
        elif there < header.num_samples:
            raise ItemError("truncated", f"{file} holds {max(there, 0)} of the {header.num_samples} samples its header promises")
        else:
            _check_length(file, size, 2 * len(rows), header.num_samples)
            longer |= size > 2 * len(rows) * header.num_samples
    if num_samples < 1 or num_samples * len(header.signals) > MAX_VALUES:
        raise ItemError("truncated" if num_samples < 1 else "too_large", f"{header_path.name}: {num_samples} samples a signal")
    first, last, defects = samples_of(source, header.fs_hz, num_samples, header_path.name)
    digital = np.empty((len(header.signals), last - first), np.int16)
    for file, rows in groups.items():
        frame = 2 * len(rows)
        offset = header.signals[rows[0]].byte_offset + frame * first
        data = read_bytes(header_path.with_name(file), offset=offset, size=frame * (last - first))
        if len(data) < frame * (last - first):
            raise ItemError("truncated", f"{file} became shorter while it was read")
        digital[rows] = np.frombuffer(data, "<i2").reshape(last - first, len(rows)).T
    # Writers that do not compute checksums leave zeros.
    if header.num_samples == last - first and any(signal.checksum for signal in header.signals):
        sums = digital.sum(axis=1, dtype=np.int64)
        for signal, total in zip(header.signals, sums, strict=True):
            if signal.checksum is not None and (int(total) - signal.checksum) % 65536:
                raise ItemError("checksum_differs", f"{signal.file}: the samples of a signal do not add up to its checksum")
    return digital, (*defects, *(("trailing_bytes",) if longer else ()))


def _check_length(file: str, size: int, frame: int, declared: int) -> None:
    """Refuses a file that is p/q times as long as its header says, to the sample, for small p and q."""
    most_q, most_p = MAX_RATIO
    for q in range(1, most_q + 1):
        p = round(size * q / (frame * declared))
        if q < p <= most_p and math.gcd(p, q) == 1 and size * q // (p * frame) == declared:
            raise ItemError(
                "length_disagrees",
                f"{file} holds {size // frame} samples, exactly {p}/{q} of the {declared} in its header: the number of signals "
                f"or the length is wrong there",
            )


def _check_matrix(path: Path, offset: int, num_signals: int, num_samples: int) -> None:
    """The samples in a MATLAB file must be one level 4 matrix of int16, (signals, samples), which begins at the offset."""
    found = level_4_matrix(path)
    if found is None or found.dtype != "<i2" or found.offset != offset or found.rows != num_signals:
        raise ItemError("length_disagrees", f"{path.name} holds no int16 matrix of {num_signals} signals at byte {offset}")
    if num_samples > found.columns:
        raise ItemError("truncated", f"{path.name} holds {found.columns} of the {num_samples} samples its header promises")


def _through_library(header: RecordHeader, header_path: Path, source: EcgSource | None) -> tuple[F32, tuple[str, ...]]:
    import wfdb

    for signal in header.signals:
        size_of(header_path.with_name(signal.file))
    known = header.num_samples > 0
    first, last, defects = samples_of(source, header.fs_hz, header.num_samples, header_path.name) if known else (0, None, ())
    try:
        record = wfdb.rdrecord(str(header_path.with_suffix("")), sampfrom=first, sampto=last, physical=True)
        values = np.ascontiguousarray(record.p_signal.T, np.float32)
    except MemoryError:
        raise
    except Exception as err:
        formats = sorted({signal.format for signal in header.signals})
        raise ItemError("undecodable", f"{header_path.name}, formats {formats}: {type(err).__name__}") from err
    if values.ndim != 2 or values.shape[0] != len(header.signals) or values.shape[1] < 1:
        raise ItemError("undecodable", f"{header_path.name}: signals of shape {values.shape}")
    if not known:
        first, last, defects = samples_of(source, header.fs_hz, values.shape[1], header_path.name)
        values = values[:, first:last]
    return values, defects


def _names(header: RecordHeader, name: str, source: EcgSource | None) -> list[str]:
    """One lead a signal: electrode places as the header names them, "channel N", or what the dataset says of a silent header."""
    written = [lead_or_channel(signal.name, row + 1) for row, signal in enumerate(header.signals)]
    if source is None or not source.leads:
        return written
    said = [lead_or_channel(word, row + 1) for row, word in enumerate(source.leads)]
    known = [lead for lead in written if not lead.startswith("channel ")]
    silent = [not signal.name or not known for signal in header.signals]
    if len(said) == len(written) and all(silent[row] or lead == said[row] for row, lead in enumerate(written)):
        return [canonical_lead(source.leads[row]) if silent[row] else lead for row, lead in enumerate(written)]
    if said not in (written, known):
        raise ItemError("leads_disagree", f"{name} names {', '.join(known) or len(written)} leads, others than the dataset says")
    return written


def _record(header: RecordHeader, values: F32, name: str, source: EcgSource | None, defects: tuple[str, ...]) -> EcgRecord:
    """Keeps the voltages, in mV; a channel of another unit that is no ECG lead (respiration, pressure) is left out."""
    names = _names(header, name, source)
    said = None if source is None else source.unit
    rows, leads = [], []
    for row, signal in enumerate(header.signals):
        lead = names[row]
        scale = _MV_PER.get(signal.unit.lower())
        if scale is None:
            if not is_ecg_lead(lead):
                continue
            if said is None or said not in _MV_PER:
                raise ItemError("unit_unknown", f"{name}: lead {lead} is in a unit that is no voltage")
            scale = _MV_PER[said]
        elif said is not None and scale != _MV_PER.get(said) and (is_ecg_lead(lead) or not any(map(is_ecg_lead, names))):
            raise ItemError("unit_disagrees", f"{name} has a signal in units of {scale:g} mV, the dataset says {said}")
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
    return EcgRecord(signal=signal_mv, leads=tuple(leads), lead_valid=valid, unit="mv", fs_hz=header.fs_hz, defects=defects)
