"""Classification losses where some labels are unknown."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Mean over the known labels, 0 when there is none. (B, K), (B, K) in [0, 1], (B, K) bool -> scalar, at least fp32."""
    with torch.autocast(logits.device.type, enabled=False):
        known = torch.where(valid, labels, 0.0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(_full(logits), _full(known), reduction="none")
        return losses.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Mean over the known labels, 0 when there is none. (B, K), (B,) int64 in [0, K), (B,) bool -> scalar, at least fp32."""
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(_full(logits), labels.masked_fill(~valid, 0), reduction="none")
        return losses.masked_fill(~valid, 0.0).sum() / valid.sum().clamp(min=1)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
