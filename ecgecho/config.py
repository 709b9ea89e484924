"""Configurations are frozen dataclasses; this file reads them from `key=value` words and from JSON, and writes them back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ecgecho.plugins import near_miss
from ecgecho.types import UsageError

C = TypeVar("C")


def to_json(config: Any) -> Any:
    """A (nested) dataclass as plain JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): to_json(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_json(v) for v in config]
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
    value = to_json(config)
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
