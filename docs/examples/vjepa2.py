"""vjepa2: V-JEPA 2, and EchoJEPA where somebody has its weights: the mean of the encoder's last tokens, one vector a clip.

A teacher outside the package, by the way of docs/plugins.md:

    ecgecho cache-echo catalog --teacher docs/examples/vjepa2.py --set weights=/models/vjepa2-vitl --out echo.zarr

`weights` is a local folder in the layout of transformers (config.json and .safetensors beside it), as published for V-JEPA 2;
nothing is fetched, no pickle is read. EchoJEPA has published no weights; a checkpoint in the layout of its training code is
brought into this one by transformers' own conversion script for V-JEPA 2. Size and width are those of config.json.

Source: EchoJEPA at 70a8a7a, evals/video_classification_frozen (sampling and picture of the probe); transformers VJEPA2Model.
N clips, T frames, S pixels, D embedding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ecgecho.types import ItemError, PreparedClip, TeacherOutput, TeacherSpec, UserError

MEAN = (0.485, 0.456, 0.406)  # ImageNet; evals/video_classification_frozen/utils.py
STD = (0.229, 0.224, 0.225)
MARGIN = 256 / 224
"""The short side is scaled to the input's size times this, and the middle cut out."""
LEAST_SIDE = 10


@dataclass(frozen=True)
class Config:
    """Which checkpoint, and how clips are taken from a cine."""

    weights: str = ""
    """A local folder with config.json and model.safetensors."""
    frames: int = 16
    stride: int = 2
    clips: int = 1
    """At even distances; the probe of EchoJEPA takes 2."""
    licence: str = "V-JEPA 2 checkpoint as supplied by the user"
    """Kept in the store: what the checkpoint's licence says of vectors made with it."""

    def __post_init__(self):
        if not (2 <= self.frames <= 64 and 1 <= self.stride <= 32 and 1 <= self.clips <= 64):
            raise UserError("frames is from 2 to 64, stride from 1 to 32, clips from 1 to 64.")


def spec(config):
    """All that decides the rows besides the weights."""
    card = _card(config)
    return TeacherSpec(
        name="vjepa2",
        dim=int(card["hidden_size"]),
        size=int(card["crop_size"]),
        unit="clip",
        resize="short_side_256_224_crop",
        interpolation="bilinear",
        colour="rgb",
        mean=MEAN,
        std=STD,
        frame_norm="none",
        mask="sector",
        tokens_are_frames=False,
        frame_stride=config.stride,
        licence=config.licence,
        libraries=("transformers", "torch", "cv2"),
        clip_frames=config.frames,
        clips=config.clips,
        short="repeat_last",
    )


def prepare(spec, frames, frame_time_ms):
    """Frames (T, H, W, 3) RGB -> uint8 (U, 3, T, S, S). A short cine repeats its last frame."""
    del frame_time_ms
    if min(frames.shape[1:3]) < LEAST_SIDE:
        raise ItemError("picture_too_small", f"{frames.shape[2]} x {frames.shape[1]} pixels; {LEAST_SIDE} a side are needed")
    span = (spec.clip_frames - 1) * spec.frame_stride + 1
    starts = np.unique(np.linspace(0, max(len(frames) - span, 0), spec.clips).round().astype(np.int64))
    index = np.minimum(starts[:, None] + np.arange(spec.clip_frames) * spec.frame_stride, len(frames) - 1)
    used, place = np.unique(index, return_inverse=True)
    images = np.stack([_image(frames[number], spec.size) for number in used])
    values = images[place.reshape(index.shape)].transpose(0, 4, 1, 2, 3)
    return PreparedClip(values=np.ascontiguousarray(values), frame_index=index)


def build(config):
    """The teacher on the CPU; UserError where the folder is no checkpoint of V-JEPA 2 or does not fit its config.json."""
    card = _card(config)
    if card.get("model_type") != "vjepa2":
        raise UserError(f"{config.weights} holds a model of type {card.get('model_type')!r}, not vjepa2.")
    from transformers import VJEPA2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    files = sorted(Path(config.weights).expanduser().glob("*.safetensors"))
    if not files:
        raise UserError(f"{config.weights} holds no .safetensors file; save the checkpoint there with save_pretrained.")
    model, told = VJEPA2Model.from_pretrained(
        config.weights, local_files_only=True, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    wrong = [
        f"{kind.removesuffix('_keys')} {name}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for name in sorted(str(key) for key in told.get(kind, ()))
        if "predictor." not in name
    ]
    if wrong:
        raise UserError(f"{config.weights} does not fit its config.json: {'; '.join(wrong[:5])}. Give a whole checkpoint.")
    digest = hashlib.sha256()
    for file in [Path(config.weights).expanduser() / "config.json", *files]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return VJepa2Teacher(spec(config), model.encoder, digest.hexdigest())


class VJepa2Teacher:
    """The frozen encoder; its predictor is left out."""

    def __init__(self, spec, encoder, weights_sha256):
        self.spec = spec
        self.weights_sha256 = weights_sha256
        self.encoder = encoder.float().eval().requires_grad_(False)

    def to(self, device):
        """The teacher on `device`."""
        self.encoder.to(device)
        return self

    def forward(self, values):
        """uint8 (N, 3, T, S, S) -> pooled (N, D): the mean of the tokens behind the last norm."""
        import torch

        mean, std = (torch.tensor(x, device=values.device).view(3, 1, 1, 1) for x in (MEAN, STD))
        with torch.no_grad():
            clips = (values.float() / 255 - mean) / std
            tokens = self.encoder(pixel_values_videos=clips.transpose(1, 2)).last_hidden_state
        return TeacherOutput(pooled=tokens.mean(1).float())

    def embed_text(self, texts):
        """V-JEPA 2 reads no texts."""
        raise UserError("the teacher vjepa2 embeds no texts; choose one that does, such as echoclip.")


def _card(config):
    """The checkpoint's config.json."""
    path = Path(config.weights).expanduser() / "config.json"
    if not config.weights or not path.is_file():
        raise UserError("vjepa2 needs --weights FOLDER, with config.json and model.safetensors in it.")
    card = json.loads(path.read_text(encoding="utf-8"))
    for name, most in (("crop_size", 1024), ("hidden_size", 8192)):
        if not (isinstance(card.get(name), int) and 1 <= card[name] <= most):
            raise UserError(f"{path} has {name} {card.get(name)!r}; it must be from 1 to {most}.")
    return card


def _image(frame, size):
    """One frame -> (S, S, 3): the short side to S * 256 / 224, bilinear, and the middle of that."""
    height, width = frame.shape[:2]
    scale = int(size * MARGIN) / min(height, width)
    height, width = max(round(height * scale), size), max(round(width * scale), size)
    whole = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    top, left = (height - size) // 2, (width - size) // 2
    return whole[top : top + size, left : left + size]
