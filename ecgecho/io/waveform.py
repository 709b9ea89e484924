"""DICOM 12-lead ECG (waveform storage) -> EcgRecord; the longest multiplex group, which is the rhythm, not the median beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ecgecho.io.dicom import readable
from ecgecho.io.files import size_of
from ecgecho.io.leads import canonical_lead
from ecgecho.types import EcgRecord, ItemError

_MV_PER = {"uV": 1e-3, "mV": 1.0, "V": 1e3, "nV": 1e-6}
MAX_VALUES = 1 << 28


def read(path: Path) -> EcgRecord:
    """Leads by the meaning of their channel source, in mV."""
    size_of(path)
    with readable(path):
        dataset = pydicom.dcmread(path)
        groups: list[Any] = list(dataset.get("WaveformSequence") or ())
        if not groups:
            raise ItemError("not_ecg", f"{path.name} is a DICOM file without a waveform")
        index = max(range(len(groups)), key=lambda i: int(groups[i].NumberOfWaveformSamples))
        group = groups[index]
        channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
        if not 0 < channels * samples <= MAX_VALUES:
            raise ItemError("too_large", f"{path.name}: {samples} samples of {channels} channels")
        if len(group.WaveformData) < channels * samples * int(group.WaveformBitsAllocated) // 8:
            raise ItemError("truncated", f"{path.name}: its waveform is shorter than its header says")
        signal = np.ascontiguousarray(dataset.waveform_array(index).T, np.float32)
        leads = []
        for row, channel in enumerate(group.ChannelDefinitionSequence):
            lead = canonical_lead(str(channel.ChannelSourceSequence[0].CodeMeaning))
            unit = str(channel.ChannelSensitivityUnitsSequence[0].CodeValue)
            if unit not in _MV_PER:
                raise ItemError("unit_unknown", f"{path.name}: lead {lead} is in {unit!r}, which is no voltage")
            if lead in leads:
                raise ItemError("lead_named_twice", f"{path.name} has two leads {lead}")
            signal[row] *= np.float32(_MV_PER[unit])
            leads.append(lead)
        valid = np.asarray(np.isfinite(signal).all(axis=1))
        return EcgRecord(signal=signal, leads=tuple(leads), lead_valid=valid, unit="mv", fs_hz=float(group.SamplingFrequency))
