"""Philips Sierra XML (`restingecgdata`, 1.03, 1.04, 1.04.01, 1.04.02) -> EcgRecord: `parsedwaveforms`, never `repbeats`.

XLI, a chunk a lead: int32 size, int16 that is not used, int16 start, then LZW of 10-bit codes, most significant bit first. What
comes out is the high bytes, then the low bytes, of n words d. x[0] = d[0], x[1] = d[1], and the second difference of x is
-start for x[2] and 64 - d[i - 1] for x[i]; the last word is not used. The derived limb leads are residuals:
III = II - I - r, aVR = -floor((I + II) / 2) - r, aVL = floor((I - III) / 2) - r, aVF = floor((II + III) / 2) - r.
mV = (x - signaloffset) * resolution / 1000, resolution in uV.

Files that are not compressed hold the leads one after the other. Whether their derived leads are then residuals is not documented
(one reader takes them so, another not): they are read where they are what I and II say, else refused.

Source: sierra-ecg-tools and sierraecg 0.4.0 (facts only); ECGDataKit 2.0.3 for resolution and offset.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element  # noqa: S405  # a type

import numpy as np
import numpy.typing as npt

from ecgecho.io import xml
from ecgecho.io.leads import MAX_LEADS, lead_or_channel, rate, record_of
from ecgecho.types import STANDARD_LEADS, EcgRecord, EcgSource, ItemError

Counts = npt.NDArray[np.int64]
VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")
MAX_VALUES = 1 << 22
"""Samples times leads: 5 minutes of 12 leads at 1 kHz."""
_LIMB = STANDARD_LEADS[:6]
_CODE_BITS = 10
_LAST_CODE = (1 << _CODE_BITS) - 2
_HEADER_BYTES = 8
_DELTA_ZERO = 64
_ROUNDING = 2
"""Counts by which III, aVR, aVL, aVF may differ from the sums of I and II, each rounded."""


def read(path: Path, root: Element, source: EcgSource) -> EcgRecord:
    """The rhythm in mV."""
    version = xml.text(root, "documentinfo/documentversion")
    if version not in VERSIONS:
        raise ItemError("unsupported_format", f"{path.name} is of a Sierra version that is not one of {', '.join(VERSIONS)}")
    waves = xml.child(root, "waveforms/parsedwaveforms")
    signal = xml.child(root, "dataacquisition/signalcharacteristics")
    if waves is None:
        raise ItemError("no_rhythm", f"{path.name} has no parsed waveforms")
    fs_hz = _first(waves.get("samplespersecond"), xml.text(signal, "samplingrate"))
    duration_ms = _first(waves.get("durationperchannel"))
    resolution_uv = _first(waves.get("resolution"), xml.text(signal, "resolution"), xml.text(signal, "signalresolution"))
    zero = _first(waves.get("signaloffset"), xml.text(signal, "signaloffset")) or 0.0
    if fs_hz is None or duration_ms is None:
        raise ItemError("damaged_header", f"{path.name}: its rate and duration are no numbers")
    if resolution_uv is None or resolution_uv <= 0:
        raise ItemError("unit_unknown", f"{path.name} says no resolution")
    fs_hz = rate(fs_hz, path)
    num_samples = round(duration_ms * fs_hz / 1000)
    leads = _labels(path, waves, signal)
    if not 0 < num_samples * len(leads) <= MAX_VALUES:
        raise ItemError("damaged_header", f"{path.name}: {num_samples} samples of {len(leads)} leads")
    signed = (waves.get("signalsigned") or xml.text(signal, "signalsigned") or "true").lower() != "false"
    method = (waves.get("compression") or waves.get("compressmethod") or "").strip().lower()
    flag = (waves.get("compressflag") or "").strip().lower()
    method = "uncompressed" if flag == "false" else method or ("xli" if flag == "true" else "uncompressed")
    if waves.get("dataencoding", "").lower() != "base64" or method not in ("xli", "uncompressed", "none"):
        raise ItemError("unsupported_format", f"{path.name}: waveforms that are neither base64 nor XLI in base64")
    data = xml.base64_bytes(xml.text(waves), path)
    if method == "xli":
        counts = decode_xli(data, len(leads), num_samples, path)
        if set(leads) & set(_LIMB[2:]):
            _rebuild(counts, leads, path)
    else:
        counts = _plain(data, len(leads), num_samples, signed, path)
        _check_plain(counts, leads, path)
    return record_of(path, leads, ((counts - zero) * (resolution_uv / 1000)).astype(np.float32), fs_hz)


def _first(*words: str | None) -> float | None:
    """The first that is there, as a number."""
    return next((xml.number(word) for word in words if word), None)


def _labels(path: Path, waves: Element, signal: Element | None) -> list[str]:
    words = waves.get("leadlabels", "").split()
    said = _first(waves.get("numberofleads")) if words else _first(xml.text(signal, "numberchannelsallocated"))
    count = int(said) if said is not None else len(words)
    if not words and count == len(STANDARD_LEADS) and xml.text(signal, "acquisitiontype").upper() in ("STD-12", "10-WIRE"):
        words = list(STANDARD_LEADS)
    if not 1 <= count <= min(len(words), MAX_LEADS):
        raise ItemError("damaged_header", f"{path.name}: {count} leads are announced, {len(words)} are named")
    return [lead_or_channel(word, place + 1) for place, word in enumerate(words[:count])]


def decode_xli(data: bytes, num_leads: int, num_samples: int, path: Path) -> Counts:
    """(leads, samples), residuals still residuals; no lead may unpack to more than its samples and a tenth."""
    rows = np.empty((num_leads, num_samples), np.int64)
    most = 2 * (num_samples + num_samples // 10 + 64)
    offset = 0
    for row in range(num_leads):
        size = int.from_bytes(data[offset : offset + 4], "little", signed=True)
        start = int.from_bytes(data[offset + 6 : offset + _HEADER_BYTES], "little", signed=True)
        offset += _HEADER_BYTES
        if size <= 0 or offset + size > len(data):
            raise ItemError("truncated", f"{path.name}: compressed lead {row + 1} of {num_leads} ends after the data")
        unpacked = unpack_lzw(data[offset : offset + size], most, path)
        offset += size
        half = (len(unpacked) + 1) // 2
        if half < max(num_samples, 2):
            raise ItemError("truncated", f"{path.name}: lead {row + 1} has {half} of {num_samples} samples")
        octets = np.frombuffer(unpacked.ljust(2 * half, b"\0"), np.uint8)
        words = (octets[:half].astype(np.uint16) << 8 | octets[half:]).view(np.int16).astype(np.int64)
        rows[row] = _integrate(words, start)[:num_samples]
    if np.abs(rows).max() > -np.iinfo(np.int16).min:
        raise ItemError("undecodable", f"{path.name}: its compressed leads leave 16 bits")
    return rows


def _integrate(words: Counts, start: int) -> Counts:
    """The samples whose second differences these are."""
    if len(words) < 3:
        return words
    curve = np.empty(len(words) - 2, np.int64)
    curve[0] = -start
    curve[1:] = _DELTA_ZERO - words[2:-1]
    slope = np.concatenate([[words[1] - words[0]], curve]).cumsum()
    return np.concatenate([words[:1], words[0] + slope.cumsum()])


def unpack_lzw(data: bytes, most: int, path: Path) -> bytes:
    """LZW of fixed 10-bit codes; 1023 ends it, and a full table stays as it is."""
    table = [bytes((value,)) for value in range(256)]
    out = bytearray()
    previous = b""
    held, bits = 0, 0
    for octet in data:
        held, bits = held << 8 | octet, bits + 8
        if bits < _CODE_BITS:
            continue
        bits -= _CODE_BITS
        code, held = held >> bits, held & ((1 << bits) - 1)
        if code > _LAST_CODE:
            break
        if code < len(table):
            word = table[code]
        elif code == len(table) and previous:
            word = previous + previous[:1]
        else:
            raise ItemError("undecodable", f"{path.name}: a compressed lead is damaged")
        out += word
        if len(out) > most:
            raise ItemError("undecodable", f"{path.name}: a compressed lead unpacks to more than its duration")
        if previous and len(table) <= _LAST_CODE:
            table.append(previous + word[:1])
        previous = word
    return bytes(out)


def _rebuild(counts: Counts, leads: list[str], path: Path) -> None:
    """Residuals -> leads, in place; the formulas are known for the standard order alone."""
    if tuple(leads[:6]) != _LIMB:
        raise ItemError(
            "unsupported_format", f"{path.name}: its compressed limb leads are in another order than {', '.join(_LIMB)}"
        )
    one, two = counts[0], counts[1]
    counts[2] = two - one - counts[2]
    counts[3] = -((one + two) // 2) - counts[3]
    counts[4] = (one - counts[2]) // 2 - counts[4]
    counts[5] = (two + counts[2]) // 2 - counts[5]


def _plain(data: bytes, num_leads: int, num_samples: int, signed: bool, path: Path) -> Counts:
    if len(data) < 2 * num_leads * num_samples:
        raise ItemError("truncated", f"{path.name}: {len(data)} bytes for {num_leads} leads of {num_samples} samples")
    words = np.frombuffer(data, "<i2" if signed else "<u2", count=num_leads * num_samples)
    return words.astype(np.int64).reshape(num_leads, num_samples)


def _check_plain(counts: Counts, leads: list[str], path: Path) -> None:
    rows = dict(zip(leads, counts, strict=True))
    if not {"I", "II"} <= set(rows):
        return
    one, two = rows["I"], rows["II"]
    sums = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    for name, expected in sums.items():
        if name in rows and np.abs(rows[name] - expected).max() > _ROUNDING:
            raise ItemError("unsupported_format", f"{path.name} is not compressed, and its {name} is not what its I and II say")
