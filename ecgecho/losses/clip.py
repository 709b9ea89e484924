"""CLIP's loss of ECGs and echo studies, both directions weighted, with three ways to see repeats. M pairs, D dimension.

Source: Echo2ECG multimodal/losses/CLIPLoss.py at 64c9610, after CLIP (arXiv 2103.00020).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_LOG_SCALE = 4.6052  # CLIPLoss.py, and CLIP section 2.5: 1 / temperature stays below 100


def log_scale(temperature: float) -> float:
    """What a temperature is as the logarithm of a multiplier, within [0, MAX_LOG_SCALE]."""
    return min(max(math.log(1 / temperature), 0.0), MAX_LOG_SCALE)


def clip_loss(
    ecg: Tensor,
    echo: Tensor,
    scale: Tensor,
    *,
    ecg_weight: float = 0.5,
    positive: Tensor | None = None,
    ignore: Tensor | None = None,
) -> Tensor:
    """Weighted cross-entropies of finding one's echo and one's ECG. (M, D) x (M, D) -> scalar, at least fp32 under autocast.

    logits = exp(scale) * cos(ecg_i, echo_j);  loss = ecg_weight * CE(rows) + (1 - ecg_weight) * CE(columns)

    `positive` (M, M), symmetric: pairs as good as one's own. CE(i) is then the mean over the positives p of i of
    -log softmax(logits[i])[p], as in UniCL (arXiv 2204.03610, equations 3 and 4), which is the form of SupCon (arXiv 2004.11362)
    with the mean outside the logarithm, the better one there. `ignore` (M, M): pairs that are neither; what is positive or on
    the diagonal is never ignored.
    """
    with torch.autocast(ecg.device.type, enabled=False):
        a, b = (F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1) for x in (ecg, echo))
        logits = scale.to(a.dtype).exp() * (a @ b.T)
        if not len(logits):
            return logits.sum()
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        positive = own if positive is None else positive | own
        if ignore is not None:
            logits = logits.masked_fill(ignore & ~positive, -torch.inf)
        rows, columns = _to_positives(logits, positive), _to_positives(logits.T, positive.T)
        return ecg_weight * rows + (1 - ecg_weight) * columns


def _to_positives(logits: Tensor, positive: Tensor) -> Tensor:
    found = logits.log_softmax(1).masked_fill(~positive, 0.0).sum(1) / positive.sum(1)
    return -found.mean()
