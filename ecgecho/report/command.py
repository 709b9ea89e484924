"""What a command did, as a versioned `report.json` and a readable page beside its output. Holds no path of a data file."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

REPORT_VERSION = 1


def write_report(command: str, out: Path, counts: dict[str, Any], exit_status: int, seconds: float) -> None:
    """Write `<out>.report.json` and `<out>.report.md`."""
    memory_mb = peak_memory_mb()
    report = {
        "report_version": REPORT_VERSION,
        "command": command,
        "exit_status": exit_status,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(memory_mb, 1),
        "versions": _versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "result": counts,
    }
    lines = [
        f"# {command}",
        "",
        f"exit status {exit_status}, {seconds:.1f} s, peak memory {memory_mb:.0f} MB",
        "",
        "| what | value |",
        "|---|---|",
    ]
    lines += [f"| {name} | {json.dumps(value) if isinstance(value, dict) else value} |" for name, value in counts.items()]
    stem = out.with_name(out.name + ".report")
    _write(stem.with_name(stem.name + ".json"), json.dumps(report, indent=1) + "\n")
    _write(stem.with_name(stem.name + ".md"), "\n".join(lines) + "\n")


def peak_memory_mb() -> float:
    """Of this process, or of the largest one it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children) / unit


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("ecgecho", "torch", "numpy", "zarr", "pydicom", "open_clip_torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # the same command may run several times at once
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
