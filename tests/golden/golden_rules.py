"""How the golden numbers were made: input series, parameter fills and the tolerance (README of the golden topics)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
TOLERANCE = 1e-5
PERIOD = 1000003  # of fill B, in elements


def case(topic: str, name: str) -> dict[str, np.ndarray]:
    """The arrays of one case; a missing file is an error, never a skip."""
    with np.load(HERE / topic / f"case_{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def keys(topic: str) -> dict:
    return json.loads((HERE / topic / "keys.json").read_text(encoding="utf-8"))


def series(shape: tuple[int, ...], offset: float = 0, scale: float = 1.0, dtype: type = np.float32) -> np.ndarray:
    i = np.arange(np.prod(shape), dtype=np.float64) + offset
    return (scale * (np.sin(0.011 * i) + 0.5 * np.sin(0.137 * i + 1))).reshape(shape).astype(dtype)


def fill_values(name: str, shape: tuple[int, ...], fill: str) -> np.ndarray:
    """float64 values of fill "A" or "B" for a tensor."""
    n = int(np.prod(shape))
    phase = (zlib.crc32(name.encode()) % 1000) / 1000 * 2 * np.pi
    k = np.arange(n if fill == "A" else min(n, PERIOD), dtype=np.int64)
    if fill == "A":
        return (0.05 * np.sin(0.37 * k + phase)).reshape(shape)
    amplitude = 1 / np.sqrt(n / shape[0]) if len(shape) >= 2 else 0.05
    r = (k * k * 7919 + k * 104729) % PERIOD
    return np.resize(amplitude * np.sin(2 * np.pi * r / PERIOD + phase), shape)


def filled_state(rules: dict, fill: str) -> dict[str, Tensor]:
    """A state_dict by the rules of keys.json ({name: {shape, dtype, rule}}); tensors that are not filled are left out."""
    state = {}
    for name, entry in rules.items():
        if entry["rule"] not in ("v", "1+v", "1+v^2"):
            continue
        v = fill_values(name, tuple(entry["shape"]), fill)
        v = {"v": v, "1+v": 1 + v, "1+v^2": 1 + v * v}[entry["rule"]] if entry["rule"] != "v" else v
        state[name] = torch.from_numpy(np.asarray(v, dtype=np.float32))
    return state


def load_filled(module: nn.Module, rules: dict, fill: str, rename=lambda name: name) -> None:
    """Fill a module whose keys are `rename` of the reference's; both must have the same keys and shapes."""
    state = {rename(name): value for name, value in filled_state(rules, fill).items()}
    expected = module.state_dict()
    assert {rename(n): tuple(e["shape"]) for n, e in rules.items()} == {n: tuple(v.shape) for n, v in expected.items()}
    kept = {name: value for name, value in expected.items() if name not in state}
    module.load_state_dict({**state, **kept})


def assert_matches(golden: dict[str, np.ndarray], name: str, value: np.ndarray | Tensor, tolerance: float = TOLERANCE) -> None:
    """max|a - ref| <= tolerance * max|ref|, for a plain or a packed array."""
    value = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if name in golden:
        _close(value, golden[name], name, tolerance)
        return
    flat = value.reshape(-1)
    sample = golden[f"{name}__sample"]
    index = np.arange(len(sample)) * (flat.size - 1) // (len(sample) - 1)
    assert tuple(golden[f"{name}__shape"]) == value.shape, name
    _close(flat[: len(golden[f"{name}__first64"])], golden[f"{name}__first64"], name, tolerance, np.abs(sample).max())
    _close(flat[index], sample, name, tolerance)
    _close(np.linalg.norm(flat.astype(np.float64)), golden[f"{name}__l2"], f"{name} l2", tolerance)


def _close(value: np.ndarray, reference: np.ndarray, name: str, tolerance: float, largest: float = 0.0) -> None:
    assert value.shape == reference.shape, f"{name}: {value.shape} is not {reference.shape}"
    difference = np.abs(value.astype(np.float64) - reference.astype(np.float64)).max(initial=0.0)
    limit = tolerance * max(np.abs(reference.astype(np.float64)).max(initial=0.0), largest)
    assert difference <= limit, f"{name}: off by {difference:.3e}, allowed {limit:.3e}"
