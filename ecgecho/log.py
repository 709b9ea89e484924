"""What a running job says: one line at start and end, a bar on a terminal or a line a minute elsewhere, numbers in JSONL."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 60.0
SMOOTHING = 0.1  # tqdm's rate: recent enough to follow a change, slow enough not to jump

logger = logging.getLogger("ecgecho")


def say(message: str) -> None:
    """One line for the user."""
    logger.info(message)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8 s`, `12 min`, `3.4 h`, `2.1 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


class Bar:
    """Progress of one job: rate and ETA. A bar on a terminal; else one logged line a minute."""

    def __init__(
        self, label: str, total: int, *, unit: str, start: int = 0, shown: bool = True, say: Callable[[str], None] = say
    ) -> None:
        self.label, self.total, self.unit, self.start, self.done, self.shown = label, total, unit, start, start, shown
        self.say = say
        self.began = self.spoke = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, initial=start, desc=label, unit=f" {unit}", smoothing=SMOOTHING, dynamic_ncols=True, leave=False)
            if terminal
            else None
        )

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self.shown and time.monotonic() - self.spoke >= LINE_SECONDS:
            self.spoke = time.monotonic()
            rate = (self.done - self.start) / max(self.spoke - self.began, 1e-9)
            left = duration((self.total - self.done) / rate) if rate > 0 else "unknown"
            note = f", {note}" if note else ""
            self.say(f"{self.label}: {self.done} of {self.total} {self.unit}, {rate:.3g} {self.unit}/s, {left} left{note}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Metrics:
    """Numbers of a run, one JSON object a line. On resume, lines past the checkpoint's step are dropped."""

    def __init__(self, path: Path, *, step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            partial = path.with_name(path.name + ".partial")
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        line = {"kind": kind, "step": step} | {
            k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in values.items()
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf  # the last line of a killed process may be torn
