"""Commands as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def ecgecho(*words: object, cwd: Path | None = None, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    line = [sys.executable, "-m", "ecgecho", *(str(w) for w in words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def must(*words: object, cwd: Path | None = None) -> str:
    """Run a command that has to end with 0; gives what it printed."""
    done = ecgecho(*words, cwd=cwd)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout
