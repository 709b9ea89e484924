"""EchoCLIP: every frame through a ConvNeXt-base image tower, texts through CLIP's text tower; 512 dimensions.

Built from open_clip; the weights are the user's own: a local file or folder, or a hub id (the published one is
`mkaichristensen/echo-clip`, Cedars-Sinai academic licence). `random:SEED` makes untrained towers, for tests, and says so
in the licence.

Source: echo_CLIP at 23cd327 (preprocessing "echoclip", prompt decoding), EchoingECG at 60da543 (preprocessing
"echoing_ecg"). U frames used, S pixels, D embedding, F frames, P prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ecgecho.echo.frames import crop_zoom, squash
from ecgecho.teachers._networks import hash_state
from ecgecho.types import F32, U8, PreparedClip, TeacherOutput, TeacherSpec, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCHITECTURE = "convnext_base"  # an open_clip model name; EchoingECG preprocess/echoclip.py loads EchoCLIP by it
DIM = 512
SIZE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LICENCE = "EchoCLIP weights as supplied by the user: Cedars-Sinai academic licence, non-commercial, not to be passed on"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUB_ID = re.compile(r"(?:hf-hub:)?([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?")
RANDOM = re.compile(r"random:(\d+)")
CONNECT_S = 5.0
RANKS_KEPT = 0.2  # echo_CLIP utils.py, compute_regression_metric: the best fifth of the prompts


@dataclass(frozen=True)
class Config:
    """Which weights, and how frames are prepared."""

    weights: str = ""
    """A local file (.safetensors, .pt) or its folder, a hub id (org/name, org/name@revision), or random:SEED (untrained)."""
    preprocessing: Literal["echoclip", "echoing_ecg"] = "echoclip"
    """echoclip: frames 0, 2, ..., 38, cropped to a square, 10 % zoom, bicubic.
    echoing_ecg: all frames, squashed to a square, area average."""
    parity: bool = False
    """Equal to the reference: no sector mask, and blue and red exchanged where it does so (echoclip)."""


def spec(config: Config) -> TeacherSpec:
    """All that decides the rows besides the weights."""
    own = config.preprocessing == "echoclip"
    seed = _seed(config.weights)
    return TeacherSpec(
        name="echoclip",
        dim=DIM,
        size=SIZE,
        unit="frame",
        resize="crop_zoom" if own else "squash",
        interpolation="bicubic" if own else "area",
        colour="bgr" if config.parity and own else "rgb",
        mean=CLIP_MEAN,
        std=CLIP_STD,
        frame_norm="l2",
        mask="none" if config.parity else "sector",
        tokens_are_frames=True,
        frame_start=0,
        frame_stop=40 if own else 0,
        frame_stride=2 if own else 1,
        licence=LICENCE if seed is None else f"RANDOM WEIGHTS (seed {seed}): not a trained teacher; no licence needed",
        libraries=("open_clip", "timm", "torch", "cv2"),
    )


def prepare(spec: TeacherSpec, frames: U8, frame_time_ms: F32) -> PreparedClip:
    """Frames (T, H, W, 3) RGB -> uint8 (U, 3, S, S). Pure: no weights, no randomness, no torch."""
    index = np.arange(len(frames))[spec.frame_start : spec.frame_stop or None : spec.frame_stride]
    images = (crop_zoom if spec.resize == "crop_zoom" else squash)(frames[index], spec.size)
    if spec.colour == "bgr":
        images = images[..., ::-1]
    return PreparedClip(values=np.ascontiguousarray(images.transpose(0, 3, 1, 2)), frame_index=index.astype(np.int64))


def build(config: Config) -> EchoClipTeacher:
    """The teacher on the CPU, its weights loaded and hashed; UserError where they cannot be had or do not fit."""
    seed = _seed(config.weights)
    if seed is not None:
        model = _create(seed)
        return EchoClipTeacher(spec(config), model, hash_state(model))
    if not config.weights:
        raise UserError("echoclip needs its weights: pass --weights with a local file or a hub id such as org/name.")
    from ecgecho.weights import fit, read_weights, sha256

    path = _local(config.weights)
    state = read_weights(path)
    model = _create(0)
    try:
        fit(model, state, str(path))
    except UserError as error:
        raise UserError(f"{error} EchoCLIP's has the image and the text tower together, and is not EchoCLIP-R's.") from error
    return EchoClipTeacher(spec(config), model, sha256(path))


class EchoClipTeacher:
    """Frozen towers in fp32 on one device."""

    def __init__(self, spec: TeacherSpec, model: nn.Module, weights_sha256: str) -> None:
        self.spec = spec
        self.weights_sha256 = weights_sha256
        self._model = model.eval().requires_grad_(False)
        self._device = "cpu"

    def to(self, device: str) -> EchoClipTeacher:
        """The teacher on `device`."""
        self._model.to(device)
        self._device = device
        return self

    def forward(self, values: Tensor) -> TeacherOutput:
        """uint8 (N, 3, S, S) -> pooled (N, D), not normalised. Full fp32 convolutions, the same every time, on a GPU too."""
        import torch

        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.no_grad(), exact:
            pooled: Tensor = self._model.encode_image(normalise(values, self.spec))  # type: ignore[operator]
        return TeacherOutput(pooled=pooled.float(), tokens_are_frames=True)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(n, D) unit vectors; a text beyond CLIP's 77 tokens is cut."""
        import torch

        with torch.no_grad():
            vectors: Tensor = self._model.encode_text(tokenize(texts).to(self._device), normalize=True)  # type: ignore[operator]
            return vectors.float()


