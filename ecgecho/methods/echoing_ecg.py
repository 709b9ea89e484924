"""EchoingECG: an ECG as a Gaussian that matches its report and the frozen teacher's echo (PCME++ over each pair).

loss = lambda * PCME++(ECG, text) + (1 - lambda) * PCME++(ECG, echo), each the mean over the pairs that are present; an absent
term is skipped. The echo side is the teacher's own Gaussian over frames, so the student's dimension is the teacher's.

Deviations from the reference, all off with `parity`:
- the log-variance starts at `logvar_start` and not near 0, where the first epochs only shrink variances;
- entries of the same subject, or of the same text, are neither negatives nor pseudo-positives of one another;
- a scale and a shift of its own for each pair of modalities (`shared_scale` for one of each).
`parity` covers the model, its start, the teacher's Gaussian and the loss. Batches of one kind are the sampler's part: add
`data.batches=single` (and `data.augment=none`). The reference's training script is not public; with its sampler a batch has
one term, so lambda can only weigh whole batches, which is what these settings together do. Whether it has one scale and
shift or two is not known; `parity` has one.

Source: EchoingECG (github mcintoshML/EchoingECG at 60da543): src/model, src/loss/pcmepp.py, src/datasets/echo.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ecgecho import dist
from ecgecho.config import DataOptions, OptimOptions, Recipe
from ecgecho.losses.pcme import pcme_loss
from ecgecho.nn.heads import GaussianHead
from ecgecho.nn.moments import gaussian_of_moments, gaussian_of_studies
from ecgecho.nn.text import BertText, SmallText
from ecgecho.types import Batch, Block, Embedding, MethodSizes, UsageError, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the method."""

    on: Literal["both", "text", "echo"] = "both"
    """What the ECG is matched with."""
    dim: int = 0
    """Of the embeddings; 0 is the echo teacher's, or DIM_WITHOUT_ECHO. With echo no other is possible."""
    text_weight: float = 0.9
    """lambda, the paper's; 1 - lambda goes to echo."""
    vib_weight: float = 1e-4  # EchoingECG src/loss/pcmepp.py:21
    pseudo_weight: float = 0.1  # pcmepp.py:22
    logvar_start: float = -6.0
    """Sum over 512 dimensions 1.3, near the 0.02-0.3 of a teacher; the reference starts at 0, a sum of 512."""
    scale_start: float = 5.0  # pcmepp.py, init_negative_scale
    shift_start: float = 5.0  # pcmepp.py, init_shift
    shared_scale: bool = False
    text_width: int = 128
    """Of the small text tower; a BERT brings its own."""
    pooling: Literal["gpo", "mean"] = "gpo"
    parity: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.text_weight < 1:
            raise UsageError(
                f"method.text_weight is {self.text_weight}; it must be between 0 and 1. To leave a term out set method.on."
            )
        if self.parity and self.pooling != "gpo":
            raise UsageError("method.parity pools by GPO; leave method.pooling at gpo.")


DIM_WITHOUT_ECHO = 256  # the paper's dimension


def build(config: Config, encoder: nn.Module, sizes: MethodSizes) -> EchoingEcg:
    """The method around an encoder that has `width`."""
    return EchoingEcg(config, encoder, sizes)


