"""GE CardioSoft XML (`CardiologyXML`), the resting ECG of UK Biobank (field 20205) -> EcgRecord.

`StripData` (or `Strip/StripData`) holds SampleRate units="Hz", Resolution units="uVperLsb", ChannelSampleCountTotal,
NumberOfLeads and, for each lead, WaveformData lead="I" of integers between commas. mV = counts * Resolution / 1000.
`MedianSamples` of RestingECGMeasurements is another thing. The exercise test (field 6025)
keeps its data elsewhere and is refused.

Source: shared/specs/datasets.md, section 8 (no real file was at hand).
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element  # noqa: S405  # a type

import numpy as np

from ecgecho.io import xml
from ecgecho.io.leads import MAX_LEADS, lead_or_channel, rate, record_of
from ecgecho.types import F32, EcgRecord, EcgSource, ItemError


def read(path: Path, root: Element, source: EcgSource) -> EcgRecord:
    """The strip in mV."""
    strips = [strip for strip in root.iter() if strip.tag.lower() == "stripdata" and xml.child(strip, "WaveformData") is not None]
    if len(strips) != 1:
        code = "unsupported_format" if strips else "no_rhythm"
        raise ItemError(code, f"{path.name} has {len(strips)} strips with waveforms; one is read")
    strip = strips[0]
    rate_element, resolution = xml.child(strip, "SampleRate"), xml.child(strip, "Resolution")
    fs_hz = xml.number(xml.text(rate_element))
    if fs_hz is None or rate_element is None or rate_element.get("units", "Hz").lower() != "hz":
        raise ItemError("damaged_header", f"{path.name}: its sample rate is no number of Hz")
    uv_per_count = xml.number(xml.text(resolution))
    if resolution is None or uv_per_count is None or uv_per_count <= 0 or resolution.get("units", "").lower() != "uvperlsb":
        raise ItemError("unit_unknown", f"{path.name}: its resolution is not in uVperLsb")
    parts = list(xml.named(strip, "WaveformData"))
    said = xml.text(strip, "NumberOfLeads")
    if len(parts) > MAX_LEADS or (said and xml.number(said) != len(parts)):
        raise ItemError("damaged_header", f"{path.name} has {len(parts)} waveforms, not as many as it says")
    said = xml.text(strip, "ChannelSampleCountTotal")
    rows: list[F32] = []
    for part in parts:
        counts = xml.integers(xml.text(part).rstrip(","), ",", path)
        if said and xml.number(said) != len(counts):
            less = len(counts) < (xml.number(said) or 0)
            raise ItemError(
                "truncated" if less else "damaged_header", f"{path.name}: a lead of {len(counts)} samples, not as said"
            )
        rows.append((counts * (uv_per_count / 1000)).astype(np.float32))
    leads = [lead_or_channel(part.get("lead", ""), place + 1) for place, part in enumerate(parts)]
    return record_of(path, leads, rows, rate(fs_hz, path))
