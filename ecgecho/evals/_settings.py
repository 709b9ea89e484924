"""What every evaluation asks of its settings before anything is embedded."""

from __future__ import annotations

from collections.abc import Sequence

from ecgecho.types import UsageError


def check_counts(name: str, given: int | Sequence[int]) -> None:
    """Refuse a number below 1, and a list of none."""
    numbers = [given] if isinstance(given, int) else given
    if not numbers:
        raise UsageError(f"{name} is empty; give one number or more, as {name}=[1,10].")
    for number in numbers:
        if number < 1:
            raise UsageError(f"{name} is {number}; it must be 1 or more.")
