"""ECG-CLIP: InfoNCE of ECG and report, ECG and echo, or both, between points; the deterministic baseline of echoing_ecg.

loss = lambda * InfoNCE(ECG, text) + (1 - lambda) * InfoNCE(ECG, echo). Entries of the same subject or text are no negatives
of one another. `parity` counts them, and multiplies by a plain scale that starts at 1 as the reference's ablation does.

Source: CLIP (arXiv 2103.00020); EchoingECG src/loss/infonce.py at 60da543.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ecgecho import dist
from ecgecho.config import DataOptions, OptimOptions, Recipe
from ecgecho.losses.info_nce import info_nce
from ecgecho.methods import echoing_ecg
from ecgecho.nn.heads import PointHead
from ecgecho.nn.moments import gaussian_of_moments, gaussian_of_studies
from ecgecho.types import Batch, Block, Embedding, MethodSizes, UsageError

CLIP_SCALE = math.log(1 / 0.07)  # CLIP section 2.5: the multiplier starts at 14.3, as a logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the method."""

    on: Literal["both", "text", "echo"] = "text"
    """What the ECG is matched with."""
    dim: int = 0
    """Of the embeddings; 0 is the echo teacher's, or echoing_ecg.DIM_WITHOUT_ECHO. With echo no other is possible."""
    text_weight: float = 0.5
    text_width: int = 128
    """Of the small text tower; a BERT brings its own."""
    pooling: Literal["gpo", "mean"] = "gpo"
    parity: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.text_weight < 1:
            raise UsageError(
                f"method.text_weight is {self.text_weight}; it must be between 0 and 1. To leave a term out set method.on."
            )


def build(config: Config, encoder: nn.Module, sizes: MethodSizes) -> EcgClip:
    """The method around an encoder that has `width`."""
    return EcgClip(config, encoder, sizes)


class EcgClip(nn.Module):
    """See the head of this file."""

    takes_views = False
    gathers = True

    def __init__(self, config: Config, encoder: nn.Module, sizes: MethodSizes) -> None:
        super().__init__()
        self.config = config
        self.needs = echoing_ecg.needs(config.on)
        self.dim = echoing_ecg.student_dim(config.on, config.dim, sizes)
        self.encoder = encoder
        self.ecg_head = PointHead(int(encoder.width), self.dim, pooling=config.pooling)  # type: ignore[arg-type]
        if "text" in self.needs:
            self.text = echoing_ecg.text_tower(sizes, config.text_width)
            self.text_head = PointHead(self.text.width, self.dim, pooling=config.pooling)
        start = 1.0 if config.parity else CLIP_SCALE
        self.scale = nn.ParameterDict({kind: nn.Parameter(torch.full((1,), start)) for kind in sorted(self.needs)})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        ecg = self.embed_ecg(batch.ecg[0], batch.ecg_lead_valid)
        parts = {}
        if batch.text is not None and "text" in self.needs:
            same = batch.same("subject", "text_key", rows=batch.text.row, gather=dist.gather)
            parts["text"] = self._contrast("text", ecg.rows(batch.text.row), self.embed_text(batch.text), same)
        if batch.echo is not None and "echo" in self.needs:
            same = batch.same("subject", "study", rows=batch.echo.row, gather=dist.gather)
            parts["echo"] = self._contrast("echo", ecg.rows(batch.echo.row), gaussian_of_moments(batch.echo.values), same)
        weight = {"text": self.config.text_weight, "echo": 1 - self.config.text_weight}
        if self.config.on != "both":
            weight = {self.config.on: 1.0}
        loss = torch.stack([weight[name] * part for name, part in parts.items()]).sum()
        return {"loss": loss, **parts}

    def embed_ecg(self, ecg: Tensor, lead_valid: Tensor) -> Embedding:
        embedding: Embedding = self.ecg_head(self.encoder(ecg))
        return embedding

    def embed_text(self, text: Block) -> Embedding:
        """Token ids (M, T) -> (M, D)."""
        assert text.valid is not None
        embedding: Embedding = self.text_head(self.text(text.values, text.valid), text.valid)
        return embedding

    def embed_study(self, views: Block) -> Embedding:
        """The teacher's own vectors (M, D) of studies whose cines are merged."""
        return Embedding(mean=gaussian_of_studies(views).mean)

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def _contrast(self, kind: str, ecg: Embedding, other: Embedding, same: Tensor) -> Tensor:
        ignore = None if self.config.parity else same
        ecg, other = dist.gather_embedding(ecg), dist.gather_embedding(other)
        return info_nce(ecg.mean, other.mean, self.scale[kind], ignore, log_scale=not self.config.parity)


def recipe(name: Literal["paper", "small"]) -> Recipe:
    """paper: echoing_ecg's figures with this loss, its ablation. small: a student that learns on two CPU cores."""
    if name == "small":
        return Recipe(
            method_name="ecg_clip",
            method={"pooling": "mean", "text_width": 64},  # half the time of a step
            encoder_name="resnet_small",
            data=DataOptions(batch_size=128, ratio=0.25, max_tokens=64),
            optim=OptimOptions(learning_rate=2e-3, weight_decay=1e-2, epochs=20.0),
        )
    paper = echoing_ecg.recipe("paper")
    return Recipe(method_name="ecg_clip", encoder_name=paper.encoder_name, data=paper.data, optim=paper.optim)
