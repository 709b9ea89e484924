"""A dozen small cines with their catalog, and two plug-in teachers that take their time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import must

SLOW_TEACHER = """
import time
from pathlib import Path
from docs_teacher import Config, MeanColour, build, spec, prepare as quick

def prepare(spec, frames, frame_time_ms):
    time.sleep(0.05)
    return quick(spec, frames, frame_time_ms)
"""
HANGING_TEACHER = SLOW_TEACHER.replace("time.sleep(0.05)", "time.sleep(3600 if len(frames) == 7 else 0)")


@pytest.fixture(scope="session")
def teachers(tmp_path_factory) -> Path:
    """Two plug-in teachers outside the package: one slow, one that hangs on a clip of seven frames."""
    folder = tmp_path_factory.mktemp("teachers")
    guide = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    code = next(part.split("```")[0] for part in guide.split("```python\n") if "class MeanColour" in part)
    for name, ending in (("slow", SLOW_TEACHER), ("hanging", HANGING_TEACHER)):
        tail = ending.split("docs_teacher import Config, MeanColour, build, spec, prepare as quick", 1)[1]
        (folder / f"{name}.py").write_text(code + "\nimport time\nquick = prepare\n" + tail)
    return folder


@pytest.fixture(scope="session")
def cines(cohort, tmp_path_factory) -> Path:
    """A folder of a dozen simulated cines."""
    folder = tmp_path_factory.mktemp("cines")
    for number, path in enumerate(cohort.cines[:12]):
        (folder / f"s{number // 2}").mkdir(exist_ok=True)
        shutil.copy(path, folder / f"s{number // 2}" / f"{number}.dcm")
    return folder


@pytest.fixture(scope="session")
def listed(cines, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("catalog") / "c"
    must("index", "folder", cines, "--out", out)
    return out
