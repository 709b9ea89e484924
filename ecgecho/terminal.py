"""What every command shows a person: progress, one-line messages, the closing lines. Imports nothing heavy."""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ecgecho.log import Bar

_ONE_SLASH = re.compile(r"\b(s3|gs):/(?=[^/\s])")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class ProgressBar:
    """Progress that appears with its first call, `bar(done, total)` or `bar(what, done, total)`; knows its seconds at the end."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.seconds = 0.0
        self._began = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, *told: Any) -> None:
        from ecgecho.log import Bar

        *what, done, total = told
        if self._bar is None or self._bar.total != total:
            self.close()
            self._bar = Bar(self.label, total, unit=self.unit, say=say)
        self._bar.advance(done - self._bar.done, str(what[0]) if what else "")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __exit__(self, *exc: object) -> None:
        self.seconds = time.monotonic() - self._began
        self.close()


def close(
    command: str, out: Path, counts: Any, status: int, seconds: float, following: str, *, extra: Any = None, quiet: bool = False
) -> None:
    """The end of every command: counts, seconds, memory, where the output lies, what to type next.

    The same is written to a file beside the output; not for a store in a bucket, which has no folder for it.
    """
    from ecgecho.report.command import peak_memory_mb, write_report

    told = {k: v for k, v in counts.items() if isinstance(v, (int, float, str))}
    if not address(out).startswith(("s3://", "gs://")):
        try:
            write_report(command, out, {**told, **(extra or {})}, status, seconds)
        except OSError as error:  # what was asked for is done
            say(f"No report was written beside {out}: {error.strerror}.")
    if quiet:
        return
    print(", ".join(f"{k.replace('_', ' ')} {v}" for k, v in told.items()))
    print(f"{command}: {seconds:.1f} s, peak memory {peak_memory_mb():.0f} MB, in {address(out)}")
    if following:
        print(f"next: {following}")


def say(text: str) -> None:
    print(address(text), file=sys.stderr)


def usage(message: str) -> Exception:
    from ecgecho.types import UsageError

    return UsageError(message)


def quoted(path: Path) -> str:
    return shlex.quote(address(path))


def address(told: object) -> str:
    """A place, or a text that names places, with the two slashes of `s3://`, of which a Path keeps one."""
    return _ONE_SLASH.sub(r"\1://", str(told))
