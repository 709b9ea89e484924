"""Heads that bring a modality's vector into the shared space, (N, width) -> (N, dim). Parameter names are the reference's.

Source: Echo2ECG multimodal/models/alignment at 64c9610 (`linear` is what was published; SimCLR arXiv 2002.05709, SAIL arXiv
2412.04616), but for SAIL's logit_scale and logit_bias, which its forward does not use.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Alignment = Literal["linear", "star", "mlp", "simclr"]

WIDE, NARROW = 8, 4  # hidden widths as multiples of the input: of star and simclr, and of mlp


def alignment_head(alignment: Alignment, width: int, dim: int) -> nn.Module:
    """A linear map without bias, or LayerNorm and a network with one hidden layer."""
    if alignment == "linear":
        return nn.Linear(width, dim, bias=False)
    return Normed({"star": StarNetwork, "mlp": GeluNetwork, "simclr": SimclrNetwork}[alignment](width, dim), width)


class Normed(nn.Module):
    """network(LayerNorm(x))."""

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.mapping_network = network
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mapping_network(self.layer_norm(x))
        return result


class StarNetwork(nn.Module):
    """g(relu6(f1(x)) * f2(x)), SAIL's."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.f1 = nn.Linear(width, WIDE * width)
        self.f2 = nn.Linear(width, WIDE * width)
        self.g = nn.Linear(WIDE * width, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.g(F.relu6(self.f1(x)) * self.f2(x))
        return result


class GeluNetwork(nn.Module):
    """linear, GELU, linear: SAIL's other one."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(width, NARROW * width), nn.GELU(), nn.Linear(NARROW * width, dim))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.proj(x)
        return result


class SimclrNetwork(nn.Module):
    """linear, BatchNorm, ReLU, linear, BatchNorm; in training a row depends on those of its batch, of this process alone."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        hidden = WIDE * width
        self.layers = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim, bias=False),
            nn.BatchNorm1d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result
