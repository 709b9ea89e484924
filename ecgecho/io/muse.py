"""GE MUSE XML (`RestingECG`) -> EcgRecord: the rhythm strip, never the median beat.

A `Waveform` is Median or Rhythm; its `LeadData` hold base64 of int16 little endian; mV = raw * LeadAmplitudeUnitsPerBit in
LeadAmplitudeUnits; rate = SampleBase * 10^SampleExponent. Eight leads are stored. Decimal commas occur. LeadDataCRC32 is the
CRC-32 of the decoded bytes; where it fits no lead of the file, it was made by another rule and says nothing.
FirstSampleBaseline and LeadOffsetFirstSample are documented nowhere and are not used.

Source: layout as published in ecghelper, ECGDataKit 2.0.3 and BRAVEHEART (facts only); shared/specs/datasets.md, section 9.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from xml.etree.ElementTree import Element  # noqa: S405  # a type

import numpy as np

from ecgecho.io import xml
from ecgecho.io.leads import MAX_LEADS, lead_or_channel, mv_per, rate, record_of
from ecgecho.types import F32, EcgRecord, EcgSource, ItemError

MAX_EXPONENT = 6


def read(path: Path, root: Element, source: EcgSource) -> EcgRecord:
    """The rhythm strip in mV; a lead whose electrode was off is not valid."""
    strip = _rhythm(path, list(xml.named(root, "Waveform")))
    base, exponent = xml.number(xml.text(strip, "SampleBase")), xml.number(xml.text(strip, "SampleExponent") or "0")
    if base is None and source.fs_hz is not None:
        base, exponent = source.fs_hz, 0.0
    if base is None or exponent is None or exponent != int(exponent) or abs(exponent) > MAX_EXPONENT:
        raise ItemError("damaged_header", f"{path.name}: its sample base and exponent are no rate")
    fs_hz = rate(base * 10.0 ** int(exponent), path)
    parts = list(xml.named(strip, "LeadData"))
    if not 1 <= len(parts) <= MAX_LEADS:
        raise ItemError("damaged_header", f"{path.name}: its rhythm strip has {len(parts)} leads")
    if len({xml.text(part, "LeadTimeOffset") or "0" for part in parts}) > 1:
        raise ItemError("unsupported_format", f"{path.name}: its leads were not recorded at the same time")
    payloads = [_payload(part, path) for part in parts]
    _check_crc(parts, payloads, path)
    leads = [lead_or_channel(xml.text(part, "LeadID"), place + 1) for place, part in enumerate(parts)]
    rows: list[F32] = []
    for lead, part, payload in zip(leads, parts, payloads, strict=True):
        per_bit = xml.number(xml.text(part, "LeadAmplitudeUnitsPerBit"))
        scale = mv_per(xml.text(part, "LeadAmplitudeUnits"), silent=source.unit)
        if scale is None or per_bit is None or per_bit <= 0:
            raise ItemError("unit_unknown", f"{path.name}: lead {lead} has no resolution in volts")
        rows.append((np.frombuffer(payload, "<i2") * (per_bit * scale)).astype(np.float32))
    usable = [xml.text(part, "LeadOff").upper() != "TRUE" for part in parts]
    return record_of(path, leads, rows, fs_hz, usable=usable)


def _rhythm(path: Path, strips: list[Element]) -> Element:
    if not strips:
        raise ItemError("no_rhythm", f"{path.name} has no waveform")
    kinds = [xml.text(strip, "WaveformType").lower() for strip in strips]
    rhythms = [strip for strip, kind in zip(strips, kinds, strict=True) if kind == "rhythm"]
    if not rhythms and kinds == [""]:
        rhythms = strips
    if not rhythms:
        raise ItemError("no_rhythm", f"{path.name} has no rhythm strip, only median beats or what it gives no kind")
    if len(rhythms) > 1:
        raise ItemError("unsupported_format", f"{path.name} has {len(rhythms)} rhythm strips; which one is meant cannot be told")
    return rhythms[0]


def _payload(part: Element, path: Path) -> bytes:
    if (xml.number(xml.text(part, "LeadSampleSize") or "2")) != 2:
        raise ItemError("unsupported_format", f"{path.name}: samples that are not 16 bits")
    payload = xml.base64_bytes(xml.text(part, "WaveFormData"), path)
    if len(payload) % 2:
        raise ItemError("truncated", f"{path.name}: a lead ends within a sample")
    for tag, there in (("LeadByteCountTotal", len(payload)), ("LeadSampleCountTotal", len(payload) // 2)):
        said = xml.text(part, tag)
        if said and xml.number(said) != there:
            less = there < (xml.number(said) or 0)
            raise ItemError("truncated" if less else "damaged_header", f"{path.name}: {tag} is not the {there} that there are")
    return payload


def _check_crc(parts: list[Element], payloads: list[bytes], path: Path) -> None:
    said = [xml.text(part, "LeadDataCRC32") for part in parts]
    sums = [int(word) if word.isascii() and word.isdigit() and len(word) <= 10 else 0 for word in said]
    fits = [total == zlib.crc32(payload) for total, payload in zip(sums, payloads, strict=True) if total]
    if any(fits) and not all(fits):
        raise ItemError("checksum_differs", f"{path.name}: the samples of {fits.count(False)} leads do not fit their CRC-32")
