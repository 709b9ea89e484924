"""Filtering and resampling of recordings, (C, L). C leads, L samples.

Source: EchoingECG src/datasets/helpers.py:79-117 (Butterworth order 4 forward and backward, then polyphase resampling).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import signal as scipy_signal

F64 = npt.NDArray[np.float64]

ORDER = 4
HIGHEST_OF_RATE = 0.45  # helpers.py: the upper edge never exceeds 0.45 of the lower of both rates
KAISER_BETA = 5.0
TAPS_PER_PHASE = 10  # scipy's resample_poly: half the filter spans 10 periods of the lower rate


def band_pass(signal: npt.NDArray[np.floating], fs_hz: float, band_hz: tuple[float, float], target_hz: float) -> F64:
    """Zero-phase Butterworth band-pass; a lower edge of 0 or less makes it a low-pass. (C, L) -> (C, L) float64.

    The upper edge is cut to 0.45 of `target_hz`, so that nothing folds back when the signal is resampled to it.
    """
    low, high = band_hz
    sections = _sections(fs_hz, low, min(high, HIGHEST_OF_RATE * min(fs_hz, target_hz)))
    # scipy's own default padding, which a recording shorter than it cannot give
    zeros = min(int((sections[:, 2] == 0).sum()), int((sections[:, 5] == 0).sum()))
    padding = min(3 * (2 * len(sections) + 1 - zeros), signal.shape[-1] - 1)
    filtered: F64 = scipy_signal.sosfiltfilt(sections, np.asarray(signal, np.float64), axis=-1, padlen=padding)
    return filtered


def resample(signal: npt.NDArray[np.floating], fs_hz: float, target_hz: float) -> F64:
    """Polyphase resampling, Kaiser 5.0, edges padded with the median. (C, L) -> (C, ceil(L * target / fs)) float64."""
    values = np.asarray(signal, np.float64)
    up, down = _ratio(fs_hz, target_hz)
    if up == down:
        return values
    resampled: F64 = scipy_signal.resample_poly(values, up, down, axis=-1, window=_taps(up, down), padtype="median")
    return resampled


@lru_cache(maxsize=32)
def _sections(fs_hz: float, low_hz: float, high_hz: float) -> F64:
    if low_hz <= 0:
        sections: F64 = scipy_signal.butter(ORDER, high_hz, btype="lowpass", fs=fs_hz, output="sos")
    else:
        if low_hz >= high_hz:
            raise ValueError(f"a band from {low_hz} to {high_hz} Hz is empty at a rate of {fs_hz} Hz")
        sections = scipy_signal.butter(ORDER, (low_hz, high_hz), btype="bandpass", fs=fs_hz, output="sos")
    return sections


@lru_cache(maxsize=32)
def _ratio(fs_hz: float, target_hz: float) -> tuple[int, int]:
    ratio = Fraction(target_hz).limit_denominator(1000) / Fraction(fs_hz).limit_denominator(1000)
    return ratio.numerator, ratio.denominator


@lru_cache(maxsize=32)
def _taps(up: int, down: int) -> F64:
    """The low-pass that resample_poly would design anew for every recording."""
    larger = max(up, down) // math.gcd(up, down)
    taps: F64 = scipy_signal.firwin(2 * TAPS_PER_PHASE * larger + 1, 1.0 / larger, window=("kaiser", KAISER_BETA))
    return taps
