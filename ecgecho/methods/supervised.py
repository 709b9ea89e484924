"""Supervised: a linear head on the pooled encoder and binary cross-entropy over the labels that are known; the ceiling.

The labels and their order are `data.tasks`. An ECG without a measurement in the window counts for no task it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ecgecho.config import DataOptions, OptimOptions, Recipe
from ecgecho.losses.classify import binary_cross_entropy
from ecgecho.types import Batch, Embedding, MethodSizes, UserError

TASKS = ("lvef_lt_40", "severe_lvh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the method."""

    dropout: float = 0.1
    """Before the linear head."""


def build(config: Config, encoder: nn.Module, sizes: MethodSizes) -> Supervised:
    """The method around an encoder that has `width`."""
    if sizes.num_labels < 1:
        raise UserError(f"supervised learns from labels; set data.tasks, for example to {list(TASKS)}.")
    return Supervised(config, encoder, sizes)


class Supervised(nn.Module):
    """See the head of this file."""

    needs = frozenset({"labels"})

    def __init__(self, config: Config, encoder: nn.Module, sizes: MethodSizes) -> None:
        super().__init__()
        width = int(encoder.width)  # type: ignore[arg-type]
        self.dim = width
        self.encoder = encoder
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(width, sizes.num_labels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.labels is not None
        assert batch.labels_valid is not None
        logits = self.classify(self.dropout(self.embed_ecg(batch.ecg[0], batch.ecg_lead_valid).mean))
        return {"loss": binary_cross_entropy(logits, batch.labels, batch.labels_valid)}

    def embed_ecg(self, ecg: Tensor, lead_valid: Tensor) -> Embedding:
        """The pooled features the head reads, (B, width)."""
        return Embedding(mean=self.encoder(ecg).float().mean(1))

    def predict(self, ecg: Tensor, lead_valid: Tensor) -> Tensor:
        """Probabilities (B, K), in the order of `data.tasks`."""
        return self.logits(ecg, lead_valid).sigmoid()

    def logits(self, ecg: Tensor, lead_valid: Tensor) -> Tensor:
        """(B, K)."""
        result: Tensor = self.classify(self.embed_ecg(ecg, lead_valid).mean)
        return result

    def after_step(self, step: int) -> None:
        """Nothing to do."""


def recipe(name: Literal["paper", "small"]) -> Recipe:
    """paper: the paper's encoder and optimiser with this head. small: a ceiling on two CPU cores."""
    if name == "small":
        return Recipe(
            method_name="supervised",
            encoder_name="resnet_small",
            data=DataOptions(batch_size=128, ratio=0.0, tasks=TASKS),
            optim=OptimOptions(learning_rate=2e-3, weight_decay=1e-2, epochs=20.0),
        )
    return Recipe(
        method_name="supervised",
        encoder_name="echoing_ecg",
        data=DataOptions(batch_size=128, ratio=0.0, tasks=TASKS),
        optim=OptimOptions(learning_rate=4e-4, weight_decay=0.1, epochs=150.0),  # as echoing_ecg, the paper's
    )
