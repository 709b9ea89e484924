"""EDF and EDF+C -> EcgRecord: the ECG signals of a polygraphic file, only the excerpt that is asked for.

A header of 256 bytes and 256 a signal, ASCII in fields of fixed width; then records, in each the samples of signal after signal,
int16 little endian. mV = ((raw - digital min) * (physical max - min) / (digital max - min) + physical min) in the unit of the
physical dimension. The fields of patient, recording, prefilter and transducer are never looked at.

EDF+D (records with gaps between) and BDF (24 bits) are refused. Signals that are no ECG (EEG, respiration, annotations) are left
out: a label is an ECG when it names a lead or begins with ECG or EKG.

Source: Kemp et al. 1992 (EDF), Kemp and Olivan 2003 (EDF+), edfplus.info.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ecgecho.io.excerpt import samples_of
from ecgecho.io.files import read_bytes, size_of
from ecgecho.io.leads import canonical_lead, is_ecg_lead, lead_or_channel, mv_per, rate, record_of
from ecgecho.types import EcgRecord, EcgSource, ItemError

MAX_SIGNALS = 512
MAX_VALUES = 1 << 28
MAX_RECORD_BYTES = 1 << 26
_CHUNK_BYTES = 1 << 24
_WIDTHS = (("label", 16), ("transducer", 80), ("unit", 8), ("physical_min", 8), ("physical_max", 8), ("digital_min", 8),
           ("digital_max", 8), ("prefilter", 80), ("samples", 8), ("reserved", 32))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signal:
    lead: str
    first: int
    """Place of its first sample within a record, in samples."""
    samples: int
    """Of a record."""
    gain_mv: float
    offset_mv: float


def read(path: Path, source: EcgSource) -> EcgRecord:
    """The ECG signals in mV, all of one rate."""
    size = size_of(path)
    head = read_bytes(path, size=256)
    if head[:1] == b"\xff":
        raise ItemError("unsupported_format", f"{path.name} is BDF, of 24 bits; write it as EDF")
    if len(head) < 256:
        raise ItemError("truncated", f"{path.name}: the header of an EDF file has 256 bytes, this {len(head)}")
    if head[192:197] == b"EDF+D":
        raise ItemError("unsupported_format", f"{path.name} is EDF+D: its records have gaps between them")
    num_signals, num_records = _whole(head[252:256], path), _whole(head[236:244], path)
    record_s = _real(head[244:252], path)
    if not 1 <= num_signals <= MAX_SIGNALS or not 0 < record_s < 1e6:
        raise ItemError("damaged_header", f"{path.name}: {num_signals} signals, records of {record_s:g} s")
    fields = _fields(read_bytes(path, offset=256, size=256 * num_signals), num_signals, path)
    data_offset = 256 * (num_signals + 1)
    if _whole(head[184:192], path) != data_offset:
        raise ItemError("damaged_header", f"{path.name}: its header says another length than its {num_signals} signals have")
    samples = [_whole(word, path) for word in fields["samples"]]
    record_samples = sum(samples)
    if min(samples) < 0 or not 0 < 2 * record_samples <= MAX_RECORD_BYTES:
        raise ItemError("damaged_header", f"{path.name}: a record of {record_samples} samples")
    there = (size - data_offset) // (2 * record_samples)
    if num_records == -1:  # not known yet while it was written
        num_records = there
    if num_records < 1 or there < num_records:
        raise ItemError("truncated", f"{path.name} holds {there} of the {num_records} records that it promises")
    chosen = _choose(fields, samples, path, source)
    if len({signal.samples for signal in chosen}) != 1 or not chosen[0].samples:
        raise ItemError("unsupported_format", f"{path.name}: its ECG signals are of several rates")
    each = chosen[0].samples
    fs_hz = rate(each / record_s, path)
    first, last, defects = samples_of(source, fs_hz, num_records * each, path.name)
    count = last - first
    if count * len(chosen) > MAX_VALUES:
        raise ItemError("too_large", f"{path.name}: {count} samples of {len(chosen)} leads; ask for an excerpt")
    signal = np.empty((len(chosen), count), np.float32)
    step = max(1, _CHUNK_BYTES // (2 * record_samples))
    records_end = -(-last // each)
    for start in range(first // each, records_end, step):
        stop = min(start + step, records_end)
        data = read_bytes(path, offset=data_offset + 2 * record_samples * start, size=2 * record_samples * (stop - start))
        if len(data) < 2 * record_samples * (stop - start):
            raise ItemError("truncated", f"{path.name} became shorter while it was read")
        raw = np.frombuffer(data, "<i2").reshape(stop - start, record_samples)
        low, high = max(first, start * each), min(last, stop * each)
        for row, part in enumerate(chosen):
            values = raw[:, part.first : part.first + each].reshape(-1)[low - start * each : high - start * each]
            signal[row, low - first : high - first] = values * part.gain_mv + part.offset_mv
    return record_of(path, [part.lead for part in chosen], signal, fs_hz, defects=defects)


def _choose(fields: dict[str, list[bytes]], samples: list[int], path: Path, source: EcgSource) -> list[_Signal]:
    labels = [word.decode("latin-1").strip() for word in fields["label"]]
    is_ecg = [is_ecg_lead(canonical_lead(label)) or bool(re.match(r"(?i)e[ck]g", label)) for label in labels]
    if not any(is_ecg):
        # A Holter that calls its leads "Ch1": what is a voltage and is not said to be something else.
        other = re.compile(r"(?i)ee?g|eog|emg|resp|annotations|ref|sao2|pleth|pulse|temp|pos")
        is_ecg = [
            mv_per(unit.decode("latin-1")) is not None and not other.search(label)
            for label, unit in zip(labels, fields["unit"], strict=True)
        ]
        if sum(is_ecg) != len(source.leads):
            is_ecg = []
    firsts = np.concatenate([[0], np.cumsum(samples)])
    found = []
    for place in np.flatnonzero(is_ecg):
        lead = lead_or_channel(labels[place], int(place) + 1)
        scale = mv_per(fields["unit"][place].decode("latin-1"), silent=source.unit)
        if scale is None:
            raise ItemError("unit_unknown", f"{path.name}: lead {lead} is in a unit that is no voltage")
        low, high = _real(fields["physical_min"][place], path), _real(fields["physical_max"][place], path)
        digital_low, digital_high = _whole(fields["digital_min"][place], path), _whole(fields["digital_max"][place], path)
        if digital_high <= digital_low or low == high or max(abs(low), abs(high)) > 1e12:
            raise ItemError("damaged_header", f"{path.name}: the range of lead {lead} is empty")
        gain = (high - low) / (digital_high - digital_low) * scale
        found.append(
            _Signal(
                lead=lead,
                first=int(firsts[place]),
                samples=samples[place],
                gain_mv=gain,
                offset_mv=low * scale - digital_low * gain,
            )
        )
    if not found:
        raise ItemError("not_ecg", f"{path.name} is EDF, but none of its {len(labels)} signals is called an ECG")
    return found


def _fields(data: bytes, num_signals: int, path: Path) -> dict[str, list[bytes]]:
    if len(data) < 256 * num_signals:
        raise ItemError("truncated", f"{path.name}: its header ends within the description of its signals")
    fields, offset = {}, 0
    for name, width in _WIDTHS:
        fields[name] = [data[offset + width * i : offset + width * (i + 1)] for i in range(num_signals)]
        offset += width * num_signals
    return fields


def _real(field: bytes, path: Path) -> float:
    """A number; some writers use a decimal comma."""
    words = field.decode("latin-1").strip().rstrip("\0").replace(",", ".")
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", words, flags=re.ASCII) is None:
        raise ItemError("damaged_header", f"{path.name}: a field of its header that must be a number is none")
    return float(words)


def _whole(field: bytes, path: Path) -> int:
    value = _real(field, path)
    if value != int(value):
        raise ItemError("damaged_header", f"{path.name}: a field of its header that must be a whole number is none")
    return int(value)
