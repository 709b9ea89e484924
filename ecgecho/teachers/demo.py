"""demo: an image-text model of the CLIP kind, small enough to ship, trained on simulated cines only. 112 px, 64 dimensions.

It exists so that the whole way can be walked without a licence: what it says of a real heart means nothing. The mean over a
cine of its unit frame vectors carries motion, because it is a histogram over the cycle.

Source: tools/train_demo_teacher.py makes demo.safetensors and demo.json.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgecho.types import F32, U8, PreparedClip, TeacherOutput, TeacherSpec, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

DIM = 64
SIZE = 112
WORDS = 40
"""Longest text; the rest is cut."""
PAD, UNKNOWN = 0, 1
WIDTH = 96
"""Of the text tower."""

_HERE = Path(__file__).parent
_VISIBLE = 8  # grey level from which a pixel counts as part of the picture


@dataclass(frozen=True)
class Config:
    """Nothing need be chosen."""

    weights: str = ""
    """A .safetensors file with its .json beside it; the shipped one when empty."""


def spec(config: Config) -> TeacherSpec:
    """The same for all weights."""
    del config
    return TeacherSpec(
        name="demo",
        dim=DIM,
        size=SIZE,
        unit="frame",
        resize="content_box",
        interpolation="area",
        colour="rgb",
        mean=(0.16, 0.16, 0.16),
        std=(0.18, 0.18, 0.18),
        frame_norm="l2",
        mask="sector",
        tokens_are_frames=False,
        licence="Apache-2.0",
    )


def prepare(spec: TeacherSpec, frames: U8, frame_time_ms: F32) -> PreparedClip:
    """(T, H, W, 3) masked -> (T, 3, S, S): the clip's visible box, made square with black, resized by area."""
    import cv2

    del frame_time_ms
    top, bottom, left, right = _content_box(frames)
    side = max(bottom - top, right - left)
    square = np.zeros((side, side, 3), np.uint8)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    values = np.empty((len(frames), 3, spec.size, spec.size), np.uint8)
    for frame, target in zip(frames, values, strict=True):
        square[y : y + bottom - top, x : x + right - left] = frame[top:bottom, left:right]
        target[:] = cv2.resize(square, (spec.size, spec.size), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    return PreparedClip(values=values, frame_index=np.arange(len(frames), dtype=np.int64))


def build(config: Config) -> DemoTeacher:
    """The frozen model, on the CPU."""
    return DemoTeacher(config)


class DemoTeacher:
    """See `ecgecho.types.Teacher`."""

    def __init__(self, config: Config) -> None:
        from safetensors.torch import load

        path = Path(config.weights) if config.weights else _HERE / "demo.safetensors"
        if not path.is_file() or not path.with_suffix(".json").is_file():
            raise UserError(
                f"there is no {path} with {path.with_suffix('.json').name} beside it; give both, or leave `weights` empty."
            )
        content = path.read_bytes()
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.spec = spec(config)
        self.weights_sha256 = hashlib.sha256(content).hexdigest()
        if card["weights_sha256"] != self.weights_sha256:
            raise UserError(f"{path.with_suffix('.json')} belongs to other weights than {path}; take both from one training.")
        self.vocabulary: dict[str, int] = {word: number for number, word in enumerate(card["vocabulary"])}
        self.device = "cpu"
        self.image = image_tower()
        self.text = text_tower(len(self.vocabulary))
        state = {name: value.float() for name, value in load(content).items()}
        for prefix, tower in (("image.", self.image), ("text.", self.text)):
            own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            counters = {name: value for name, value in tower.state_dict().items() if name.endswith("num_batches_tracked")}
            tower.load_state_dict(own | counters, strict=True)
            tower.eval().requires_grad_(requires_grad=False)

    def forward(self, values: Tensor) -> TeacherOutput:
        """Frames uint8 (N, 3, S, S) -> pooled (N, 64)."""
        import torch

        with torch.no_grad():
            return TeacherOutput(pooled=self.image(normalise(values, self.spec)))

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(n, 64) unit vectors. Words it never saw are one unknown word."""
        import torch

        with torch.no_grad():
            vectors = self.text(tokens(texts, self.vocabulary).to(self.device))
        return torch.nn.functional.normalize(vectors, dim=-1)

    def to(self, device: str) -> DemoTeacher:
        """Moves in place."""
        self.device = device
        self.image.to(device)
        self.text.to(device)
        return self


def normalise(values: Tensor, spec: TeacherSpec) -> Tensor:
    """uint8 (N, 3, S, S) -> (N, 1, S, S): an echo is grey, so the mean of the channels is all there is."""
    grey = values.float().mean(dim=1, keepdim=True) / 255
    return (grey - spec.mean[0]) / spec.std[0]


def tokens(texts: Sequence[str], vocabulary: dict[str, int]) -> Tensor:
    """Lower-case words and numbers -> (n, WORDS) int64, 0 where there is none."""
    import torch

    rows = torch.zeros((len(texts), WORDS), dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        for place, word in enumerate(split(text)[:WORDS]):
            row[place] = vocabulary.get(word, UNKNOWN)
    return rows


def split(text: str) -> list[str]:
    """The words of a text; "." is one, so that statements stay apart."""
    return re.findall(r"[a-z]+|\d+|[.%<>]", text.lower())


def image_tower() -> nn.Sequential:
    """(N, 1, 112, 112) -> (N, 64); 0.3 M parameters."""
    from torch import nn

    def block(inputs: int, outputs: int, stride: int, kernel: int = 3) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]

    return nn.Sequential(
        *block(1, 24, 4, kernel=9),
        *block(24, 48, 2),
        *block(48, 48, 1),
        *block(48, 64, 2),
        *block(64, 64, 1),
        # Places are kept: where the ring stands in the sector tells how far the ventricle has shortened.
        nn.Conv2d(64, 16, 1),
        nn.Flatten(),
        nn.Linear(16 * 49, 160),
        nn.ReLU(inplace=True),
        nn.Linear(160, DIM),
    )


@functools.cache
def _text_class() -> Any:
    import torch
    from torch import nn

    class TextTower(nn.Module):
        """(n, WORDS) int64 -> (n, 64): a transformer of two layers, averaged over the words."""

        def __init__(self, words: int) -> None:
            super().__init__()
            self.word = nn.Embedding(words, WIDTH, padding_idx=PAD)
            self.place = nn.Parameter(0.02 * torch.randn(WORDS, WIDTH))
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
            )
            self.norm = nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, DIM)

        def forward(self, ids: Tensor) -> Tensor:
            valid = ids != PAD
            valid[:, 0] = True  # an empty text is one blank, not a division by nothing
            hidden = self.word(ids) + self.place
            for layer in self.layers:
                hidden = layer(hidden, src_key_padding_mask=~valid)
            weight = valid[..., None].float()
            mean = (self.norm(hidden) * weight).sum(1) / weight.sum(1)
            out: Tensor = self.head(mean)
            return out

    return TextTower


def text_tower(words: int) -> nn.Module:
    """The text tower for a vocabulary of `words`."""
    tower: nn.Module = _text_class()(words)
    return tower


def _content_box(frames: U8) -> tuple[int, int, int, int]:
    """top, bottom, left, right of what is visible in any frame; the whole picture when nothing is."""
    visible = frames.max(axis=0).max(axis=2) >= _VISIBLE
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if not len(rows):
        return 0, frames.shape[1], 0, frames.shape[2]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
