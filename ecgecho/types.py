"""The central types. Frozen, slotted, keyword-only; invariants are checked where a value is made.

Shape letters: B batch, V views of an ECG, T frames or tokens, N clips, M entries of a modality, C leads,
D embedding, L samples, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, nn

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]

STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

ClipKind = Literal["b_mode", "colour", "spectral", "m_mode", "still"]


class UserError(ValueError):
    """Something the user can mend. The message says what, where, and what to do; the command exits 1."""

    exit_status = 1


class UsageError(UserError):
    """Wrong usage: an unknown name, option or value. The command exits 2."""

    exit_status = 2


class ItemError(ValueError):
    """One input that could not be used. Becomes a row with `code`, never a crash of the job.

    `outcome` is "excluded" when a stated rule does not want the item, else "failed"; `permanent` is True when the
    reason follows from the bytes (a rerun cannot help until the file changes).
    """

    def __init__(
        self, code: str, message: str, *, outcome: Literal["excluded", "failed"] = "failed", permanent: bool = True
    ) -> None:
        super().__init__(message)
        self.code = code
        self.outcome = outcome
        self.permanent = permanent


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgRecord:
    """One recording: any leads (12, Frank, Holter), any length; finite where valid."""

    signal: F32
    """(C, L), in `unit`; NaN only on leads with lead_valid False."""
    leads: tuple[str, ...]
    lead_valid: Bool
    """(C,), False for a lead that holds a NaN."""
    unit: Literal["mv", "zscore"]
    fs_hz: float
    defects: tuple[str, ...] = ()
    """Codes of what the reader had to mend or could not check, e.g. "header_line_fused"."""

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or self.signal.shape[0] != len(self.leads) or self.signal.shape[1] < 1:
            raise ValueError(f"signal {self.signal.shape} does not fit {len(self.leads)} leads; it must be (leads, samples)")
        if self.signal.dtype != np.float32 or self.lead_valid.shape != (len(self.leads),):
            raise ValueError("signal must be float32 and lead_valid one flag a lead")
        if len(set(self.leads)) != len(self.leads):
            raise ValueError(f"a lead is named twice in {self.leads}")
        if not self.fs_hz > 0:
            raise ValueError(f"fs_hz is {self.fs_hz}; it must be positive")
        if not np.isfinite(self.signal[self.lead_valid]).all():
            raise ValueError("a lead marked valid holds a value that is not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgSource:
    """Which recording of a file is meant, and what its dataset says of it where the file is silent."""

    row: int | None = None
    """Of an array that holds many recordings."""
    start_s: float = 0.0
    duration_s: float | None = None
    """An excerpt; None is all from `start_s` on."""
    leads: tuple[str, ...] = ()
    fs_hz: float | None = None
    unit: Literal["mv", "uv", "zscore"] | None = None

    def __post_init__(self) -> None:
        if self.row is not None and self.row < 0:
            raise ValueError(f"row is {self.row}; rows count from 0")
        if not 0 <= self.start_s < float("inf") or (self.duration_s is not None and not 0 < self.duration_s < float("inf")):
            raise ValueError(f"an excerpt from {self.start_s} s of {self.duration_s} s cannot be")
        if self.fs_hz is not None and not 0 < self.fs_hz < float("inf"):
            raise ValueError(f"fs_hz is {self.fs_hz}; it must be positive")
        if self.unit not in (None, "mv", "uv", "zscore"):
            raise ValueError(f"unit is {self.unit!r}; it must be mv, uv or zscore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One ultrasound region (0018,6011): an inclusive pixel box and what it shows."""

    x0: int
    y0: int
    x1: int
    y1: int
    spatial_format: int
    """1 2-D, 2 M-mode, 3 spectral, 4 waveform, 5 graphics."""
    data_type: int
    """1 tissue, 2 colour flow, 3 PW, 4 CW, 10 ECG trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoClip:
    """One decoded cine, RGB once and only once. Carries no subject and no sector."""

    frames: U8
    """(T, H, W, 3), T >= 1."""
    frame_time_ms: F32
    """(T,), milliseconds since the first frame."""
    regions: tuple[Region, ...]
    kind: ClipKind
    cm_per_px: float | None
    defects: tuple[str, ...] = ()
    """Codes of what the reader had to mend, e.g. "colour_tag_wrong"."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8 or len(self.frames) < 1:
            raise ValueError(f"frames must be uint8 (T, H, W, 3) with T >= 1, not {self.frames.dtype} {self.frames.shape}")
        if self.frame_time_ms.shape != (len(self.frames),):
            raise ValueError(f"{self.frame_time_ms.shape[0]} frame times for {len(self.frames)} frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class EcgContract:
    """What an encoder wants to be fed, before anything fitted. Its hash keys an ECG store."""

    name: str
    fs_hz: float
    num_samples: int
    leads: tuple[str, ...] = STANDARD_LEADS
    band_hz: tuple[float, float] | None = None
    """Butterworth order 4, forward and backward, before resampling; None filters nothing."""
    short: Literal["refuse", "zero_pad"] = "zero_pad"
    """A recording shorter than the window: refused, or padded with zeros at its end."""
    unit: Literal["mv", "zscore"] = field(default="mv", metadata={"omit_default": True})
    """mv refuses recordings whose millivolts nobody knows. zscore takes them: every lead of every recording is brought to mean
    0 and standard deviation 1 over its window, last of all, which forgets how high its voltages were."""
    chain: Literal["", "otis"] = field(default="", metadata={"omit_default": True})
    """"otis": clipped, freed of its baseline and brought to mean 0 and standard deviation 1 by groups of leads over the whole
    recording (`ecg/baseline.py`), so that `train` fits no z-scores on top."""
    least_samples: int = field(default=0, metadata={"omit_default": True})
    """A recording shorter than this is refused (excluded, "too_short") even where `short` is "zero_pad"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """All that decides a teacher's rows besides its weights. Hashed into the identity of a store."""

    name: str
    dim: int
    size: int
    """Pixels of the square input."""
    unit: Literal["frame", "clip"]
    """What one forward row is: a frame (values (U, 3, S, S)) or a sampled clip (values (U, 3, T, S, S))."""
    resize: str
    interpolation: str
    colour: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation of values in [0, 1], applied on the device."""
    frame_norm: Literal["l2", "none"]
    """Applied to the frame vectors before their moments."""
    mask: Literal["none", "sector", "echoprime"]
    """"sector" is ours; "echoprime" is the reference's, for parity."""
    tokens_are_frames: bool
    frame_start: int = 0
    frame_stop: int = 0
    """0 means all frames."""
    frame_stride: int = 1
    licence: str = ""
    libraries: tuple[str, ...] = ()
    clip_frames: int = field(default=0, metadata={"omit_default": True})
    """T of unit "clip"."""
    clips: int = field(default=1, metadata={"omit_default": True})
    """Clips taken from a cine, at even distances; 1 is the first."""
    short: Literal["", "zero_pre", "zero_post", "repeat_last"] = field(default="", metadata={"omit_default": True})
    """A cine with too few frames for a clip: zeros before or after normalisation, or its last frame again."""
    view_names: tuple[str, ...] = field(default=(), metadata={"omit_default": True})
    """Views that the teacher tells apart; then `TeacherOutput.aux["view"]` (N, K) are their probabilities, and a store has the
    column `view` (K,), the mean over the cine's clips."""
    view_licence: str = field(default="", metadata={"omit_default": True})
    """Of the column `view`, where a network of its own makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedClip:
    """What `prepare` makes of one clip, ready for the device; pixels stay uint8 until there."""

    values: U8
    """(U, 3, S, S) for unit "frame", (U, 3, T, S, S) for unit "clip"."""
    frame_index: I64
    """(U,) or (U, T): which source frames were used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOutput:
    """One forward batch of a teacher; for unit "frame", N counts frames and `tokens` is None."""

    pooled: Tensor
    """(N, P) fp32, not normalised."""
    tokens: Tensor | None = None
    """(N, T, D)."""
    valid: Tensor | None = None
    """(N, T)."""
    time_s: Tensor | None = None
    tokens_are_frames: bool = False
    aux: Mapping[str, Tensor] = field(default_factory=dict)


class Teacher(Protocol):
    """A frozen teacher on a device. Its module also has a pure `prepare(spec, frames, frame_time_ms) -> PreparedClip`."""

    spec: TeacherSpec
    weights_sha256: str

    def forward(self, values: Tensor) -> TeacherOutput:
        """Units as uint8 (N, 3, ...) on the teacher's device -> their vectors. Deterministic, no grad, eval mode."""

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """(n, D) unit vectors of prompts; raises UserError where the teacher has no text tower."""

    def to(self, device: str) -> Teacher:
        """The teacher on `device`."""

    # Where a network of its own tells views apart: `views_sha256: str`, the hash of that network's weights, which makes no moment
    # and is therefore no part of `weights_sha256`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Gaussians or points: mean (B, D) and log-variance (B, D) or None."""

    mean: Tensor
    logvar: Tensor | None = None

    def rows(self, index: Tensor) -> Embedding:
        """The entries `index` (M,) of the batch."""
        return Embedding(mean=self.mean[index], logvar=None if self.logvar is None else self.logvar[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One modality of a batch: entry m belongs to ECG `row[m]` (rows unique, M <= B)."""

    values: Tensor
    """Echo moments (M, 2, D) (slot 0 mean, slot 1 standard deviation), or token ids (M, T) int64, or, when ragged, the moments
    (V, 2, D) of all views of all entries."""
    row: Tensor
    """(M,) int64."""
    start: Tensor | None = None
    """(M + 1,) when ragged: entry m owns values[start[m]:start[m+1]]."""
    valid: Tensor | None = None
    """(M, T) for token ids: True = real token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch carries what exists; an absent modality is None."""

    ecg: Tensor
    """(V, B, C, L), normalised as the run says."""
    ecg_lead_valid: Tensor
    """(B, C)."""
    subject: Tensor
    """(B,) int64, equal for equal subjects."""
    study: Tensor
    """(B,) int64, -1 where there is none."""
    text_key: Tensor
    """(B,) int64, equal for equal texts; -1 where there is none."""
    echo: Block | None = None
    text: Block | None = None
    labels: Tensor | None = None
    """(B, K)."""
    labels_valid: Tensor | None = None
    """(B, K)."""

    def same(
        self,
        *keys: Literal["subject", "study", "text_key"],
        rows: Tensor,
        gather: Callable[[Tensor], Tensor] = lambda local: local,
    ) -> Tensor:
        """(M, M) bool: True where entries share any of `keys`; -1 never matches. The diagonal is True.

        `gather` (`dist.gather`) makes of the entries of this process those of all.
        """
        import torch

        result = torch.eye(len(gather(rows)), dtype=torch.bool, device=rows.device)
        for key in keys:
            value = gather(getattr(self, key)[rows])
            result |= (value[:, None] == value[None]) & (value[:, None] >= 0)
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSizes:
    """What a method must know of the data it is built for; 0 = the modality is absent."""

    echo_dim: int = 0
    vocabulary_size: int = 0
    num_labels: int = 0
    text_model: str = ""
    """Folder of the local BERT whose token ids the batch carries; empty where the run has a vocabulary of its own."""
    max_tokens: int = 128
    """Of a text."""
    pretrained: bool = True
    """False where trained weights are loaded right after, so that none need be read."""


class Method(Protocol):
    """A training objective around an encoder; an `nn.Module`. See section 6 of the architecture."""

    needs: frozenset[str]
    """Subset of {"text", "echo", "labels"}; ECGs are always there."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss and their sum under "loss"."""

    def embed_ecg(self, ecg: Tensor, lead_valid: Tensor) -> Embedding:
        """(B, C, L), (B, C) -> the student's embedding."""

    def after_step(self, step: int) -> None:
        """Called once after every optimiser step."""

    # Where it learns from echo: `embed_study(views: Block) -> Embedding` of ragged views (V, 2, D) with `start` (M + 1,), and
    # `takes_views = True` where `forward` takes them too (data.views=all). Where its heads read something else than the mean of
    # the encoder's tokens: `features(ecg) -> (B, W)`, which `embed_ecg` calls.


class Encoder(Protocol):
    """An ECG encoder; an `nn.Module` with `width`. Its module also has `CONTRACT: EcgContract`."""

    width: int

    def forward(self, ecg: Tensor) -> Tensor:
        """(B, C, L) -> tokens (B, T, width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A binary question about a heart, asked of a measurement."""

    name: str
    label: str
    """Name in the catalog's labels table."""
    op: Literal["<", "<=", ">=", ">"]
    threshold: float
    unit: str
    title: str
    """As printed, e.g. "LVEF < 40 %"."""
    below: float = math.inf
    """A second bound: positives are less than this as well."""
    also: tuple[str, ...] = ()
    """Further labels that answer it, where `label` does not."""

    def of(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """1 positive, 0 negative, -1 where the value is NaN."""
        known = np.isfinite(values)
        compare = {"<": np.less, "<=": np.less_equal, ">=": np.greater_equal, ">": np.greater}[self.op]
        asked = np.where(known, values, 0.0)
        return np.where(known, compare(asked, self.threshold) & (asked < self.below), -1).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """A question with more than two answers, made of binary ones: the class of a heart is the first task it is positive in."""

    name: str
    tasks: tuple[str, ...]
    """Names of tasks, one a class, in order."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phenotype:
    """A measurement of the studies, e.g. LVEF in %."""

    name: str
    """Of the catalog's label."""
    title: str
    unit: str
    values: npt.NDArray[np.float64]
    """(S,), NaN where a study has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyInputs:
    """The echo side of an evaluation: every study of the test split, embedded by the run."""

    mean: F32
    """(S, D)."""
    logvar: F32 | None
    """(S, D)."""
    subject: I64
    """(S,), numbered as the ECGs' subjects."""
    of_ecg: I64
    """(N,) the row here of each ECG's nearest study, -1 where it has none."""
    phenotypes: tuple[Phenotype, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRow:
    """One number of an evaluation, with its interval, its counts and what to hold it against; or the reason why there is none."""

    evaluation: str
    task: str
    metric: str
    value: float | None
    low: float | None = None
    """Ends of the 95 % interval; None where there is none, and `reason` says why."""
    high: float | None = None
    share: float | None = None
    """Share of the training labels that was used; None where none was."""
    subset: str = "all"
    """"all", "low" or "high" (halves by uncertainty), or "low - high"."""
    n: int = 0
    subjects: int = 0
    positives: int | None = None
    """None where the metric has no classes."""
    chance: float | None = None
    """What guessing scores."""
    floor: float | None = None
    """What the randomly initialised encoder scores on the same rows with the same labels."""
    gain: float | None = None
    """`value - floor`, with the interval of the paired difference."""
    gain_low: float | None = None
    gain_high: float | None = None
    draws: int | None = None
    """How often a share of the labels was drawn; `value` is the mean over draws, these are its least and its greatest."""
    draws_low: float | None = None
    draws_high: float | None = None
    reason: str = ""
    unit: Literal["ecg", "study"] = "ecg"
    """What `n` and `rows` count."""
    rows: I64 | None = None
    """(n,) the rows of the inputs (ECGs, or studies) that were judged."""
    scores: npt.NDArray[np.float64] | None = None
    """(draws, n), or (draws * classes, n), what was judged, so that two runs can be compared row by row; not printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalInputs:
    """What an evaluation may use: frozen embeddings of N ECGs and what is known of them. All rows, all splits."""

    mean: F32
    """(N, D)."""
    logvar: F32 | None
    """(N, D)."""
    subject: I64
    """(N,), equal for equal subjects; the numbers do not depend on the order of the rows."""
    split: npt.NDArray[np.str_]
    """(N,) "train", "val", "test" or "none"."""
    tasks: tuple[Task, ...]
    labels: Mapping[str, I64]
    """Task name -> (N,) 1, 0, or -1 where it is not known."""
    text_key: I64
    """(N,) row of `text_mean` that holds this ECG's report; equal for equal reports, -1 where there is none."""
    text_mean: F32 | None = None
    """(K, D)."""
    text_logvar: F32 | None = None
    embed_texts: Callable[[Sequence[str]], F32] | None = None
    """Prompts -> (n, D) means."""
    floor_mean: F32 | None = None
    """(N, D) of the same architecture, randomly initialised."""
    features: F32 | None = None
    """(N, W) pooled tokens that the method's heads read; None where no evaluation asked for them (`Config.on = "features"`)."""
    floor_features: F32 | None = None
    predictions: Mapping[str, F32] = field(default_factory=dict)
    """Task name -> (N,) logits of a supervised run."""
    fine_tune: FineTune | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    """Capability ("text", "fine_tune", ...) -> why this run does not have it."""
    studies: StudyInputs | None = None
    """None where the run has no echo side; `absent["echo"]` says why."""
    classes: Mapping[Classes, I64] = field(default_factory=dict)
    """Question -> (N,) number of the class, -1 where it is not known."""
    shares: tuple[float, ...] = (0.1, 1.0)
    seed: int = 0
    bootstraps: int = 1000

    def __post_init__(self) -> None:
        n = len(self.mean)
        if self.mean.ndim != 2 or not np.isfinite(self.mean).all():
            raise ValueError(f"embeddings must be finite (N, D), not {self.mean.shape}")
        sizes = {"subject": self.subject, "split": self.split, "text_key": self.text_key}
        for name, value in {**sizes, **self.labels, **self.predictions}.items():
            if value.shape != (n,):
                raise ValueError(f"{name} has shape {value.shape}; there are {n} ECGs")

    def known(self, task: str, split: str) -> I64:
        """Rows of a split whose label is known."""
        return np.flatnonzero((self.split == split) & (self.labels[task] >= 0))


class FineTune(Protocol):
    """Trains a copy of the encoder and a linear head on rows `train`, keeps the best step on `val`, scores the rows `judge`."""

    def __call__(
        self,
        train: I64,
        y_train: I64,
        val: I64,
        y_val: I64,
        judge: I64,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> npt.NDArray[np.float64]:
        """(len(judge),) logits."""


class Evaluation(Protocol):
    """One question asked of frozen embeddings. Its module has `Config` and `build(config)`.

    `NEEDS_STUDIES = True` in the module asks for `EvalInputs.studies`, `on="features"` in a Config for `EvalInputs.features`.
    """

    def run(self, inputs: EvalInputs) -> list[EvalRow]:
        """Rows of the table; what the run cannot do is a row with a reason."""


if TYPE_CHECKING:
    Module = nn.Module

Json = dict[str, Any]
