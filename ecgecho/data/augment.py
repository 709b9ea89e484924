"""Light augmentation of normalised ECGs on the device; random numbers come from (seed, step), so a resumed run draws the same."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT_SHARE = 0.1  # of the window, to either side; zeros move in
NOISE = 0.05  # of a lead's standard deviation
DROP_LEAD = 0.05  # chance of a lead


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
