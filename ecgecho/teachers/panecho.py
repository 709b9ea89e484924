"""PanEcho: 16 frames through a ConvNeXt-tiny and a transformer over time, 768 dimensions a clip.

Built from torchvision and torch.nn; the weights are the user's own `panecho.pt` (CC BY-NC-SA 4.0), read as numbers alone. Its
task heads are left out: what is stored is the backbone's vector. `random:SEED` makes an untrained network, for tests.

What stands in for a frame mixes frames and colours (`scramble`): PanEcho was trained so, and its weights want it so. Its 16
tokens are therefore no frames.

Source: PanEcho at 836c46e (src/models.py, src/dataset.py, hubconf.py). N clips, T frames, S pixels, D = 768.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ecgecho.echo.frames import squash
from ecgecho.teachers._clips import check_clips, clip_index
from ecgecho.teachers._networks import empty, file_of, fill_random, hash_state, licence_of, random_of, shorten
from ecgecho.types import F32, U8, PreparedClip, TeacherOutput, TeacherSpec, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

DIM = 768
SIZE = 224
WHOLE = 256
"""Pixels of the whole picture, squashed to a square; the middle 224 are seen. src/dataset.py:434"""
FRAMES = 16
LAYERS, HEADS = 4, 8  # hubconf.py:22-38; ReLU, norms after the sums, feed-forward as wide as the tokens
MEAN = (0.485, 0.456, 0.406)  # ImageNet's red, green, blue, applied to blue, green, red as src/dataset.py:443-469 does
STD = (0.229, 0.224, 0.225)
LICENCE = "PanEcho weights as supplied by the user: CC BY-NC-SA 4.0, non-commercial"
HEAD = re.compile(r".+_head\.1\.(?:weight|bias)")
"""Of a task: dropout, then this layer. Task names contain "|", "(" and "-"."""
TIME_CODE = "time_encoder.pe"
"""Saved as a parameter; a formula. hubconf.py:43 drops it as well."""


@dataclass(frozen=True)
class Config:
    """Which weights, and how many clips."""

    weights: str = ""
    """A local panecho.pt, or random:SEED (untrained); random:SEED:BLOCKS has so many blocks of each stage of its ConvNeXt."""
    clips: int = 1
    """Clips of a cine, at even distances, fewer where it has no room for other ones; 1 is the first. The authors average four
    that they draw at random."""
    parity: bool = False
    """No sector mask. (How the released weights' cines had been masked is not published.)"""

    def __post_init__(self) -> None:
        check_clips(self.clips)


def spec(config: Config) -> TeacherSpec:
    """All that decides the rows besides the weights."""
    return TeacherSpec(
        name="panecho",
        dim=DIM,
        size=SIZE,
        unit="clip",
        resize=f"squash_{WHOLE}_crop",
        interpolation="area",
        colour="bgr",
        mean=MEAN,
        std=STD,
        frame_norm="none",
        mask="none" if config.parity else "sector",
        tokens_are_frames=False,
        licence=licence_of(config.weights, LICENCE),
        libraries=("torchvision", "torch", "cv2"),
        clip_frames=FRAMES,
        clips=config.clips,
        short="repeat_last",
    )


def prepare(spec: TeacherSpec, frames: U8, frame_time_ms: F32) -> PreparedClip:
    """Frames (T, H, W, 3) RGB -> uint8 (U, 3, 16, S, S), blue first. Pure: no weights, no randomness, no torch."""
    del frame_time_ms
    index = clip_index(len(frames), spec)
    used, place = np.unique(index, return_inverse=True)
    images = np.stack([_image(frames[number], spec.size) for number in used])
    values = images[place.reshape(index.shape)].transpose(0, 4, 1, 2, 3)
    return PreparedClip(values=np.ascontiguousarray(values), frame_index=index)


def build(config: Config) -> PanEchoTeacher:
    """The teacher on the CPU, its weights loaded and hashed; UserError where they are missing or do not fit."""
    chosen = random_of(config.weights)
    if chosen is not None:
        seed, blocks = chosen
        network = fill_random(empty(lambda: video_network(blocks)), seed)
        return PanEchoTeacher(spec(config), network, hash_state(network))
    from ecgecho.weights import fit, read_weights, sha256

    path = file_of(config.weights, "panecho", "--weights", "PanEcho's panecho.pt")
    network = empty(video_network)
    fit(network, backbone_of(read_weights(path)), str(path))
    return PanEchoTeacher(spec(config), network, sha256(path))


def backbone_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The released file's names -> those of `video_network`, without the tasks' heads and the time code."""
    kept: dict[str, Any] = {}
    for name, value in state.items():
        inner = name.removeprefix("encoder.")
        if inner != TIME_CODE and not HEAD.fullmatch(name):
            # "encoder.encoder.model.features..." and "encoder.transformer.layers...": the outer word is the whole backbone.
            kept[inner.replace("encoder.model.", "images.", 1) if inner.startswith("encoder.model.") else inner] = value
    return kept


class PanEchoTeacher:
    """A frozen network in fp32 on one device."""

    def __init__(self, spec: TeacherSpec, network: nn.Module, weights_sha256: str) -> None:
        self.spec = spec
        self.weights_sha256 = weights_sha256
        self._network = network.eval().requires_grad_(False)

    def to(self, device: str) -> PanEchoTeacher:
        """The teacher on `device`."""
        self._network.to(device)
        return self

    def forward(self, values: Tensor) -> TeacherOutput:
        """uint8 (N, 3, 16, S, S) -> pooled (N, 768), not normalised, and tokens (N, 16, 768), which are no frames."""
        import torch

        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.no_grad(), exact:
            clips = normalise(values, self.spec)
            images: Tensor = self._network.images(scramble(clips))  # type: ignore[operator]
            tokens = images.reshape(len(clips), -1, DIM)
            tokens = self._network.transformer(tokens + time_code(tokens.shape[1]).to(tokens.device))  # type: ignore[operator]
        return TeacherOutput(pooled=tokens.mean(1).float(), tokens=tokens.float(), tokens_are_frames=False)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """PanEcho has no text tower."""
        raise UserError("the teacher panecho embeds no texts; choose one that does, such as echoclip.")


def normalise(values: Tensor, spec: TeacherSpec) -> Tensor:
    """uint8 (N, 3, T, S, S) -> (value / 255 - mean) / std by channel, fp32."""
    import torch

    mean, std = (torch.tensor(x, device=values.device).view(3, 1, 1, 1) for x in (spec.mean, spec.std))
    return (values.float() / 255 - mean) / std


def scramble(clips: Tensor) -> Tensor:
    """(N, 3, T, S, S) -> (N * T, 3, S, S): image k of a clip is planes 3k, 3k + 1, 3k + 2 of its colours one after the other.

    So image 0 holds the first colour of frames 0, 1 and 2. The weights were trained with it: never repair it.
    Source: PanEcho src/models.py:98-101, a reshape where a permutation was due.
    """
    count, colours, length, *picture = clips.shape
    return clips.reshape(count * length, colours, *picture)


def time_code(length: int) -> Tensor:
    """(T, D): sine and cosine in turn, of t / 10000^(2i / D). Source: PanEcho src/models.py, PositionalEncoding."""
    import torch

    angle = torch.arange(length)[:, None] * 10000 ** (-torch.arange(0, DIM, 2) / DIM)
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(length, DIM)


def video_network(blocks: int = 0) -> nn.Module:
    """`images` (ConvNeXt-tiny up to its last norm) and `transformer`, 42,006,624 parameters; `blocks` shortens each stage."""
    from torch import nn
    from torchvision.models import convnext_tiny

    images = convnext_tiny()
    images.classifier[-1] = nn.Identity()
    shorten(images, blocks)
    layer = nn.TransformerEncoderLayer(DIM, HEADS, DIM, dropout=0.0, activation="relu", batch_first=True)
    transformer = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    return nn.ModuleDict({"images": images, "transformer": transformer})


def _image(frame: U8, size: int) -> U8:
    """One frame -> (S, S, 3), blue first."""
    whole = squash(frame[None], WHOLE)[0]
    cut = (WHOLE - size) // 2
    image: U8 = whole[cut : cut + size, cut : cut + size, ::-1]
    return image
