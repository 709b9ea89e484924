"""Stands in for ecgecho.dist until it is there."""

from torch import Tensor


def gather(x: Tensor) -> Tensor:
    """Itself."""
    return x
