"""What the workers of test_pipeline.py and test_ecg_sources.py run: they import this file, so it imports nothing heavy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def wait_for_it(task: str) -> str:
    """Leaves a mark that it began; "FOLDER slow" waits for the mark "go"."""
    folder, name = task.split()
    Path(folder, f"begun {name}").touch()
    end = time.monotonic() + 60
    while name == "slow" and not Path(folder, "go").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return name


def fail_once(task: str) -> str:
    if "fails" in task and not Path(task).exists():
        Path(task).touch()
        raise OSError("busy")
    if "always" in task:
        raise OSError("gone")
    return task


def die_of_row_one(task: Any) -> Any:
    """As a reader whose library a damaged file ends."""
    from ecgecho.decode import decode_ecg

    if task.source.row == 1:
        os._exit(1)
    return decode_ecg(task)
