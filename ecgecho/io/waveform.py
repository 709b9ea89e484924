"""DICOM ECG waveforms (12-lead, general, ambulatory) -> EcgRecord: the longest original multiplex group, never a median beat.

mV = (raw * sensitivity * correction + baseline) in the channel's ChannelSensitivityUnits; the padding value is a sample that
is not there. A lead is known by the code of its source (SCPECG 5.6.3-9-N, MDC 2:N or MDC_ECG_LEAD_*) and by its meaning; where
both are known and differ, the file is refused.

Source: DICOM PS3.3 C.10.9, PS3.16 CID 3001.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ecgecho.io.excerpt import samples_of
from ecgecho.io.files import Clipped, size_of
from ecgecho.io.leads import MAX_LEADS, SCP_LEADS, canonical_lead, is_ecg_lead, lead_or_channel, mv_per, rate, record_of
from ecgecho.types import F32, EcgRecord, EcgSource, ItemError

MAX_BYTES = 1 << 29
"""Read whole, so that an excerpt of a longer recording cannot be had: 12 h of 12 leads at 500 Hz."""
MAX_VALUES = 1 << 28
_TYPES = {("SB", 8): "i1", ("UB", 8): "u1", ("SS", 16): "i2", ("US", 16): "u2", ("SL", 32): "i4", ("UL", 32): "u4"}
_CODE = re.compile(r"^(?:5\.6\.3-9-|2:)(\d{1,3})$")


def read(path: Path, source: EcgSource) -> EcgRecord:
    """Leads in mV; NaN where the file is padded."""
    if size_of(path) > MAX_BYTES:
        raise ItemError("too_large", f"{path.name} is larger than the {MAX_BYTES >> 20} MiB of waveforms that a reader takes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(path, source)
    except (ItemError, MemoryError):
        raise
    except OSError as err:
        if err.errno is None:  # pydicom raises it for damaged data
            raise ItemError("undecodable", f"{path.name}: its DICOM cannot be read") from None
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
    except Exception as err:
        # pydicom meets damaged bytes with any exception there is, and quotes the values, which may be a patient's.
        raise ItemError("undecodable", f"{path.name}: its DICOM cannot be read ({type(err).__name__})") from None


def _read(path: Path, source: EcgSource) -> EcgRecord:
    with Clipped(path) as file:
        dataset = pydicom.dcmread(file)
    groups: list[Any] = list(dataset.get("WaveformSequence") or ())
    if not groups:
        raise ItemError("not_ecg", f"{path.name} is a DICOM file without a waveform")
    originals = [group for group in groups if str(group.get("WaveformOriginality", "")).upper() != "DERIVED"]
    if not originals:
        raise ItemError("no_rhythm", f"{path.name} has only derived waveforms, which are beats")
    group = max(originals, key=lambda one: int(one.NumberOfWaveformSamples) / float(one.SamplingFrequency or 1))
    fs_hz = rate(float(group.SamplingFrequency), path)
    leads = [_lead(channel, row + 1, path) for row, channel in enumerate(group.ChannelDefinitionSequence)]
    raw, padding = _samples(group, len(leads), path, little_endian=_is_little_endian(dataset))
    first, last, defects = samples_of(source, fs_hz, len(raw), path.name)
    raw = raw[first:last]
    signal: F32 = np.empty((len(leads), len(raw)), np.float32)
    for row, channel in enumerate(group.ChannelDefinitionSequence):
        if abs(float(channel.get("ChannelTimeSkew") or 0.0)) * fs_hz + abs(float(channel.get("ChannelSampleSkew") or 0.0)) >= 1:
            raise ItemError("unsupported_format", f"{path.name}: lead {leads[row]} is skewed by a sample or more")
        gain, zero = _scale(channel, leads[row], path)
        signal[row] = raw[:, row] * gain + zero
        if padding is not None:
            signal[row, raw[:, row] == padding] = np.nan
    if len(originals) > 1:
        defects = (*defects, "other_groups_left")
    return record_of(path, leads, signal, fs_hz, defects=defects)


def _samples(group: Any, num_leads: int, path: Path, *, little_endian: bool) -> tuple[np.ndarray[Any, Any], int | None]:
    """(samples, channels) as stored, and the value that stands for no sample."""
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    if channels != num_leads or not 1 <= channels <= MAX_LEADS:
        raise ItemError("damaged_header", f"{path.name}: {channels} channels, {num_leads} of them described")
    if not 0 < channels * samples <= MAX_VALUES:
        raise ItemError(
            "too_large" if samples > 0 else "damaged_header", f"{path.name}: {samples} samples of {channels} channels"
        )
    form = _TYPES.get((str(group.WaveformSampleInterpretation), int(group.WaveformBitsAllocated)))
    if form is None:
        raise ItemError("unsupported_format", f"{path.name}: samples of a kind that is not read")
    dtype = np.dtype(form).newbyteorder("<" if little_endian else ">")
    if len(group.WaveformData) < channels * samples * dtype.itemsize:
        raise ItemError("truncated", f"{path.name}: its waveform is shorter than its header says")
    raw = np.frombuffer(group.WaveformData, dtype, count=channels * samples).reshape(samples, channels)
    padding = group.get("WaveformPaddingValue")
    if isinstance(padding, bytes) and len(padding) >= dtype.itemsize:
        padding = int(np.frombuffer(padding, dtype, count=1)[0])
    return raw, padding if isinstance(padding, int) else None


def _scale(channel: Any, lead: str, path: Path) -> tuple[float, float]:
    """mV a count, and mV at zero counts."""
    units = channel.get("ChannelSensitivityUnitsSequence")
    per_unit = mv_per(str(units[0].get("CodeValue", ""))) if units else None
    sensitivity = channel.get("ChannelSensitivity")
    if per_unit is None or sensitivity is None or not float(sensitivity) > 0:
        raise ItemError("unit_unknown", f"{path.name}: lead {lead} has no sensitivity in volts")
    correction = channel.get("ChannelSensitivityCorrectionFactor")
    gain = float(sensitivity) * (1.0 if correction is None else float(correction)) * per_unit
    if not 0 < gain < 1e9:
        raise ItemError("damaged_header", f"{path.name}: the sensitivity of lead {lead} cannot be")
    return gain, float(channel.get("ChannelBaseline") or 0.0) * per_unit


def _lead(channel: Any, number: int, path: Path) -> str:
    source = channel.ChannelSourceSequence[0]
    value, meaning = str(source.get("CodeValue", "")).strip(), str(source.get("CodeMeaning", ""))
    match = _CODE.match(value)
    coded = SCP_LEADS.get(int(match[1])) if match else (canonical_lead(value) if is_ecg_lead(canonical_lead(value)) else None)
    spelt = lead_or_channel(meaning, number)
    if coded is not None and is_ecg_lead(spelt) and coded != spelt:
        raise ItemError("damaged_header", f"{path.name}: channel {number} has the code of {coded} and the name of {spelt}")
    return coded or spelt


def _is_little_endian(dataset: Any) -> bool:
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    return syntax is None or bool(syntax.is_little_endian)