def normalise(values: Tensor, spec: TeacherSpec) -> Tensor:
    """uint8 (N, 3, S, S) -> (value / 255 - mean) / std by channel, fp32."""
    import torch

    mean, std = (torch.tensor(x, device=values.device).view(3, 1, 1) for x in (spec.mean, spec.std))
    return (values.float() / 255 - mean) / std


def tokenize(texts: Sequence[str]) -> Tensor:
    """CLIP's byte pairs, (n, 77) int64, zeros after the end mark."""
    import open_clip

    tokens: Tensor = open_clip.get_tokenizer(ARCHITECTURE)(list(texts))
    return tokens


def decode_value(similarity: npt.NDArray[np.floating], values: npt.NDArray[np.floating], share: float = RANKS_KEPT) -> F32:
    """A number per video from its likeness to prompts that each state a number. (..., F, P), (P,) -> (...).

    In each frame the prompts are sorted, most alike first; the numbers at equal rank are averaged over the frames; the
    result is the lower median of the first `share` of the ranks. So it averages numbers by rank, never similarities, and
    what carries no information gives the middle of the numbers (about 50 for 0 to 100).

    Source: echo_CLIP utils.py, compute_regression_metric; `values` of EchoCLIP's LVEF are 0 to 100 for each of 2 templates.
    """
    order = np.argsort(-similarity, axis=-1, kind="stable")
    ranked = np.asarray(values, np.float32)[order].mean(axis=-2)
    kept = np.sort(ranked[..., : max(int(share * similarity.shape[-1]), 1)], axis=-1)
    lower: F32 = kept[..., (kept.shape[-1] - 1) // 2]
    return lower


def match_score(similarity: npt.NDArray[np.floating]) -> F32:
    """Likeness of a video to prompts of one finding, the mean over both. (..., F, P) -> (...). Not calibrated."""
    return np.asarray(similarity.mean(axis=(-2, -1)), np.float32)


def _seed(weights: str) -> int | None:
    """The seed of random weights, None for real ones."""
    match = RANDOM.fullmatch(weights)
    return int(match[1]) if match else None


def _create(seed: int) -> nn.Module:
    """The towers as open_clip initialises them from `seed`; the global generator is left as it was."""
    import logging

    import open_clip
    import torch

    logging.disable(logging.WARNING)  # open_clip warns that nothing was loaded, which is what was asked
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: nn.Module = open_clip.create_model(ARCHITECTURE, pretrained=None, precision="fp32", device="cpu")
    finally:
        logging.disable(logging.NOTSET)
    return model


def _local(weights: str) -> Path:
    """The local file behind `weights`; only a hub id that is not in the local cache uses the network."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"{path} holds none of {', '.join(FILES)}; give the weights' own file.")
        return found
    hub = HUB_ID.fullmatch(weights)
    if path.suffix in SUFFIXES or hub is None:
        raise UserError(f"there are no weights at {weights}; give a local file, a hub id such as org/name, or random:SEED.")
    return _fetch(hub[1], hub[2])


def _fetch(repo: str, revision: str | None) -> Path:
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in FILES:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    advice = (
        f"Download {FILES[2]} (or {FILES[0]}) of {repo} on a machine that can, accept its licence there, "
        "and pass the file's path as --weights."
    )
    try:
        get_session().head(hf_hub_url(repo, FILES[0], revision=revision), timeout=CONNECT_S)  # alone, the hub retries for 24 s
        for name in FILES:
            try:
                return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=CONNECT_S))
            except EntryNotFoundError:
                continue
    except Exception as error:  # the hub's HTTP library, and with it the classes of its errors, changes between versions
        raise UserError(f"the weights {repo} could not be fetched ({type(error).__name__}). {advice}") from error
    raise UserError(f"{repo} holds none of {', '.join(FILES)}. {advice}")
