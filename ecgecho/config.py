"""Configurations are frozen dataclasses; this file reads them from `key=value` words and from JSON, and writes them back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from ecgecho import plugins
from ecgecho.plugins import near_miss
from ecgecho.types import MethodSizes, UsageError

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What a batch is made of."""

    batch_size: int = 128
    ratio: float = 0.125
    """Share of every batch that are echo pairs; they cycle in an order of their own while the ECGs are passed once an epoch."""
    batches: Literal["joint", "single"] = "joint"
    """"single" is the reference's sampler: a batch is all text or all echo, the kind drawn uniformly while both last."""
    views: str = "draw"
    """A study with several cines: "draw" (one a pass), "merge" (all, exactly, as one), "all" (each by itself, for methods that
    pool views), or the name of a view in the catalog."""
    max_views: int = field(default=128, metadata={"omit_default": True})
    """Of a study that shows "all": beyond it as many are drawn each pass (the first, where nothing is drawn)."""
    crop_samples: int = field(default=0, metadata={"omit_default": True})
    """Above 0, a training step sees a random stretch of so many samples of each ECG."""
    window_days: float = 30.0
    """An echo study or a measurement further than this from the ECG is not used."""
    tasks: tuple[str, ...] = ()
    """Labels the batches carry, by task name; only methods that learn from labels read them."""
    text: str = "words"
    """"words" makes a vocabulary of the training texts; else the folder of a local Hugging Face BERT."""
    text_template: str = "{text}"
    """What a tokeniser is given; the text itself is lower-cased."""
    max_tokens: int = 244
    augment: Literal["none", "light", "otis", "echo2ecg"] = "light"
    """"light" is ours, "otis" the published Fourier surrogate, jitter and rescaling; "echo2ecg" flips time and sign besides."""
    place: Literal["auto", "device", "pinned", "mapped", "blocks"] = "auto"
    """Where the stores' large columns are read from, "auto" by size (docs/reading.md); a run goes on from any."""

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise UsageError(f"data.batch_size is {self.batch_size}; a contrast needs at least 2.")
        if not 0 <= self.ratio < 1:
            raise UsageError(f"data.ratio is {self.ratio}; it must be in [0, 1).")
        if self.text_template.count("{text}") != 1:
            raise UsageError(f"data.text_template is {self.text_template!r}; it must hold {{text}} once.")
        if self.max_views < 1 or self.crop_samples < 0:
            raise UsageError("data.max_views must be 1 or more, data.crop_samples 0 or more.")
        if not self.window_days >= 1:
            raise UsageError(f"data.window_days is {self.window_days}; it must be 1 or more: clocks of carts are off by hours.")
        if self.max_tokens < 3:
            raise UsageError(f"data.max_tokens is {self.max_tokens}; it must be at least 3.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimOptions:
    """AdamW with a linear warm-up and a cosine, both per step."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_share: float = 0.03
    """Of all steps."""
    warmup_start: float = field(default=1e-3, metadata={"omit_default": True})
    """Share of the rate that the warm-up starts from."""
    final_share: float = field(default=0.0, metadata={"omit_default": True})
    """Share of the rate that the cosine ends at."""
    layer_decay: float = field(default=1.0, metadata={"omit_default": True})
    """Below 1, layer l of L of the encoder learns at rate * layer_decay ** (L - 1 - l); for encoders that have `layer_of`."""
    epochs: float = 10.0
    """0 makes no step: a run out of the weights of `--init`."""
    steps: int = 0
    """Above 0, this many steps whatever `epochs` says."""
    clip_norm: float = 1.0
    """Of the gradient; 0 clips nothing."""
    checkpoint_minutes: float = 2.0
    """0 saves after every step."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.learning_rate, self.weight_decay, self.clip_norm, self.epochs))):
            raise UsageError("optim.learning_rate, weight_decay, clip_norm and epochs must be finite numbers.")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.clip_norm < 0:
            raise UsageError("optim.learning_rate must be above 0, optim.weight_decay and optim.clip_norm not below.")
        if not (0 < self.layer_decay <= 1 and 0 <= self.warmup_start <= 1 and 0 <= self.final_share <= 1):
            raise UsageError("optim.layer_decay must be in (0, 1], optim.warmup_start and optim.final_share in [0, 1].")
        if self.steps < 0 or self.epochs < 0:
            raise UsageError("optim.epochs and optim.steps must not be below 0.")
        if not 0 <= self.warmup_share < 1:
            raise UsageError(f"optim.warmup_share is {self.warmup_share}; it must be in [0, 1).")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A full configuration of a training run; every method module offers `recipe("paper")` and `recipe("small")`."""

    method_name: str
    method: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the method's `Config`; what is left out keeps its default."""
    encoder_name: str
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the encoder's `Config`."""
    data: DataOptions = field(default_factory=DataOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """"auto" is bf16 autocast on a GPU and fp32 on a CPU."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"seed is {self.seed}; it must be 0 or more, and below 2**63.")


def to_json(config: Any, *, whole: bool = False) -> Any:
    """A (nested) dataclass as plain JSON values.

    A field with the metadata "omit_default" is left out where it has its default, unless `whole`: it is younger than digests
    that must hold.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        given = {f: getattr(config, f.name) for f in dataclasses.fields(config)}
        kept = [f for f, v in given.items() if whole or not (f.metadata.get("omit_default") and v == f.default)]
        return {f.name: to_json(given[f], whole=whole) for f in kept}
    if isinstance(config, Mapping):
        return {str(k): to_json(v, whole=whole) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_json(v, whole=whole) for v in config]
    return config


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON of a configuration."""
    text = json.dumps(to_json(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(cls: type[C], value: Mapping[str, Any], where: str = "") -> C:
    """A dataclass from JSON values; an unknown key or a wrong type is a UsageError that names it."""
    hints = typing.get_type_hints(cls)
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise UsageError(f"{where or cls.__name__} has no setting {key!r}.{near_miss(key, fields)}")
    return cls(**{key: _coerce(hints[key], item, f"{where}{'.' if where else ''}{key}") for key, item in value.items()})


def override(config: C, assignments: Sequence[str]) -> C:
    """`config` with `key=value` words applied; dots reach into nested configurations: `optim.learning_rate=1e-3`."""
    value = to_json(config, whole=True)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise UsageError(f"{assignment!r} is not key=value.")
        try:
            item = json.loads(text)
        except json.JSONDecodeError:
            item = text
        target = value
        *path, last = key.strip().split(".")
        for name in path:
            if not isinstance(target, dict) or not isinstance(target.get(name), dict):
                raise UsageError(f"there is no group of settings {name!r} in {key!r}.{near_miss(name, list(value))}")
            target = target[name]
        if last not in target:
            raise UsageError(f"there is no setting {key!r}.{near_miss(last, list(target))}")
        target[last] = item
    return from_json(type(config), value)


def read_json(path: Path) -> Any:
    """A JSON file; a file that is no JSON is a UsageError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}.") from error


def build_model(recipe: Recipe, sizes: MethodSizes) -> Any:
    """The method around its encoder, an `nn.Module` initialised from the recipe's seed."""
    import torch

    torch.manual_seed(recipe.seed)
    encoders, methods = plugins.load("encoders", recipe.encoder_name), plugins.load("methods", recipe.method_name)
    encoder = encoders.build(from_json(encoders.Config, recipe.encoder, "encoder"))
    return methods.build(from_json(methods.Config, recipe.method, "method"), encoder, sizes)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r}; it must be a group of settings.")
        return from_json(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise UsageError(f"{where} is {value!r}.{near_miss(str(value), [str(a) for a in arguments])}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_coerce(arguments[0], v, where) for v in value)
        if len(arguments) != len(value):
            raise UsageError(f"{where} has {len(value)} values; it must have {len(arguments)}.")
        return tuple(_coerce(a, v, where) for a, v in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)):
        raise UsageError(f"{where} is {value!r}; it must be {hint.__name__}.")
    return value
