"""Commands as a user runs them: in this process, which has torch loaded, or in one of their own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from ecgecho.cli import main


def ecgecho(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command here; it tells and ends as under `ecgecho_process` (tests/cli/test_command_line.py)."""
    line = ["ecgecho", *(str(w) for w in words)]
    out, told = io.StringIO(), io.StringIO()
    with (
        _left_as_it_was(),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(told),
    ):
        sys.argv = line
        status = _exit_status()
    return subprocess.CompletedProcess(line, status, out.getvalue(), told.getvalue())


def must(*words: object, cwd: Path | None = None) -> str:
    """Run a command here that has to end with 0; gives what it printed."""
    done = ecgecho(*words, cwd=cwd)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ecgecho_process(*words: object, cwd: Path | None = None, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own: for what is about the process, its start or its end."""
    line = [sys.executable, "-m", "ecgecho", *(str(w) for w in words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def _exit_status() -> int:
    """How the interpreter would end."""
    try:
        main()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _left_as_it_was() -> Iterator[None]:
    """What a process would take with it when it ends: seeds, threads, handlers, environment."""
    import numpy as np
    import torch

    environment, arguments, path = dict(os.environ), sys.argv, list(sys.path)
    python, numbers, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    deterministic, dtype = torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE)}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.path[:] = arguments, path
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_default_dtype(dtype)
        root.handlers[:] = handlers
        root.setLevel(level)
        root.manager.disable = disabled
        for number, handler in signals.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
