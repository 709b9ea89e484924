"""EchoPrime: 16 frames through MViTv2-S, 512 dimensions a clip; with its view classifier, the probabilities of 11 views too.

Built from torchvision; the weights are the user's own files (`echo_prime_encoder.pt` and `view_classifier.pt` of EchoPrime's
release, Cedars-Sinai academic licence). `random:SEED` makes untrained networks, for tests, and says so in the licence.

Padding of short cines stays uint8 until the device: with `zero_post` the clip has one plane more than frames, whose first
value is the number of real frames; on the device the others become 0 after normalisation.

Source: EchoPrime at 45609cd (echo_prime/model.py, utils/utils.py), Echo2ECG at 64c9610 (echo/data_processing; padding
"zero_pre"). N clips, T frames, S pixels, K views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ecgecho.echo.echoprime_mask import rgb_to_ybr, ybr_to_bgr
from ecgecho.echo.frames import crop_zoom
from ecgecho.teachers._clips import check_clips, clip_index
from ecgecho.teachers._networks import empty, file_of, fill_random, hash_state, licence_of, random_of, shorten
from ecgecho.types import F32, U8, ItemError, PreparedClip, TeacherOutput, TeacherSpec, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

DIM = 512
SIZE = 224
FRAMES, STRIDE = 16, 2  # of the first 32 frames every second; echo_prime/model.py:75-198
MEAN = (29.110628, 28.076836, 29.096405)  # of grey levels 0 to 255, in the order of the channels, whichever that is
STD = (47.989223, 46.456997, 47.20083)
LEAST_SIDE = 10
"""Of a picture: a tenth of fewer pixels is none."""
VIEWS = (
    "A2C", "A3C", "A4C", "A5C", "Apical_Doppler", "Doppler_Parasternal_Long", "Doppler_Parasternal_Short", "Parasternal_Long",
    "Parasternal_Short", "SSN", "Subcostal",
)  # fmt: skip
"""In the order of the classifier's outputs."""
LICENCE = "EchoPrime weights as supplied by the user: Cedars-Sinai academic licence, non-commercial, not to be passed on"


@dataclass(frozen=True)
class Config:
    """Which weights, and how clips are prepared."""

    weights: str = ""
    """A local file of the video encoder, or random:SEED (untrained); random:SEED:BLOCKS has its first blocks alone."""
    colour: Literal["rgb", "dicom"] = "rgb"
    """rgb: as EchoPrime reads MP4. dicom: as it reads DICOM, blue first and by the gains of analogue television; in grey
    pictures the same but for the order of nearly equal constants."""
    padding: Literal["zero_post", "zero_pre"] = "zero_post"
    """Of cines of 30 frames and fewer. zero_post: zeros after normalisation, mean grey (EchoPrime). zero_pre: black frames,
    about -0.6 after normalisation (Echo2ECG)."""
    clips: int = 1
    """Clips of a cine, at even distances, fewer where it has no room for other ones; 1 is the first, as in the references."""
    view_classifier: str = ""
    """A local file of the view classifier, or random:SEED; empty for none."""
    parity: bool = False
    """Equal to the reference: EchoPrime's own mask with colour "dicom", none with "rgb"."""

    def __post_init__(self) -> None:
        check_clips(self.clips)


def spec(config: Config) -> TeacherSpec:
    """All that decides the rows besides the weights."""
    dicom = config.colour == "dicom"
    return TeacherSpec(
        name="echoprime",
        dim=DIM,
        size=SIZE,
        unit="clip",
        resize="crop_zoom",
        interpolation="bicubic",
        colour="bgr" if dicom else "rgb",
        mean=(MEAN[0] / 255, MEAN[1] / 255, MEAN[2] / 255),
        std=(STD[0] / 255, STD[1] / 255, STD[2] / 255),
        frame_norm="none",
        mask="sector" if not config.parity else "echoprime" if dicom else "none",
        tokens_are_frames=False,
        frame_stride=STRIDE,
        licence=licence_of(config.weights, LICENCE),
        libraries=("torchvision", "torch", "cv2"),
        clip_frames=FRAMES,
        clips=config.clips,
        short=config.padding,
        view_names=VIEWS if config.view_classifier else (),
        view_licence=licence_of(config.view_classifier, LICENCE) if config.view_classifier else "",
    )


def prepare(spec: TeacherSpec, frames: U8, frame_time_ms: F32) -> PreparedClip:
    """Frames (T, H, W, 3) RGB -> uint8 (U, 3, 16, S, S), or (U, 3, 17, S, S) with the count of real frames in the last plane.

    Pure: no weights, no randomness, no torch. ItemError "picture_too_small" below 10 pixels a side.
    """
    del frame_time_ms
    if min(frames.shape[1:3]) < LEAST_SIDE:
        raise ItemError("picture_too_small", f"{frames.shape[2]} x {frames.shape[1]} pixels; {LEAST_SIDE} a side are needed")
    index = clip_index(len(frames), spec)
    counted = spec.short == "zero_post"
    values = np.zeros((len(index), 3, spec.clip_frames + counted, spec.size, spec.size), np.uint8)
    images: dict[int, U8] = {}
    for clip, chosen in zip(values, index.tolist(), strict=True):
        for at, number in enumerate(chosen):
            if number < 0:
                continue
            if number not in images:
                images[number] = _image(frames[number], spec)
            clip[:, at] = images[number]
        if counted:
            clip[0, -1, 0, 0] = sum(number >= 0 for number in chosen)
    return PreparedClip(values=values, frame_index=index)