class EchoingEcg(nn.Module):
    """See the head of this file."""

    takes_views = False
    gathers = True

    def __init__(self, config: Config, encoder: nn.Module, sizes: MethodSizes) -> None:
        super().__init__()
        self.config = config
        self.needs = needs(config.on)
        self.dim = student_dim(config.on, config.dim, sizes)
        start = None if config.parity else config.logvar_start
        self.encoder = encoder
        self.ecg_head = GaussianHead(int(encoder.width), self.dim, logvar_start=start, pooling=config.pooling)  # type: ignore[arg-type]
        if "text" in self.needs:
            self.text = text_tower(sizes, config.text_width)
            self.text_head = GaussianHead(self.text.width, self.dim, logvar_start=start, pooling=config.pooling)
        kinds = ["all"] if config.shared_scale or config.parity else sorted(self.needs)
        self.scale = nn.ParameterDict({kind: nn.Parameter(torch.full((1,), config.scale_start)) for kind in kinds})
        self.shift = nn.ParameterDict({kind: nn.Parameter(torch.full((1,), config.shift_start)) for kind in kinds})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        ecg = self.embed_ecg(batch.ecg[0], batch.ecg_lead_valid)
        parts = {}
        if batch.text is not None and "text" in self.needs:
            same = batch.same("subject", "text_key", rows=batch.text.row, gather=dist.gather)
            parts["text"] = self._match("text", ecg.rows(batch.text.row), self.embed_text(batch.text), same)
        if batch.echo is not None and "echo" in self.needs:
            same = batch.same("subject", "study", rows=batch.echo.row, gather=dist.gather)
            parts["echo"] = self._match("echo", ecg.rows(batch.echo.row), gaussian_of_moments(batch.echo.values), same)
        weight = {"text": self.config.text_weight, "echo": 1 - self.config.text_weight}
        if self.config.on != "both":
            weight = {self.config.on: 1.0}
        loss = torch.stack([weight[name] * part for name, part in parts.items()]).sum()
        return {"loss": loss, **parts, **{f"scale_{k}": v.detach().squeeze() for k, v in self.scale.items()}}

    def embed_ecg(self, ecg: Tensor, lead_valid: Tensor) -> Embedding:
        embedding: Embedding = self.ecg_head(self.encoder(ecg))
        return embedding

    def embed_text(self, text: Block) -> Embedding:
        """Token ids (M, T) -> (M, D)."""
        assert text.valid is not None
        embedding: Embedding = self.text_head(self.text(text.values, text.valid), text.valid)
        return embedding

    def embed_study(self, views: Block) -> Embedding:
        """The teacher's own Gaussians (M, D) of studies whose cines are merged."""
        return gaussian_of_studies(views)

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def _match(self, kind: str, ecg: Embedding, other: Embedding, same: Tensor) -> Tensor:
        name = kind if kind in self.scale else "all"
        result = pcme_loss(
            dist.gather_embedding(ecg),
            dist.gather_embedding(other),
            self.scale[name],
            self.shift[name],
            ignore=None if self.config.parity else same,
            vib_weight=self.config.vib_weight,
            pseudo_weight=self.config.pseudo_weight,
            parity=self.config.parity,
        )
        return result["loss"].squeeze()


def needs(on: Literal["both", "text", "echo"]) -> frozenset[str]:
    """The modalities beside the ECG."""
    return frozenset({"text", "echo"} if on == "both" else {on})


def student_dim(on: Literal["both", "text", "echo"], dim: int, sizes: MethodSizes) -> int:
    """The dimension of the embeddings: the teacher's wherever echo is matched, because nothing projects the teacher."""
    if "echo" in needs(on) and not sizes.echo_dim:
        raise UserError("the method learns from echo, but there is no echo store: add --echo STORE, or --set method.on=text.")
    if "echo" not in needs(on):
        return dim or sizes.echo_dim or DIM_WITHOUT_ECHO
    if dim not in (0, sizes.echo_dim):
        raise UserError(
            f"method.dim is {dim}, but the echo teacher has {sizes.echo_dim} dimensions and is not projected; leave it at 0."
        )
    return sizes.echo_dim


def text_tower(sizes: MethodSizes, width: int) -> SmallText | BertText:
    """What turns the batch's token ids into tokens: the user's BERT, or a small one for the run's own vocabulary."""
    if sizes.text_model:
        return BertText.from_folder(sizes.text_model) if sizes.pretrained else BertText.from_config(sizes.text_model)
    if not sizes.vocabulary_size:
        raise UserError(
            "the recipe wants a local BERT for the reports: add --set data.text=FOLDER (the paper's is dmis-lab/biobert-v1.1, "
            "downloaded), or --set data.text=words for a small text tower trained from scratch."
        )
    return SmallText(sizes.vocabulary_size, width, max_tokens=sizes.max_tokens)


def recipe(name: Literal["paper", "small"]) -> Recipe:
    """paper: the published figures, where they are known. small: a student that learns on two CPU cores."""
    if name == "small":
        return Recipe(
            method_name="echoing_ecg",
            # mean pooling halves the time of a step; equal weights, because a quarter of every batch are echo pairs
            method={"text_weight": 0.5, "pooling": "mean", "text_width": 64},
            encoder_name="resnet_small",
            data=DataOptions(batch_size=128, ratio=0.25, max_tokens=64),
            optim=OptimOptions(learning_rate=2e-3, weight_decay=1e-2, epochs=20.0),
        )
    return Recipe(
        method_name="echoing_ecg",
        encoder_name="echoing_ecg",
        data=DataOptions(
            batch_size=128,  # paper
            text="",  # dmis-lab/biobert-v1.1, to be given as a local folder
            # EchoingECG src/datasets/helpers.py:150
            text_template="Given the data for ECG. The corresponding ECG report is : {text}\n\n.",
            max_tokens=244,  # paper; the code truncates nothing
            augment="light",  # the paper says "standard approaches" and names none
        ),
        optim=OptimOptions(
            learning_rate=4e-4,  # paper; src/configs/optimizer.yaml has 3e-5
            weight_decay=0.1,  # paper; optimizer.yaml has 0.01
            betas=(0.9, 0.999),  # optimizer.yaml
            warmup_share=0.03,  # optimizer.yaml
            epochs=150.0,  # paper
            clip_norm=1.0,  # src/configs/trainer.yaml
        ),
    )
