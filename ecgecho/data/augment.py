"""Augmentation of normalised ECGs on the device, and crops of what the store holds.

Random numbers come from (seed, step), so a resumed run draws the same.

`light` is ours. `otis` (1 to 3) and `echo2ecg` (1 to 5) are the published ones, in their order, each drawn by ECG:

  1. Fourier surrogate   chance 1/2: the phase of every frequency is turned by U(0, 1) * 0.075 * 2 pi, the same in all leads,
                         so that leads stay in step; the mean stays, and so does the highest frequency of an even length
  2. jitter              x + 0.6 * N(0, 0.2) * x, each sample by itself
  3. rescaling           one factor N(1, 0.5) for all leads; below 0 once in 44
  4. time flip           chance 0.33
  5. sign flip           chance 0.33

No heart runs backwards, and a sign that is flipped in all leads is an infarction to some readers: 4 and 5 are for parity.

Source: Echo2ECG ecg/utils/augmentations.py and ecg/data_processing ECGAugmentations.py:37-59 (64c9610); 1 to 3 are OTiS'.
B ECGs, C leads, L samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHIFT_SHARE = 0.1  # of the window, to either side; zeros move in
NOISE = 0.05  # of a lead's standard deviation
DROP_LEAD = 0.05  # chance of a lead

SURROGATE_CHANCE = 0.5
PHASE_SHARE = 0.075  # of a turn
JITTER = 0.6 * 0.2
RESCALING = 0.5
FLIP_CHANCE = 0.33

CROP_STREAM = 0x5EED  # the starts of crops are not drawn from the numbers that an augmentation of the same seed begins with


def light(ecg: Tensor, lead_valid: Tensor, seed: int) -> Tensor:
    """(B, C, L), (B, C) -> (B, C, L): shifted in time, with white noise and without some leads; invalid leads stay zero."""
    random = torch.Generator(ecg.device).manual_seed(seed)
    b, c, length = ecg.shape
    most = int(length * SHIFT_SHARE)
    shift = torch.randint(-most, most + 1, (b, 1, 1), generator=random, device=ecg.device)
    source = torch.arange(length, device=ecg.device)[None, None] + shift
    moved = ecg.gather(2, source.clamp(0, length - 1).expand(b, c, length))
    noisy = moved + NOISE * torch.randn(ecg.shape, generator=random, device=ecg.device)
    kept = torch.rand((b, c, 1), generator=random, device=ecg.device) >= DROP_LEAD
    inside = (source >= 0) & (source < length)
    return torch.where(inside & kept & lead_valid[:, :, None], noisy, torch.zeros((), device=ecg.device))


def otis(ecg: Tensor, lead_valid: Tensor, seed: int, *, recorded: Tensor, flips: bool = False) -> Tensor:
    """(B, C, L), (B, C) -> (B, C, L): the published augmentation; with `flips` all five steps, in their order.

    `recorded` (B,) is `extent` of the signal before it was normalised. Invalid leads stay zero, and what follows a recording
    stays as it is, whatever the normaliser made of its zeros: an encoder may know it by its value. The flips move and turn it.
    """
    random = torch.Generator(ecg.device).manual_seed(seed)
    b, _, length = ecg.shape

    def drawn(chance: float) -> Tensor:
        return torch.rand((b, 1, 1), generator=random, device=ecg.device) < chance

    padding = torch.arange(length, device=ecg.device) >= recorded[:, None, None]
    turns = torch.rand((b, 1, length // 2 + 1), generator=random, device=ecg.device)
    result = torch.where(drawn(SURROGATE_CHANCE), surrogate(ecg, turns), ecg)
    result = result * (1 + JITTER * torch.randn(ecg.shape, generator=random, device=ecg.device))
    result = result * (1 + RESCALING * torch.randn((b, 1, 1), generator=random, device=ecg.device))
    # What turned phases move behind a recording is no signal.
    result = torch.where(padding, ecg, result)
    result = torch.where(lead_valid[:, :, None], result, torch.zeros((), device=ecg.device))
    if flips:
        result = torch.where(drawn(FLIP_CHANCE), result.flip(2), result)
        result = torch.where(drawn(FLIP_CHANCE), -result, result)
    return result


def surrogate(ecg: Tensor, turns: Tensor) -> Tensor:
    """Every frequency turned by `turns` in [0, 1) times 0.075 of a turn: (B, C, L), (B, 1, L // 2 + 1) -> (B, C, L)."""
    length = ecg.shape[-1]
    angle = turns * (PHASE_SHARE * 2 * math.pi)
    angle[..., 0] = 0.0
    if length % 2 == 0:
        angle[..., -1] = 0.0
    spectrum = torch.fft.rfft(ecg) * torch.polar(torch.ones_like(angle), angle)
    turned: Tensor = torch.fft.irfft(spectrum, n=length)
    return turned


def crop(ecg: Tensor, samples: int, seed: int) -> Tensor:
    """(B, C, L) -> (B, C, samples): a stretch of each ECG from a random start, the same in all leads.

    Of the signal before it is normalised: without the zeros after a recording, as far as it is long enough. The whole where
    `samples` is 0 or L.
    """
    length = ecg.shape[-1]
    assert samples <= length, f"{samples} of {length} samples"
    if samples in (0, length):
        return ecg
    random = torch.Generator(ecg.device).manual_seed(seed ^ CROP_STREAM)
    starts = (extent(ecg) - samples).clamp_min(0) + 1
    uniform = torch.rand(len(ecg), generator=random, device=ecg.device, dtype=torch.float64)
    start = (uniform * starts).long()
    source = start[:, None, None] + torch.arange(samples, device=ecg.device)
    return ecg.gather(2, source.expand(len(ecg), ecg.shape[1], samples))


def extent(ecg: Tensor) -> Tensor:
    """(B,) samples up to the last one that is not 0 in all leads; of the signal before it is normalised."""
    some = (ecg != 0).any(1)
    places = torch.arange(1, ecg.shape[-1] + 1, device=ecg.device)
    return (some * places).amax(1)
