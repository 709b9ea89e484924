"""Heads that turn tokens into an Embedding. B batch, T tokens, D embedding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ecgecho.nn.pooling import GPO, MeanPool
from ecgecho.types import Embedding

LOGVAR_START = -6.0
"""Where the log-variance starts. From 0, as the reference does, the loss begins near 577 at D = 512 and the first epochs only
shrink variances (PCME++'s own comments recommend -4 to -10)."""
NORM_EPS = 1e-8  # EchoingECG src/model/ecg_encoder.py: added to the norm


class GaussianHead(nn.Module):
    """Tokens (B, T, width) -> Gaussian: mean (B, dim), unit length when `normalise_mean`, and log-variance (B, dim).

    Two branches of the same form, linear per token then pooling. `logvar_start` None leaves the log-variance's bias as
    it is drawn (parity with the reference); a number starts every log-variance near it.

    Source: EchoingECG src/model/ecg_encoder.py:101-112 and text_encoder.py (there linear, gpool, std_linear, std_gpool).
    """

    def __init__(
        self,
        width: int,
        dim: int,
        *,
        logvar_start: float | None = LOGVAR_START,
        normalise_mean: bool = True,
        pooling: Literal["gpo", "mean"] = "gpo",
    ) -> None:
        super().__init__()
        self.normalise_mean = normalise_mean
        self.mean_linear = nn.Linear(width, dim)
        self.mean_pool: nn.Module = GPO() if pooling == "gpo" else MeanPool()
        self.logvar_linear = nn.Linear(width, dim)
        self.logvar_pool: nn.Module = GPO() if pooling == "gpo" else MeanPool()
        if logvar_start is not None:
            nn.init.constant_(self.logvar_linear.bias, logvar_start)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Embedding:
        mean = self.mean_pool(self.mean_linear(tokens), valid).float()
        if self.normalise_mean:
            mean = unit(mean)
        return Embedding(mean=mean, logvar=self.logvar_pool(self.logvar_linear(tokens), valid).float())


class PointHead(nn.Module):
    """Tokens (B, T, width) -> unit vectors (B, dim) without a variance, for methods that contrast points."""

    def __init__(self, width: int, dim: int, *, pooling: Literal["gpo", "mean"] = "gpo") -> None:
        super().__init__()
        self.mean_linear = nn.Linear(width, dim)
        self.mean_pool: nn.Module = GPO() if pooling == "gpo" else MeanPool()

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Embedding:
        return Embedding(mean=unit(self.mean_pool(self.mean_linear(tokens), valid).float()))


def unit(x: Tensor) -> Tensor:
    """x / (|x| + 1e-8), by rows."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / (norm + NORM_EPS)
