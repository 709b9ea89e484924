"""InfoNCE, the contrast of two batches of points, (M, D) and (M, D)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOG_SCALE = math.log(100.0)  # CLIP (arXiv 2103.00020) section 2.5: the multiplier never exceeds 100


def info_nce(
    a_mean: Tensor,
    b_mean: Tensor,
    scale: Tensor,
    ignore: Tensor | None = None,
    *,
    log_scale: bool = False,
    directions: Literal["both", "a_to_b"] = "both",
) -> Tensor:
    """Mean cross-entropy of finding the own partner among the batch. (M, D) x (M, D) -> scalar, fp32 even under autocast.

    logits = tau * a b^T, with tau = `scale`, or exp(`scale`) up to 100 with `log_scale`. Nothing is normalised here.
    `ignore` (M, M) True where an off-diagonal pair is no negative; the diagonal of `ignore` has no effect.

    Source: PCME++ reference, criterions/infonce.py (a learnable multiplier, not a divisor), equal in EchoingECG.
    """
    with torch.autocast(a_mean.device.type, enabled=False):
        a, b = (x if x.dtype == torch.float64 else x.float() for x in (a_mean, b_mean))
        tau = scale.clamp(max=MAX_LOG_SCALE).exp() if log_scale else scale
        logits = tau * (a @ b.T)
        if not len(logits):
            return logits.sum()
        own = torch.arange(len(logits), device=logits.device)
        if ignore is not None:
            diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(ignore & ~diagonal, -torch.inf)
        if directions == "a_to_b":
            return F.cross_entropy(logits, own)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