def build(config: Config) -> EchoPrimeTeacher:
    """The teacher on the CPU, its weights loaded and hashed; UserError where they are missing or do not fit."""
    chosen = random_of(config.weights)
    if chosen is not None:
        seed, blocks = chosen
        network = fill_random(empty(lambda: video_network(blocks)), seed)
        digest = hash_state(network)
    else:
        path = file_of(config.weights, "echoprime", "--weights", "EchoPrime's echo_prime_encoder.pt")
        network, digest = _load(empty(video_network), path)
    classifier: nn.Module | None = None
    of_views = ""
    if config.view_classifier:
        if (chosen := random_of(config.view_classifier)) is not None:
            seed, blocks = chosen
            classifier = fill_random(empty(lambda: view_network(blocks)), seed)
            of_views = hash_state(classifier)
        else:
            path = file_of(config.view_classifier, "echoprime", "--set view_classifier=", "EchoPrime's view_classifier.pt")
            classifier, of_views = _load(empty(view_network), path)
    return EchoPrimeTeacher(spec(config), network, classifier, digest, of_views)


class EchoPrimeTeacher:
    """Frozen networks in fp32 on one device."""

    def __init__(
        self, spec: TeacherSpec, network: nn.Module, classifier: nn.Module | None, weights_sha256: str, views_sha256: str
    ) -> None:
        self.spec = spec
        self.weights_sha256 = weights_sha256
        """Of the video encoder alone, which makes the moments."""
        self.views_sha256 = views_sha256
        """Of the view classifier; empty without one."""
        self._network = network.eval().requires_grad_(False)  # else half of the features are dropped
        self._classifier = None if classifier is None else classifier.eval().requires_grad_(False)

    def to(self, device: str) -> EchoPrimeTeacher:
        """The teacher on `device`."""
        self._network.to(device)
        if self._classifier is not None:
            self._classifier.to(device)
        return self

    def forward(self, values: Tensor) -> TeacherOutput:
        """uint8 (N, 3, 16 or 17, S, S) -> pooled (N, 512), not normalised; aux["view"] (N, 11) of each clip's first frame."""
        import torch

        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.no_grad(), exact:
            clips = normalise(values, self.spec)
            pooled: Tensor = self._network(clips)
            aux = {}
            if self._classifier is not None:
                aux["view"] = self._classifier(clips[:, :, 0]).float().softmax(-1)
        return TeacherOutput(pooled=pooled.float(), aux=aux)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """EchoPrime's text tower is not part of this teacher."""
        raise UserError("the teacher echoprime embeds no texts; choose one that does, such as echoclip.")


def normalise(values: Tensor, spec: TeacherSpec) -> Tensor:
    """uint8 -> (value - mean) / std by channel, fp32 (N, 3, 16, S, S); 0 in frames that are padding after normalisation."""
    import torch

    mean, std = (torch.tensor(x, device=values.device).view(3, 1, 1, 1) for x in (MEAN, STD))
    clips = (values[:, :, : spec.clip_frames].float() - mean) / std
    if spec.short != "zero_post":
        return clips
    count = values[:, 0, spec.clip_frames, 0, 0]
    real = torch.arange(spec.clip_frames, device=values.device) < count[:, None]
    return torch.where(real[:, None, :, None, None], clips, torch.zeros((), device=values.device))


def video_network(blocks: int = 0) -> nn.Module:
    """MViTv2-S with EchoPrime's head, 34,623,872 parameters; `blocks` keeps the first ones alone."""
    from torch import nn
    from torchvision.models.video import mvit_v2_s

    network: Any = mvit_v2_s()
    width = 768
    if 0 < blocks < len(network.blocks):
        width = network.blocks[blocks].norm1.normalized_shape[0]
        network.blocks = network.blocks[:blocks]
        network.norm = nn.LayerNorm(width, eps=network.norm.eps)
    network.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, DIM))
    whole: nn.Module = network
    return whole


def view_network(blocks: int = 0) -> nn.Module:
    """ConvNeXt-base with 11 outputs, 87,577,739 parameters; `blocks` keeps so many of each stage."""
    from torch import nn
    from torchvision.models import convnext_base

    network: Any = convnext_base()
    network.classifier[-1] = nn.Linear(1024, len(VIEWS))
    shorten(network, blocks)
    whole: nn.Module = network
    return whole


def _load(network: nn.Module, path: Path) -> tuple[nn.Module, str]:
    from ecgecho.weights import fit, read_weights, sha256

    fit(network, read_weights(path), str(path))
    return network, sha256(path)


def _image(frame: U8, spec: TeacherSpec) -> U8:
    """One frame -> (3, S, S)."""
    if spec.colour == "bgr":
        frame = ybr_to_bgr(rgb_to_ybr(frame[None]))[0]
    return np.ascontiguousarray(crop_zoom(frame[None], spec.size)[0].transpose(2, 0, 1))
