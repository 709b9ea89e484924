"""How teachers built from torchvision come by their weights: a user's file, strictly, or random ones for tests and dry runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgecho.types import UserError

if TYPE_CHECKING:
    from torch import nn

RANDOM = re.compile(r"random:(\d{1,9})(?::([1-9]\d?))?")
WEIGHT_STD = 0.02
"""Of random matrices; biases are 0 and scales 1."""


def random_of(weights: str) -> tuple[int, int] | None:
    """The seed of "random:SEED" or "random:SEED:BLOCKS" and its blocks (0: all of them); None for real weights."""
    match = RANDOM.fullmatch(weights)
    return (int(match[1]), int(match[2] or 0)) if match else None


def licence_of(weights: str, licence: str) -> str:
    """The licence of a teacher's rows."""
    if (chosen := random_of(weights)) is None:
        return licence
    seed, blocks = chosen
    part = f", its first {blocks} blocks alone" if blocks else ""
    return f"RANDOM WEIGHTS (seed {seed}{part}): not a trained teacher; no licence needed"


def file_of(weights: str, teacher: str, option: str, what: str) -> Path:
    """The file that an option names; UserError where it is empty or there is none."""
    if not weights:
        raise UserError(f"{teacher} needs its weights: give {what} with {option}.")
    path = Path(weights).expanduser()
    if weights.startswith("random:"):
        raise UserError(
            f"{option} is {weights!r}; untrained weights are written random:SEED or random:SEED:BLOCKS, as random:0:2."
        )
    if path.is_dir():
        raise UserError(f"{option} {weights} is a folder; give the file: {what}.")
    if not path.is_file():
        raise UserError(f"there is no file {weights}; give {what} with {option}.")
    return path


def empty(create: Callable[[], nn.Module]) -> nn.Module:
    """A network on the CPU whose values are not made yet: making them takes longer than reading them."""
    import torch

    with torch.device("meta"):
        network = create()
    return network.to_empty(device="cpu")


def fill_random(network: nn.Module, seed: int) -> nn.Module:
    """Values from `seed` alone; the global generator is left as it was."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(network.named_parameters()):
            if value.ndim > 1 and "norm" not in name:
                value.normal_(0, WEIGHT_STD, generator=generator)
            else:
                value.fill_(0.0 if name.endswith("bias") else 1.0)
    return network


def shorten(convnext: Any, blocks: int) -> None:
    """Keeps at most `blocks` blocks of each of the four stages of a ConvNeXt of torchvision; 0 keeps all."""
    for stage in (1, 3, 5, 7) if blocks else ():
        convnext.features[stage] = convnext.features[stage][:blocks]


def hash_state(network: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.contiguous().numpy().data)
    return digest.hexdigest()
