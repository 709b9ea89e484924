"""Files looked at once: killable workers look, a file of lines remembers what was seen.

A file that is unchanged (size and time) is not opened again, also after a stop in the middle. What is remembered is what the
caller makes of a look, so a raw identifier is never written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgecho.io.workers import Done, run_bounded
from ecgecho.types import Json

TIMEOUT_S = 60.0
MEMORY_BYTES = 1 << 30
FLUSH_EVERY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file to be looked at, as it lies on disk now."""

    path: str
    """Relative to the root."""
    size: int
    mtime_ns: int
    which: str = ""
    """Tells several looks at one file apart."""

    @property
    def key(self) -> str:
        return f"{self.path}#{self.which}" if self.which else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What came of a scan."""

    seen: dict[str, Json]
    """By key: what was made of the look at it."""
    failed: dict[str, str]
    """By key: the code by which a file was refused for good."""
    retry: dict[str, str]
    """Files that could not be looked at this time, for want of time, memory or the disk: key -> code."""
    missing: int = 0
    """Files that are not there."""
    lines: bytes = b""
    """What later scans need not look at again."""

    def failures(self) -> Counter[str]:
        """How many files there are of each code."""
        return Counter([*self.failed.values(), *self.retry.values()])


def files_at(root: Path, paths: Iterable[str]) -> tuple[list[File], int]:
    """The files that are there, and how many are not."""
    found, missing = [], 0
    for path in paths:
        try:
            stat = os.stat(root / path)
        except (OSError, ValueError):
            missing += 1
            continue
        found.append(File(path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return found, missing


def scan(
    root: Path,
    files: Sequence[File],
    look: Callable[[Any], Json],
    *,
    memory: Sequence[Path],
    task_of: Callable[[File], Any] | None = None,
    remember: Callable[[Json], Json] | None = None,
    workers: int,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[int, int], object] | None = None,
) -> Scan:
    """What `look` made of every file, by way of `remember` where that is given; `look` runs in a worker.

    It is given the file's path, or what `task_of` makes of the file.

    `memory` are files of lines from earlier scans; new lines are added to the last of them.
    """
    known = recall(memory)
    seen: dict[str, Json] = {}
    failed: dict[str, str] = {}
    retry: dict[str, str] = {}
    todo = []
    for file in files:
        line = known.get(file.key)
        if line is None or line["size"] != file.size or line["mtime_ns"] != file.mtime_ns:
            todo.append(file)
        elif line["code"]:
            failed[file.key] = line["code"]
        else:
            seen[file.key] = line["seen"]
    if todo:
        memory[-1].parent.mkdir(parents=True, exist_ok=True)
        with open(memory[-1], "a", encoding="utf-8", opener=_private) as lines:
            lines.write("\n")  # ends the line that a stop cut off
            tasks = (str(root / file.path) if task_of is None else task_of(file) for file in todo)
            results = run_bounded(look, tasks, workers=workers, timeout_s=timeout_s, memory_bytes=MEMORY_BYTES)
            for done, (index, result) in enumerate(results, start=1):
                file = todo[index]
                if isinstance(result, Done):
                    seen[file.key] = result.value if remember is None else remember(result.value)
                    lines.write(_line(file, seen=seen[file.key]))
                elif result.permanent:
                    failed[file.key] = result.code
                    lines.write(_line(file, code=result.code))
                else:  # time, memory or the disk: not remembered, the next scan tries again
                    retry[file.key] = result.code
                if done % FLUSH_EVERY == 0:
                    lines.flush()
                if progress is not None:
                    progress(done, len(todo))
    kept = [file for file in files if file.key not in retry]
    text = "".join(_line(file, seen=seen.get(file.key), code=failed.get(file.key, "")) for file in kept)
    return Scan(seen=seen, failed=failed, retry=retry, lines=text.encode())


def _private(path: str, flags: int) -> int:
    """Names of files and dates are for their owner alone."""
    return os.open(path, flags, 0o600)


def recall(memory: Sequence[Path]) -> dict[str, Json]:
    """The remembered lines by key; a line cut off by a stop is skipped."""
    known: dict[str, Json] = {}
    for path in memory:
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as lines:
            for text in lines:
                try:
                    line = json.loads(text)
                    seen = None if line["seen"] is None else dict(line["seen"])
                    known[line["key"]] = {**{k: line[k] for k in ("size", "mtime_ns", "code")}, "seen": seen}
                except (ValueError, KeyError, TypeError):
                    continue
    return known


def _line(file: File, *, seen: Json | None = None, code: str = "") -> str:
    return json.dumps({"key": file.key, "size": file.size, "mtime_ns": file.mtime_ns, "code": code, "seen": seen}) + "\n"
