"""PCME++: the match loss of two batches of Gaussians, (M, D) and (M, D).

loss = 2 * BCE + vib_weight * (KL_a + KL_b) + pseudo_weight * (PP_ab + PP_ba)

Source: PCME++ (arXiv 2305.18171), its reference repository at 8829c0d and EchoingECG at 60da543. The references call the
log-variance "std"; here it is `logvar`. M entries, D embedding, (M, M) pairs.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgecho.types import Embedding

VIB_WEIGHT = 1e-4  # EchoingECG src/loss/pcmepp.py:21 (vib_beta)
PSEUDO_WEIGHT = 0.1  # EchoingECG src/loss/pcmepp.py:22 (smoothness_alpha)
KL_LIMIT = 1e4  # pcmepp.py:60: a larger KL is dropped; only in parity, because it hides a diverging run
ROWS_PER_BLOCK = 16  # exact differences hold (16, M, D) at a time

Distance = Literal["csd", "wdist"]


def csd_logits(
    a: Embedding, b: Embedding, scale: Tensor, shift: Tensor, *, distance: Distance = "csd", exact: bool = False
) -> Tensor:
    """Match logits of two Gaussian batches. (M, D) x (N, D) -> (M, N), fp32 even under autocast.

    csd    logit[i, j] = shift - scale * (|mu_i - mu_j|^2 + sum(var_i) + sum(var_j))
    wdist  logit[i, j] = shift - scale * (|mu_i - mu_j|^2 + |std_i - std_j|^2)

    `exact` sums differences, so that equal rows have equal logits bit by bit; else the expanded square, which is two
    matrix products away from never building the (M, N, D) difference (2 GB at M = 1024, D = 512).

    Source: PCME++ equation of the closed-form sampled distance; `wdist` is its ablation (2-Wasserstein, diagonal).
    """
    if a.logvar is None or b.logvar is None:
        raise ValueError("csd_logits needs the log-variance of both sides")
    with torch.autocast(a.mean.device.type, enabled=False):
        mean_a, mean_b, logvar_a, logvar_b = (_full(x) for x in (a.mean, b.mean, a.logvar, b.logvar))
        squared = _exact_squared if exact else _expanded_squared
        spread = squared(mean_a, mean_b)
        if distance == "csd":
            spread = spread + (logvar_a.exp().sum(-1)[:, None] + logvar_b.exp().sum(-1)[None])
        else:
            spread = spread + squared((logvar_a / 2).exp(), (logvar_b / 2).exp())
        return _full(shift) - _full(scale) * spread


def pcme_loss(
    a: Embedding,
    b: Embedding,
    scale: Tensor,
    shift: Tensor,
    *,
    matched: Tensor | None = None,
    ignore: Tensor | None = None,
    vib_weight: float = VIB_WEIGHT,
    pseudo_weight: float = PSEUDO_WEIGHT,
    distance: Distance = "csd",
    parity: bool = False,
) -> dict[str, Tensor]:
    """The loss and its parts: loss, match, pseudo_ab, pseudo_ba, kl_a, kl_b (scalars) and num_pseudo (int64 scalar).

    `matched` (M, M) in [0, 1], the identity when not given. `ignore` (M, M) True where an off-diagonal pair is neither a
    match nor a mismatch (same subject, same text): it is left out of every mean and is no pseudo-positive; the diagonal
    of `ignore` has no effect. `parity` equals the reference: every pair counts, ties are exact, a KL above 1e4 is dropped.
    """
    if parity and ignore is not None:
        raise ValueError("parity has no `ignore`: the reference counts every pair")
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"pairs need equal shapes, not {tuple(a.mean.shape)} and {tuple(b.mean.shape)}")
    logits = csd_logits(a, b, scale, shift, distance=distance, exact=parity)
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    target = diagonal.to(logits.dtype) if matched is None else matched.to(logits.dtype)
    keep = None if ignore is None else ~ignore | diagonal

    match = _bce_mean(logits, target, keep)
    pseudo_ab, num_ab = _pseudo_positives(logits, target, keep)
    pseudo_ba, num_ba = _pseudo_positives(logits.T, target.T, None if keep is None else keep.T)
    kl_a, kl_b = _kl(a, parity), _kl(b, parity)
    loss = 2 * match + vib_weight * (kl_a + kl_b) + pseudo_weight * (pseudo_ab + pseudo_ba)
    parts = {"match": match, "pseudo_ab": pseudo_ab, "pseudo_ba": pseudo_ba, "kl_a": kl_a, "kl_b": kl_b}
    return {"loss": loss, **parts, "num_pseudo": num_ab + num_ba}


def _full(x: Tensor) -> Tensor:
    """At least fp32: bf16 inputs make ties that turn nearly every pair into a pseudo-positive."""
    return x if x.dtype == torch.float64 else x.float()


def _expanded_squared(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum(-1)[:, None] + b.square().sum(-1)[None] - 2 * (a @ b.T)


def _exact_squared(a: Tensor, b: Tensor) -> Tensor:
    result: Tensor = _ExactSquared.apply(a, b)  # type: ignore[no-untyped-call]
    return result


class _ExactSquared(torch.autograd.Function):
    """|a_i - b_j|^2 from differences, (M, D) x (N, D) -> (M, N), in blocks of rows; its gradient is two matrix products."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        blocks = [(rows[:, None] - b[None]).square().sum(-1) for rows in torch.split(a, ROWS_PER_BLOCK)]
        return torch.cat(blocks) if blocks else a.new_zeros(0, len(b))

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        (g,) = grad
        return 2 * (g.sum(1)[:, None] * a - g @ b), 2 * (g.sum(0)[:, None] * b - g.T @ a)


def _bce_mean(logits: Tensor, target: Tensor, keep: Tensor | None) -> Tensor:
    """Mean of the binary cross-entropy over the kept pairs; 0 when there is none."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if keep is None:
        return losses.sum() / max(losses.numel(), 1)
    return losses.masked_fill(~keep, 0.0).sum() / keep.sum().clamp(min=1)


def _pseudo_positives(logits: Tensor, target: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """BCE by rows in which every entry at least as close as the row's own match is a match too, and how many those are.

    Source: PCME++ section on pseudo-positives; pcmepp.py: targets come from detached comparisons, `>=` makes ties matches.
    """
    if logits.numel() == 0:
        return logits.sum(), torch.zeros((), dtype=torch.int64, device=logits.device)
    candidates = target if keep is None else target.masked_fill(~keep, -1.0)
    best, own = candidates.max(dim=1, keepdim=True)
    closer = logits.detach() >= logits.detach().gather(1, own)
    if keep is not None:
        closer = closer & keep
    return _bce_mean(logits, torch.where(closer, best, target), keep), closer.sum() - len(logits)


def _kl(x: Embedding, parity: bool) -> Tensor:
    """KL to N(0, I), averaged over entries and dimensions: -0.5 * mean(1 + s - mu^2 - exp(s))."""
    assert x.logvar is not None
    mean, logvar = _full(x.mean), _full(x.logvar)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum() / max(mean.numel(), 1)
    return torch.where(kl > KL_LIMIT, torch.zeros_like(kl), kl) if parity else kl
