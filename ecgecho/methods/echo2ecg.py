"""Echo2ECG: an ECG matched with a whole echo study, whose views are pooled by attention, by CLIP's loss.

    ECG    encoder -> mean over tokens -> LayerNorm                     -> linear -> unit vector (B, dim)
    study  each view (mean over its clips) -> linear -> pool over views -> linear -> unit vector (M, dim)
    loss   ecg_weight * CE(ECG finds its study) + (1 - ecg_weight) * CE(study finds its ECG), of cosines / temperature

Views come ragged, as many as a study has (`nn/views.py`); with several processes every one sees the pairs of all.

Deviations from the reference, all off with `parity`:
- repeats of a study or of a subject within a batch are not scored as negatives (`repeats`);
- in "mean" the projection of the views is trained; the reference leaves it random, because no optimiser group holds it.
Also: with `learnable_temperature` the temperature is trained, where the reference puts it into no optimiser group.
The reference's ECG side sees 1,008 samples: `data.crop_samples` draws them in training, and what is embedded is the encoder's
part, all of the recording or (encoder `otis`, `encoder.windows=first`) its first 1,008 samples.

Source: Echo2ECG (github michelleespranita/Echo2ECG at 64c9610): multimodal/models/Multimodal_CLIP.py, shared/models, losses.
B batch, V views of all studies, M studies, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgecho.config import DataOptions, OptimOptions, Recipe
from ecgecho.losses.clip import MAX_LOG_SCALE, clip_loss, log_scale
from ecgecho.methods import _alone as dist
from ecgecho.nn.views import Aggregation, drop_views, view_pool
from ecgecho.types import Batch, Block, Embedding, MethodSizes, UsageError, UserError

TOKEN_NORM_EPS = 1e-5  # Echo2ECG TokenAggregator.py:41-55, computed in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the method."""

    aggregation: Aggregation = "attention"
    """How views become a study: "attention" asks with their mean, "learnable" with a learned vector, "cls" with a learned token
    in a block of its own; "mean", "max"; "single" is for data.views that show one view a study."""
    projection_dim: int = 1024
    """Of the projected views; "single" projects none."""
    dim: int = 512
    """Of the embeddings."""
    heads: int = 4
    """Of the attention over views."""
    temperature: float = 0.5
    """Where it starts, where it is learned."""
    learnable_temperature: bool = False
    ecg_weight: float = 0.5
    """Of the direction from the ECG to the echo."""
    repeats: Literal["negatives", "ignore", "positives"] = "ignore"
    """Pairs of a batch that share a study or a subject. "positives": of the same study a match as good as one's own, of the same
    subject's other studies ignored, because a heart changes."""
    view_dropout: float = 0.0
    """Share of the views that a training step leaves out."""
    parity: bool = False

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1:
            raise UsageError(f"method.temperature is {self.temperature}; it must be from 0.01 to 1.")
        if not 0 <= self.ecg_weight <= 1:
            raise UsageError(f"method.ecg_weight is {self.ecg_weight}; it must be from 0 to 1.")
        if not 0 <= self.view_dropout < 1:
            raise UsageError(f"method.view_dropout is {self.view_dropout}; it must be in [0, 1).")
        if self.dim < 1 or self.heads < 1 or self.projection_dim < 1 or self.projection_dim % self.heads:
            raise UsageError("method.dim, heads and projection_dim must be positive, and heads must divide projection_dim.")
        if self.parity and self.learnable_temperature:
            raise UsageError("method.parity has a fixed temperature; leave method.learnable_temperature at false.")


def build(config: Config, encoder: nn.Module, sizes: MethodSizes) -> Echo2Ecg:
    """The method around an encoder that has `width`."""
    if not sizes.echo_dim:
        raise UserError("echo2ecg learns from echo, but there is no echo store: add --echo STORE.")
    return Echo2Ecg(config, encoder, sizes)


