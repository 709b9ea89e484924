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

Source: Echo2ECG (github michelleespranita/Echo2ECG at 64c9610): multimodal/models, multimodal/losses, shared/models.
B batch, V views of all studies, M studies, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgecho import dist, weights
from ecgecho.config import DataOptions, OptimOptions, Recipe
from ecgecho.losses.clip import MAX_LOG_SCALE, clip_loss, log_scale
from ecgecho.nn.alignment import Alignment, alignment_head
from ecgecho.nn.views import Aggregation, drop_views, view_pool
from ecgecho.types import Batch, Block, Embedding, MethodSizes, UsageError, UserError

TOKEN_NORM_EPS = 1e-5  # Echo2ECG TokenAggregator.py:41-55, computed in fp32

PREFIXES = {
    "ecg_encoder.": "encoder.",
    "token_aggregator.ecg_layernorm_global.": "ecg_norm.",
    "ecg_alignment_global_token.": "ecg_head.",
    "echo_projection_for_agg.": "project_views.",
    "echo_view_aggregator.aggregator.": "pool.",
    "echo_alignment_global_token.": "echo_head.",
}
"""The parts' names in the reference's checkpoints, and ours."""
TEACHER = "echo_encoder."
"""The frozen teacher lies in the reference's checkpoints too; here it is `cache-echo` that reads clips."""
UNUSED = ("logit_scale", "logit_bias")
"""Of the loss, which no optimiser group of the reference holds, and of SAIL's heads, whose forward ignores them."""
COMPONENTS = {
    "ecg_multimodal.ckpt": "ecg_encoder.",
    "token_aggregator.ckpt": "token_aggregator.",
    "ecg_alignment_global_token.ckpt": "ecg_alignment_global_token.",
    "echo_projection_for_agg.ckpt": "echo_projection_for_agg.",
    "echo_view_aggregator.ckpt": "echo_view_aggregator.",
    "echo_alignment_global_token.ckpt": "echo_alignment_global_token.",
}
"""The reference's files of one part each, and what their names begin with in its whole checkpoint."""


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
    alignment: Alignment = "linear"
    """What brings both sides into the shared space; the reference's others are "simclr" and SAIL's "star" and "mlp"."""
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
    gathers = True

    def __init__(self, config: Config, encoder: nn.Module, sizes: MethodSizes) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.takes_views = config.aggregation != "single"
        self.one_view_by = "" if self.takes_views else "method.aggregation=single"
        width, view_dim = int(encoder.width), config.projection_dim if self.takes_views else sizes.echo_dim  # type: ignore[arg-type]
        self.encoder = encoder
        self.ecg_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.ecg_head = alignment_head(config.alignment, width, config.dim)
        self.project_views = nn.Linear(sizes.echo_dim, view_dim) if self.takes_views else nn.Identity()
        self.pool = view_pool(config.aggregation, view_dim, config.heads)
        self.echo_head = alignment_head(config.alignment, view_dim, config.dim)
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


def import_weights(model: nn.Module, path: Path) -> list[str]:
    """Load published weights: a Lightning checkpoint, or the folder of its components (ecg_multimodal.ckpt and others).

    Returns what to print; nothing where `path` holds no part of this method (an encoder's file), and then nothing is loaded.
    All of the model is there afterwards: what is missing, foreign or of another shape is a UserError that names it. The teacher
    (`echo_encoder.`) is left out, and so are `UNUSED`.
    """
    assert isinstance(model, Echo2Ecg)
    state = _components(model, path) if path.is_dir() else weights.read_weights(path)
    if not any(name.startswith(tuple(PREFIXES)) for name in state):
        return []
    left_out = [name for name in state if name.startswith(TEACHER) or name.rpartition(".")[2] in UNUSED]
    expected = [_published(name) for name in model.state_dict() if name != "scale"]
    missing = [name for name in expected if name not in state]
    foreign = [name for name in state if name not in expected and name not in left_out]
    if missing or foreign:
        raise UserError(
            f"{path} does not fit this echo2ecg: missing {weights.few(missing)}; foreign {weights.few(foreign)}. "
            "Give a whole checkpoint of the same method.aggregation, method.alignment and encoder."
        )
    ours = {_renamed(name): value for name, value in state.items() if name not in left_out}
    encoder = {name.removeprefix("encoder."): value for name, value in ours.items() if name.startswith("encoder.")}
    if hasattr(model.encoder, "adapted"):
        encoder = model.encoder.adapted(encoder)  # type: ignore[operator]
    rest = {name: value for name, value in ours.items() if not name.startswith("encoder.")}
    weights.fit(model, {**rest, **{f"encoder.{name}": value for name, value in encoder.items()}}, str(path), ignore=("scale",))
    lines = [f"{path}: {len(ours)} tensors of echo2ecg, {len(encoder)} of them the encoder's"]
    return [*lines, f"left out by rule: {weights.few(left_out)}"] if left_out else lines


def _components(model: Echo2Ecg, folder: Path) -> dict[str, Tensor]:
    """The reference's component files under the names of its whole checkpoint; empty where there is none."""
    there = [file for file in COMPONENTS if (folder / file).is_file()]
    own = [_published(name) for name in model.state_dict() if name != "scale"]
    missing = [f for f, part in COMPONENTS.items() if f not in there and any(name.startswith(part) for name in own)]
    if there and missing:
        hint = " (in its mean mode the reference saves none; its whole checkpoint holds it)"
        raise UserError(
            f"{folder} lacks {weights.few(missing)}{hint if missing == ['echo_projection_for_agg.ckpt'] else ''}; "
            "give the folder of all components, or a whole checkpoint."
        )
    return {COMPONENTS[f] + name: value for f in there for name, value in weights.read_weights(folder / f).items()}


def _renamed(name: str) -> str:
    old = next(prefix for prefix in PREFIXES if name.startswith(prefix))
    return PREFIXES[old] + name.removeprefix(old)


def _published(name: str) -> str:
    old = next(prefix for prefix, new in PREFIXES.items() if name.startswith(new))
    return old + name.removeprefix(PREFIXES[old])


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
