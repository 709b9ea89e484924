"""Echo2ECG with Gaussians: an ECG that matches a whole echo study, each as certain as it is (PCME++ over their pairs).

The union of Echo2ECG (all views of a study) and EchoingECG (frames as a Gaussian, a loss that uses it), which neither has.

A study, of views v with mean m_v and standard deviation s_v over their frames, dimension by dimension:

    view      a_v = m_v / |m_v|,  u_v = (s_v / |m_v|)^2                     a unit mean, the variance in its scale
    between   a_v ~ N(theta, u_v + t)    random effects: t, learned for each dimension, is what views of one heart differ by
    study     p_v = 1 / (u_v + t);  a = sum(p_v a_v) / sum(p_v);  u = 1 / sum(p_v)                       precision weights
    mapped    b = W a;  w = W^2 u        (W^2 by elements) a linear map takes a diagonal Gaussian there, but for covariances
    out       N(b / |b|, w / |b|^2)

So a view of no certainty has no weight, another view never raises u, and studies whose views disagree have a shorter a, which
the last line makes a wider Gaussian. A teacher with one clip a view has s = 0: views weigh alike and u = t / (their number).
The ECG's Gaussian comes from its tokens, and the loss of M pairs is PCME++'s, in which pairs of one subject or study are neither
matches nor mismatches.

Departures from EchoingECG: all views, not one drawn; the variance goes with its mean's scale (there it stays as it was when the
mean is made a unit); the teacher's space is mapped, so that `dim` is free; no reports. From Echo2ECG: the pooling has as many
parameters as the teacher has dimensions, and a study has a variance. Views count as independent and exchangeable given the heart.
That is optimistic for two cines of the same window, and what an apical view and a short axis always differ by is in t, not
taken off: a study of apical views alone lies elsewhere than one of all.

Source: EchoingECG (60da543), Echo2ECG (64c9610), PCME++ (arXiv 2305.18171); random effects: DerSimonian and Laird,
Controlled Clinical Trials 7 (1986), with t learned over studies and not estimated within one.
B batch, V views of all studies, M studies, D dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgecho import dist
from ecgecho.config import Recipe
from ecgecho.losses.pcme import pcme_loss
from ecgecho.methods import echo2ecg
from ecgecho.nn.heads import GaussianHead
from ecgecho.nn.views import Studies, drop_views
from ecgecho.types import Batch, Block, Embedding, MethodSizes, UsageError, UserError

LEAST_BETWEEN = 1e-8  # as VAR_EPS of nn/moments.py: precisions stay finite where t is learned away and s is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the method."""

    dim: int = 512
    """Of the embeddings."""
    between_start: float = 0.3
    """Where t starts, summed over dimensions: two views of a heart then have a cosine near 1 - 0.3."""
    vib_weight: float = 1e-4  # as echoing_ecg
    pseudo_weight: float = 0.1  # as echoing_ecg
    logvar_start: float = -6.0
    """Of the ECG's log-variance, as in echoing_ecg."""
    scale_start: float = 5.0  # as echoing_ecg
    shift_start: float = 5.0
    pooling: Literal["gpo", "mean"] = "mean"
    """Of the ECG's tokens; the mean, as Echo2ECG."""
    view_dropout: float = 0.0
    """Share of the views that a training step leaves out."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UsageError(f"method.dim is {self.dim}; it must be 1 or more.")
        if not 0 < self.between_start < math.inf:
            raise UsageError(f"method.between_start is {self.between_start}; it must be above 0.")
        if not 0 <= self.view_dropout < 1:
            raise UsageError(f"method.view_dropout is {self.view_dropout}; it must be in [0, 1).")


def build(config: Config, encoder: nn.Module, sizes: MethodSizes) -> ProbEcho2Ecg:
    """The method around an encoder that has `width`."""
    if not sizes.echo_dim:
        raise UserError("prob_echo2ecg learns from echo, but there is no echo store: add --echo STORE.")
    return ProbEcho2Ecg(config, encoder, sizes)


class ProbEcho2Ecg(nn.Module):
    """See the head of this file."""

    needs = frozenset({"echo"})
    takes_views = True
    gathers = True

    def __init__(self, config: Config, encoder: nn.Module, sizes: MethodSizes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.encoder = encoder
        self.ecg_head = GaussianHead(int(encoder.width), config.dim, logvar_start=config.logvar_start, pooling=config.pooling)  # type: ignore[arg-type]
        self.between_logvar = nn.Parameter(torch.full((sizes.echo_dim,), math.log(config.between_start / sizes.echo_dim)))
        self.echo_head = nn.Linear(sizes.echo_dim, config.dim, bias=False)
        self.scale = nn.Parameter(torch.full((1,), config.scale_start))
        self.shift = nn.Parameter(torch.full((1,), config.shift_start))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        echo = batch.echo
        assert echo is not None
        views, start = echo.values, echo2ecg.start_of(echo)
        if self.training and self.config.view_dropout:
            views, start = drop_views(views, start, self.config.view_dropout)
        ecgs = dist.gather_embedding(self.embed_ecg(batch.ecg[0], batch.ecg_lead_valid).rows(echo.row))
        studies = dist.gather_embedding(self.embed_study(Block(values=views, row=echo.row, start=start)))
        result = pcme_loss(
            ecgs,
            studies,
            self.scale,
            self.shift,
            ignore=batch.same("subject", "study", rows=echo.row, gather=dist.gather),
            vib_weight=self.config.vib_weight,
            pseudo_weight=self.config.pseudo_weight,
        )
        spread = {"ecg_var": ecgs, "echo_var": studies}
        variances = {name: x.logvar.detach().exp().sum(1).mean() for name, x in spread.items() if x.logvar is not None}
        return {"loss": result["loss"].squeeze(), **variances, "scale": self.scale.detach().squeeze()}

    def embed_ecg(self, ecg: Tensor, lead_valid: Tensor) -> Embedding:
        # The mean of mapped tokens is the mapped mean, which an encoder may make without keeping every token.
        pooled = self.config.pooling == "mean" and hasattr(self.encoder, "pooled")
        tokens = self.encoder.pooled(ecg)[:, None] if pooled else self.encoder(ecg)  # type: ignore[operator]
        embedding: Embedding = self.ecg_head(tokens)
        return embedding

    def embed_study(self, views: Block) -> Embedding:
        """Ragged views (V, 2, D) -> Gaussians (M, dim)."""
        with torch.autocast(views.values.device.type, enabled=False):
            studies = Studies.of(echo2ecg.start_of(views), len(views.values))
            mean, std = views.values.float().unbind(1)
            mean, var = unit_gaussian(mean, std.square())
            mean, var = pool_gaussians(mean, var, self.between_logvar.exp() + LEAST_BETWEEN, studies)
            mean, var = unit_gaussian(self.echo_head(mean), F.linear(var, self.echo_head.weight.square()))
            return Embedding(mean=mean, logvar=var.log())

    def after_step(self, step: int) -> None:
        """Nothing to do."""


def unit_gaussian(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D), (N, D) divided so that the mean has length 1; a mean without length stays as it is."""
    length = torch.linalg.vector_norm(mean, dim=1, keepdim=True)
    length = torch.where(length > 0, length, torch.ones_like(length))
    return mean / length, var / length.square()


def pool_gaussians(mean: Tensor, var: Tensor, between: Tensor, studies: Studies) -> tuple[Tensor, Tensor]:
    """Views (V, D), (V, D) with the variance between views (D,) -> the studies' means and variances (M, D), (M, D)."""
    precision = 1 / (var + between)
    total = studies.sum(precision)
    return studies.sum(precision * mean) / total, 1 / total


def recipe(name: Literal["paper", "small"]) -> Recipe:
    """paper: ours, echo2ecg's figures with this loss. small: a student that learns on two CPU cores."""
    source = echo2ecg.recipe(name)
    method = {"dim": 64} if name == "small" else {}
    return Recipe(
        method_name="prob_echo2ecg", method=method, encoder_name=source.encoder_name, data=source.data, optim=source.optim
    )