class Echo2Ecg(nn.Module):
    """See the head of this file."""

    needs = frozenset({"echo"})

    def __init__(self, config: Config, encoder: nn.Module, sizes: MethodSizes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.takes_views = config.aggregation != "single"
        width, view_dim = int(encoder.width), config.projection_dim if self.takes_views else sizes.echo_dim  # type: ignore[arg-type]
        self.encoder = encoder
        self.ecg_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.ecg_head = nn.Linear(width, config.dim, bias=False)
        self.project_views = nn.Linear(sizes.echo_dim, view_dim) if self.takes_views else nn.Identity()
        self.pool = view_pool(config.aggregation, view_dim, config.heads)
        self.echo_head = nn.Linear(view_dim, config.dim, bias=False)
        self.scale: Tensor
        scale = torch.full((1,), log_scale(config.temperature))
        if config.learnable_temperature:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        if config.parity and config.aggregation == "mean":
            self.project_views.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        echo = batch.echo
        assert echo is not None
        ecgs = dist.gather(self.ecg_head(self.features(batch.ecg[0]))[echo.row].float())
        studies = dist.gather(self._study(echo.values, start_of(echo)))
        positive, ignore = self._repeats(batch, echo.row)
        loss = clip_loss(ecgs, studies, self.scale, ecg_weight=self.config.ecg_weight, positive=positive, ignore=ignore)
        return {"loss": loss, "temperature": (-self.scale.detach()).exp().squeeze()}

    def embed_ecg(self, ecg: Tensor, lead_valid: Tensor) -> Embedding:
        return Embedding(mean=F.normalize(self.ecg_head(self.features(ecg)).float(), dim=1))

    def embed_study(self, views: Block) -> Embedding:
        """Ragged views (V, 2, D) -> (M, dim). Without pooling ("single") the mean of a study's views stands for it."""
        values, start = views.values, start_of(views)
        if not self.takes_views:
            values, start = view_pool("mean", self.dim)(values, start), torch.arange(len(start), device=start.device)
        return Embedding(mean=F.normalize(self._study(values, start), dim=1))

    def features(self, ecg: Tensor) -> Tensor:
        """The pooled tokens before the alignment, (B, width): what the paper's kNN and linear probes see."""
        pooled = self.encoder.pooled if hasattr(self.encoder, "pooled") else lambda x: self.encoder(x).float().mean(1)
        result: Tensor = self.ecg_norm(pooled(ecg).float())  # type: ignore[operator]
        return result

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self.scale.clamp_(0, MAX_LOG_SCALE)  # here and not in `forward`, where the gradient would end at the bound

    def _study(self, moments: Tensor, start: Tensor) -> Tensor:
        """(V, 2, D), (M + 1,) -> (M, dim), not normalised."""
        if self.training and self.config.view_dropout and self.takes_views:
            moments, start = drop_views(moments, start, self.config.view_dropout)
        views = self.project_views(moments[:, 0].float())
        study: Tensor = self.echo_head(self.pool(views, start))
        return study.float()

    def _repeats(self, batch: Batch, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Which pairs are positives, and which are neither positive nor negative."""
        if self.config.parity or self.config.repeats == "negatives":
            return None, None
        if self.config.repeats == "ignore":
            return None, batch.same("subject", "study", rows=rows, gather=dist.gather)
        study = batch.same("study", rows=rows, gather=dist.gather)
        return study, batch.same("subject", rows=rows, gather=dist.gather)


def start_of(echo: Block) -> Tensor:
    """Where each study's views begin, (M + 1,); a block that is not ragged holds one view a study."""
    return torch.arange(len(echo.values) + 1, device=echo.values.device) if echo.start is None else echo.start


def recipe(name: Literal["paper", "small"]) -> Recipe:
    """paper: the published figures. small: a student that learns on two CPU cores."""
    if name == "small":
        return Recipe(
            method_name="echo2ecg",
            method={"projection_dim": 128, "dim": 64},
            encoder_name="resnet_small",
            data=DataOptions(batch_size=128, views="all"),
            optim=OptimOptions(learning_rate=2e-3, weight_decay=1e-2, epochs=20.0),
        )
    return Recipe(
        method_name="echo2ecg",
        encoder_name="otis",
        data=DataOptions(
            batch_size=256,
            views="all",
            max_views=128,
            crop_samples=1008,  # 2.016 s at 500 Hz
            window_days=7.0,  # paper
            augment="echo2ecg",
        ),
        # Echo2ECG README section A (configs/base.yaml has other defaults) and util/optimizer.py
        optim=OptimOptions(
            learning_rate=5e-4,
            weight_decay=1e-7,
            layer_decay=0.75,
            warmup_share=2 / 50,
            warmup_start=0.1,
            final_share=0.1,
            epochs=50.0,
            clip_norm=0.0,
        ),
    )
