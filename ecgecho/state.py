"""Checkpoints: safetensors and JSON, whole or not at all.

`checkpoint/state.json` is written last, names the other two files with their SHA-256, and is what makes a checkpoint exist.
Files it does not name are leftovers of a killed writer and are removed by the next save. Random numbers need no state: every
one of them is drawn from (seed, step), see `step_seed`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ecgecho.types import Json, UserError

FORMAT = 1
SLOW_STEP_SECONDS = 3.0  # Ctrl-C ends within 5 s; a step longer than this is abandoned, not awaited


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """All that a step depends on. Random numbers need no more than `step`."""

    step: int = 0
    """Steps that are done."""
    model: nn.Module
    optimizer: torch.optim.Optimizer
    seconds: float = 0.0
    """Spent on them, over all calls."""
    sampler: Json = field(default_factory=dict)
    """Which rows come next: seed, epoch, step, global batch, hash of the stores."""


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed of (seed, step, purpose)."""
    return int.from_bytes(hashlib.sha256(f"{purpose}:{seed}:{step}".encode()).digest()[:8], "little") >> 1


def save(folder: Path, state: TrainState, identity: str) -> None:
    """Write a checkpoint; a kill at any moment leaves the former or this one."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, tensors in (("model", weights(state.model)), ("optimizer", _moments(state.model, state.optimizer))):
        data = safetensors.torch.save(tensors)
        name = f"{kind}-{state.step:09d}.safetensors"
        write_atomic(folder / name, data)
        files[kind] = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
    head = {"format": FORMAT, "step": state.step, "seconds": state.seconds, "sampler": state.sampler}
    head |= {"identity": identity, "files": files}
    write_json(folder / "state.json", head)
    for path in folder.iterdir():
        if path.name != "state.json" and path.name not in {f["name"] for f in files.values()}:
            path.unlink()


def restore(folder: Path, state: TrainState, identity: str, sampler_at: Callable[[int], Json] = lambda step: {}) -> TrainState:
    """`state` as the checkpoint in `folder` left it, or unchanged where there is none.

    `sampler_at` gives the sampler's state after a step, as it is here: one that would meet other rows is refused.
    """
    if not (folder / "state.json").exists():
        return state
    head = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    former, here = head.get("sampler", {}), sampler_at(head["step"])
    differs = [
        f"{name} was {former[name]!r} and is {here[name]!r}" for name in here if former.get(name, here[name]) != here[name]
    ]
    if differs:
        raise UserError(f"{folder} cannot go on here: {'; '.join(differs)}. Run it as before, or choose another --out.")
    if head["format"] != FORMAT or head["identity"] != identity:
        raise UserError(f"{folder} is a checkpoint of another run or format; choose another --out, or remove it to train anew.")
    loaded = {}
    for kind, file in head["files"].items():
        path = folder / file["name"]
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            raise UserError(f"{path} is damaged or missing; remove {folder} to train anew.")
        loaded[kind] = safetensors.torch.load(data)
    state.model.load_state_dict(loaded["model"], strict=True)
    _restore_moments(state.model, state.optimizer, loaded["optimizer"])
    return TrainState(step=head["step"], model=state.model, optimizer=state.optimizer, seconds=head["seconds"], sampler=former)


def remove(folder: Path) -> None:
    """A checkpoint that is not needed any more; the head first, so that no half of one is left."""
    (folder / "state.json").unlink(missing_ok=True)
    for path in folder.iterdir() if folder.is_dir() else ():
        path.unlink()
    if folder.is_dir():
        folder.rmdir()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors on the host, none sharing memory with another."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Safetensors, whole or not at all."""
    write_atomic(path, safetensors.torch.save(dict(tensors)))


def write_json(path: Path, value: Json) -> None:
    """JSON, whole or not at all."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_atomic(path: Path, data: bytes) -> None:
    """Bytes under a partial name, flushed to disk, then renamed; the folder is flushed too."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written: {error.strerror}. Make room or mend the permission, then run the same command."
        ) from error
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Interrupt:
    """Ctrl-C between two steps: `requested` turns True and the loop saves. A second, or one in a slow step, raises at once.

    `together`: one of several processes that torchrun started. None raises, because the others would wait for it for ever;
    and torchrun's own way to end them, SIGTERM, is asked for in the same way.
    """

    def __init__(self, step_seconds: float, *, together: bool = False) -> None:
        self.requested = False
        self.step_seconds = step_seconds
        self.together = together
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM) if self.together else (signal.SIGINT,):
                self._former[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.together and (self.requested or self.step_seconds > SLOW_STEP_SECONDS):
            raise KeyboardInterrupt
        self.requested = True


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors under the parameters' names: `exp_avg/encoder.stem.weight`."""
    return {
        f"{key}/{name}": value.detach().to("cpu", copy=True).contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_moments(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        found = {key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors}
        if found:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}
