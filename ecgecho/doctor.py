"""A machine and a dataset looked at before a long job: what would fail after hours is told in seconds, with what mends it.

Starts where torch is broken: torch and torchvision are tried in a process of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ecgecho import config as configuration
from ecgecho import plugins
from ecgecho.io.workers import Done, ItemFailure, run_bounded
from ecgecho.types import Json, UserError

State = Literal["ok", "note", "warn", "fail"]

SAMPLED = 6
"""Files of each kind that are read whole."""
SAMPLE_S = 60.0
MEMORY_BYTES = 4 << 30
TORCH_S = 60.0
LEAST_FREE_BYTES = 10 << 30
TORCHVISION_MINOR = 15
"""torchvision 0.(15 + x) belongs to torch 2.x, since torchvision 0.15 came with torch 2.0 (its README's table)."""
WALKED_FILES = 20_000

# Runs alone: a broken pair may raise, or end the process.
_TORCH = """
import json, sys
found = {}
try:
    import torch
    found["torch"] = torch.__version__
    found["cuda_built"] = torch.version.cuda
    if torch.cuda.is_available():
        found["devices"] = [
            {"name": torch.cuda.get_device_name(i), "memory": torch.cuda.get_device_properties(i).total_memory}
            for i in range(torch.cuda.device_count())
        ]
        found["bf16"] = torch.cuda.is_bf16_supported()
    import torchvision
    found["torchvision"] = torchvision.__version__
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    found["pair"] = True
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""

_INSTALL = "pip install -c constraints.txt -e ."
_VIDEO = {"h264": "H.264", "hevc": "HEVC", "mpeg2video": "MPEG-2", "mjpeg": "MJPEG", "mpeg4": "MPEG-4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's answer."""

    what: str
    state: State
    told: str
    mend: str = ""
    """A command, or what to do; empty where nothing is wrong."""


def examine(
    root: Path | None = None, *, out: Path | None = None, teacher: str = "", weights: str = "", dataset: str = ""
) -> list[Finding]:
    """All findings; the machine first, then the place to write to, the dataset or catalog in `root`, and the weights."""
    looks: list[Callable[[], Iterator[Finding]]] = [_torch, _python, _packages, _codecs, lambda: _place(out or Path())]
    if root is not None:
        looks.append(lambda: _dataset(root, dataset))
    if teacher or weights:
        looks.append(lambda: _weights(teacher or "echoclip", weights))
    with ThreadPoolExecutor(len(looks)) as pool:  # torch's import, in its process, is what takes seconds
        return [finding for found in pool.map(_safely, looks) for finding in found]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether a job may be begun."""
    return all(finding.state != "fail" for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """The findings as lines for a terminal."""
    width = max((len(finding.what) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<5} {finding.what:<{width}}  {finding.told}")
        if finding.mend:
            lines.append(f"{'':<5} {'':<{width}}  -> {finding.mend}")
    return "\n".join(lines)


def to_json(findings: Sequence[Finding]) -> list[Json]:
    """The findings as plain values."""
    return [asdict(finding) for finding in findings]


def _safely(look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found = []
    try:
        for finding in look():
            found.append(finding)
    except UserError as error:
        found.append(Finding(what="refused", state="fail", told=str(error)))
    except Exception as error:  # whatever is broken, the other findings are told
        found.append(Finding(what="doctor", state="warn", told=f"a look was cut short by {type(error).__name__}: {error}"))
    return found


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Finding(
        what="python",
        state="ok" if good else "fail",
        told=version,
        mend="" if good else "use Python 3.11 to 3.13: python3.12 -m venv .venv",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory()
    yield Finding(what="machine", state="ok", told=f"{cores} cores, {memory / 2**30:.0f} GiB memory, {platform.machine()}")


def _packages() -> Iterator[Finding]:
    missing, wrong, told = [], [], []
    for line in metadata.requires("ecgecho") or ():
        name = re.match(r"[A-Za-z0-9_.-]+", line)
        if name is None or "extra ==" in line:
            continue
        try:
            version = metadata.version(name[0])
        except metadata.PackageNotFoundError:
            if "platform_machine" not in line:
                missing.append(name[0])
            continue
        least = re.search(r">=\s*([\d.]+)", line)
        if least and _numbers(version) < _numbers(least[1]):
            wrong.append(f"{name[0]} {version} (needs {least[1]})")
        told.append(name[0])
    if missing:
        yield Finding(what="packages", state="fail", told=f"missing: {', '.join(missing)}", mend=_INSTALL)
    if wrong:
        yield Finding(what="packages", state="fail", told=f"too old: {', '.join(wrong)}", mend=_INSTALL)
    if not missing and not wrong:
        yield Finding(what="packages", state="ok", told=f"{len(told)} found, none too old")


def _torch() -> Iterator[Finding]:
    try:
        done = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=TORCH_S, check=False)
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        yield Finding(
            what="torch", state="fail", told=f"its import takes over {TORCH_S:.0f} s", mend="try: python -c 'import torch'"
        )
        return
    except (IndexError, ValueError):
        yield Finding(
            what="torch", state="fail", told=f"its import ended the process (status {done.returncode})", mend=_pair_of("2.12.1")
        )
        return
    if "torch" not in found:
        yield Finding(what="torch", state="fail", told=found["error"][:200], mend=_pair_of("2.12.1"))
        return
    if found.get("pair"):
        yield Finding(what="torch", state="ok", told=f"torch {found['torch']} with torchvision {found['torchvision']}")
    else:
        told = f"torch {found['torch']}, and torchvision does not fit it: {found['error'][:120]}"
        yield Finding(what="torch", state="fail", told=told, mend=_pair_of(found["torch"]))
    devices = found.get("devices", [])
    for number, device in enumerate(devices):
        bf16 = "bf16" if found.get("bf16") else "no bf16"
        yield Finding(
            what=f"cuda:{number}",
            state="ok",
            told=f"{device['name']}, {device['memory'] / 2**30:.0f} GiB, {bf16}, CUDA {found['cuda_built']}",
        )
    if not devices:
        card = shutil.which("nvidia-smi") is not None
        told = "no GPU: caching and training run on the CPU"
        if card:
            why = "is built without CUDA" if not found["cuda_built"] else f"(CUDA {found['cuda_built']}) cannot use it"
            yield Finding(
                what="gpu",
                state="warn",
                told=f"there is a driver, and torch {why}",
                mend="pip install torch torchvision from the index that your driver's CUDA names",
            )
        else:
            yield Finding(what="gpu", state="note", told=told)


def _pair_of(torch: str) -> str:
    numbers = _numbers(torch)
    bare = torch.partition("+")[0]
    if len(numbers) < 2 or numbers[0] != 2:
        return _INSTALL
    return f"pip install torch=={bare} 'torchvision==0.{numbers[1] + TORCHVISION_MINOR}.*'"


def _codecs() -> Iterator[Finding]:
    try:
        import av

        lacking = [word for name, word in _VIDEO.items() if name not in av.codec.codecs_available]
        told = f"PyAV {av.__version__} decodes {', '.join(word for word in _VIDEO.values() if word not in lacking)}"
        yield Finding(
            what="video", state="warn" if lacking else "ok", told=told + (f"; not {', '.join(lacking)}" if lacking else ""),
            mend="pip install av" if lacking else "",
        )  # fmt: skip
    except ImportError:
        yield Finding(what="video", state="warn", told="PyAV is not installed; decord stands in", mend="pip install av")
    if importlib.util.find_spec("jpeg_ls"):
        yield Finding(what="dicom", state="ok", told="all transfer syntaxes")
    else:
        told = "all transfer syntaxes but colour JPEG-LS by pixel: such clips fail, and say so"
        yield Finding(what="dicom", state="note", told=told, mend='pip install "ecgecho[codecs]"')


def _place(out: Path) -> Iterator[Finding]:
    near = next(place for place in (out.absolute(), *out.absolute().parents) if place.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=near, prefix=".ecgecho-doctor-") as place:
            one, two = Path(place, "one"), Path(place, "two")
            one.write_bytes(b"x")
            try:
                os.link(one, two)
                links = "hard links"
            except OSError:
                links = "no hard links (several writers then lean on locks alone)"
            locks = _locks(one)
    except OSError as error:
        yield Finding(what="disk", state="fail", told=f"{near}: {error.strerror}", mend="choose another --out")
        return
    free = shutil.disk_usage(near).free
    state: State = "ok" if free >= LEAST_FREE_BYTES and locks else "warn"
    told = f"{near}: {free / 1e9:.0f} GB free, {links}, {'locks work' if locks else 'no locks'}"
    mend = "" if state == "ok" else "give --out on a local disk with room; let one process at a time write to this one"
    yield Finding(what="disk", state=state, told=told, mend=mend)


def _locks(path: Path) -> bool:
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (ImportError, OSError):
        return False


def _dataset(root: Path, dataset: str) -> Iterator[Finding]:
    from ecgecho import catalog as tables

    if not root.is_dir():
        yield Finding(what="dataset", state="fail", told=f"there is no folder {root}", mend="give the dataset's root folder")
        return
    if (root / "catalog.json").is_file():
        catalog = tables.read(root)
        told = f"a catalog of {catalog.dataset}: {catalog.ecgs.num_rows:,} ECGs, {catalog.clips.num_rows:,} clips"
        yield Finding(what="dataset", state="ok", told=told)
        sources = catalog.ecg_sources(catalog.ecgs)
        chosen = _spread(catalog.ecgs.select(["ecg_id", "path"]).to_pylist())
        yield from _readable("ECGs", [(str(catalog.file(row["path"])), sources.get(row["ecg_id"])) for row in chosen], _read_ecg)
        cines = catalog.clips.filter(tables.cine_rows(catalog.clips))
        yield from _readable("clips", [str(catalog.file(path)) for path in _spread(cines["path"].to_pylist())], _read_echo)
        return
    for name in [dataset.replace("-", "_")] if dataset else plugins.names("datasets"):
        if name in ("folder", "tables") and not dataset:
            continue
        module = plugins.load("datasets", name)
        try:
            found = module.build(module.Config()).inspect(root, root / ".ecgecho-doctor-none")
        except UserError as error:
            if dataset or "two candidates" in str(error):
                yield Finding(
                    what="dataset", state="fail", told=str(error), mend="give a narrower ROOT, or keep one version in it"
                )
                if not dataset:
                    break
            continue
        yield Finding(what="dataset", state="ok", told=f"{found['dataset']}: {', '.join(found['parts'])}")
        for what in found["missing"]:
            yield Finding(what="dataset", state="note", told=f"not there: {what}")
        break
    else:
        if not dataset:
            yield Finding(
                what="dataset", state="note", told="no published dataset that is known; `index folder` takes single files"
            )
    echo, ecg = _walk(root)
    yield from _readable("clips", [str(path) for path in _spread(echo)], _read_echo)
    yield from _readable("ECGs", [(str(path), None) for path in _spread(ecg)], _read_ecg)


def _readable(what: str, tasks: Sequence[Any], read: Callable[[Any], float]) -> Iterator[Finding]:
    """Reads a sample whole, in a worker that a bad file cannot take along."""
    if not tasks:
        return
    seconds, outcomes = [], Counter[str]()
    for _, result in run_bounded(read, tasks, workers=1, timeout_s=SAMPLE_S, memory_bytes=MEMORY_BYTES):
        if isinstance(result, Done):
            outcomes["ok"] += 1
            seconds.append(result.value)
        elif isinstance(result, ItemFailure):
            outcomes[f"{result.outcome}: {result.code}"] += 1
    failed = sum(count for name, count in outcomes.items() if name.startswith("failed"))
    told = f"a sample of {len(tasks)} read: " + ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
    pace = f"; {sum(seconds) / len(seconds):.2f} s each" if seconds else ""
    missing = outcomes["failed: missing_file"] == len(tasks)
    state: State = "fail" if failed == len(tasks) and not missing else "warn" if failed else "ok"
    mend = ""
    if failed:
        mend = (
            "the tables are there, the files are not: fetch them"
            if missing
            else "look at these files; a job goes on without them"
        )
    yield Finding(what=what, state=state, told=told + pace, mend=mend)


def _read_echo(path: str) -> float:
    from ecgecho.io import read_echo

    began = time.monotonic()
    read_echo(path)
    return time.monotonic() - began


def _read_ecg(task: tuple[str, Any]) -> float:
    from ecgecho.io import read_ecg

    began = time.monotonic()
    read_ecg(task[0], task[1])
    return time.monotonic() - began


def _weights(teacher: str, weights: str) -> Iterator[Finding]:
    """Loads the teacher as a job would, in a process of its own."""
    module = plugins.load("teachers", teacher)
    settings = configuration.override(module.Config(), [f"weights={json.dumps(weights)}"] if weights else [])
    licence = str(module.spec(settings).licence)
    tasks = [(teacher, weights)]
    ((_, result),) = run_bounded(_load_teacher, tasks, workers=1, timeout_s=300.0, memory_bytes=16 << 30)
    if isinstance(result, Done):
        yield Finding(what="weights", state="ok", told=f"{teacher} loads, sha256 {result.value[:12]}...")
    elif isinstance(result, ItemFailure):
        yield Finding(
            what="weights",
            state="fail",
            told=result.message[:300],
            mend="give --weights with the file that the teacher's page names",
        )
    yield Finding(what="licence", state="note", told=licence or "the teacher names none")


def _load_teacher(task: tuple[str, str]) -> str:
    from ecgecho.types import ItemError

    teacher, weights = task
    module = plugins.load("teachers", teacher)
    try:
        built = module.build(configuration.override(module.Config(), [f"weights={json.dumps(weights)}"] if weights else []))
    except (UserError, OSError) as error:
        raise ItemError("weights", str(error)) from error
    return str(built.weights_sha256)


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """The first echo and ECG files below a folder, by their names."""
    echo: list[Path] = []
    ecg: list[Path] = []
    seen = 0
    for place, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith(".") and not name.endswith(".zarr"))
        for name in sorted(names):
            seen += 1
            lower = name.lower()
            if lower.endswith((".dcm", ".avi", ".mp4", ".nii.gz")):
                echo.append(Path(place, name))
            elif lower.endswith((".hea", ".scp", ".edf", ".ecg")):
                ecg.append(Path(place, name))
        if seen > WALKED_FILES or (len(echo) > 10 * SAMPLED and len(ecg) > 10 * SAMPLED):
            break
    return echo, ecg


def _spread(items: Sequence[Any]) -> list[Any]:
    step = max(1, len(items) // SAMPLED)
    return list(items[::step])[:SAMPLED]


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version.partition("+")[0])[:3])
