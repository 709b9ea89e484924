"""A small 1-D ResNet for a CPU: 98 thousand parameters, 9.8 MFLOP for 10 s of 12 leads at 100 Hz, 32 tokens of 112.

Stem of stride 4, then three residual blocks of stride 2 with average pooling on the shortcut, so that no sample is skipped.
Fed by the same contract as the paper's encoder. B batch, C leads, L samples, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ecgecho.types import EcgContract

CONTRACT = EcgContract(name="echoing_ecg", fs_hz=100, num_samples=1000, band_hz=(0.5, 40.0))


@dataclass(frozen=True)
class Config:
    """Sizes; the defaults stay within 10 MFLOP (twice the multiply-adds) an ECG."""

    stem_width: int = 24
    widths: tuple[int, int, int] = (32, 64, 112)
    """Channels after each block."""
    num_leads: int = 12


def build(config: Config) -> ResnetSmall:
    """The encoder with PyTorch's default initialisation."""
    return ResnetSmall(config)


class ResnetSmall(nn.Module):
    """(B, C, L) -> (B, T, width), T = L / 32 rounded up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width = config.widths[-1]
        self.stem = nn.Sequential(
            nn.Conv1d(config.num_leads, config.stem_width, 7, stride=4, padding=3, bias=False), nn.BatchNorm1d(config.stem_width)
        )
        first, second, third = config.widths
        self.blocks = nn.Sequential(Block(config.stem_width, first, 5), Block(first, second, 3), Block(second, third, 3))

    def forward(self, ecg: Tensor) -> Tensor:
        tokens: Tensor = self.blocks(F.relu(self.stem(ecg))).transpose(1, 2)
        return tokens


class Block(nn.Module):
    """conv(stride 2)-BN-ReLU-conv-BN plus the pooled and projected input, ReLU. Lengths are halved, rounded up."""

    def __init__(self, width_in: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width_in, width, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.shortcut = nn.Sequential(
            nn.AvgPool1d(2, ceil_mode=True), nn.Conv1d(width_in, width, 1, bias=False), nn.BatchNorm1d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
