"""Who may import whom (architecture.md, section 4), read from the code's own import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STORIES = {"cache", "cluster", "train", "evaluate", "embed", "search", "convert", "report", "simulate", "extract_notes"}
FOUNDATION = {"types", "config", "plugins"}
COMMANDS = STORIES | FOUNDATION | {"catalog", "log", "embed_cache", "ecgecho", "terminal"}
ALLOWED = {
    "cli": COMMANDS | {"cli_store", "job", "doctor", "waveforms", "notes_server", "keys"},
    "cli_store": COMMANDS | {"difference", "export", "exchange", "foreign"},
    "doctor": {"config", "plugins", "catalog", "io", "types"},
    "waveforms": {"catalog", "decode", "io", "types"},
    "terminal": {"log", "report", "types"},
    "cache": FOUNDATION | {"embed_cache", "job", "pipeline", "decode", "io", "echo", "ecg", "catalog", "keys", "ecgecho"},
    "job": {"embed_cache", "pipeline", "io", "types", "ecgecho"},
    "pipeline": {"embed_cache", "io", "types"},
    "decode": {"io", "echo", "ecg", "plugins", "types"},
    "cluster": FOUNDATION | {"embed_cache", "cache", "job", "catalog", "ecgecho"},
    "train": FOUNDATION
    | {"state", "optim", "dist", "log", "data", "catalog", "pairs", "stats", "weights", "embed_cache", "ecgecho"},
    "evaluate": FOUNDATION
    | {"state", "optim", "log", "data", "catalog", "pairs", "tasks", "stats", "embed", "embed_cache", "ecgecho"},
    "search": FOUNDATION | {"embed", "nearest", "io", "decode", "data", "catalog", "pairs", "tasks", "embed_cache", "ecgecho"},
    "embed": FOUNDATION | {"state", "data", "catalog", "pairs", "ecg", "log", "embed_cache", "ecgecho"},
    "convert": {"embed_cache", "exchange", "foreign", "job", "io", "types"},
    # foreign reads other people's files, in bounded workers, and makes moments of them as cache does
    "foreign": {"embed_cache", "io", "echo", "types"},
    "export": {"embed_cache", "exchange", "parts", "types"},
    "exchange": {"types"},
    "difference": {"embed_cache", "parts"},
    "parts": {"embed_cache"},
    "data": {"embed_cache", "catalog", "pairs", "tasks", "types", "config"},
    "methods": {"nn", "losses", "ecg", "dist", "weights", "config", "types"},
    "evals": {"stats", "nearest", "types"},
    "encoders": {"nn", "weights", "types"},
    "teachers": {"echo", "weights", "types"},
    "weights": {"types"},
    "nearest": {"types"},
    "datasets": {"catalog", "pairs", "tasks", "io", "keys", "plugins", "types"},
    "extract_notes": {"notes", "notes_rules", "notes_server", "catalog", "io", "types", "ecgecho"},
    "notes_server": {"notes", "notes_rules", "types"},
    "notes_rules": {"notes", "types"},
    "notes": set(),
    "pairs": {"catalog", "types"},
    "tasks": {"catalog", "pairs", "types"},
    "catalog": {"types"},
    "io": {"types"},
    "losses": {"types"},
    "nn": {"weights", "types"},
    "ecg": {"types"},
    "echo": {"types"},
    "stats": {"types"},
    "optim": {"types", "config"},
    "state": {"types", "config"},
    "keys": {"types"},
    "log": {"types"},
    "dist": {"types"},
    "simulate": {"io", "catalog", "types"},
    "report": {"stats", "types"},
    "types": set(),
    "plugins": {"types"},
    "config": {"plugins", "types"},
    "embed_cache": set(),
    "__init__": {"embed"},
    "__main__": {"cli"},
}


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "embed_cache" else parts[1]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "embed_cache":
                found.add("embed_cache")
            elif parts[0] == "ecgecho":
                inside = parts[1] if len(parts) > 1 else ""
                is_room = (ROOT / "ecgecho" / inside).is_dir() or (ROOT / "ecgecho" / f"{inside}.py").is_file()
                found.add(inside if inside and is_room else "ecgecho")
            elif parts[0] in ("tools", "tests", "benchmarks"):
                found.add(parts[0])
    return found


FILES = sorted([*ROOT.glob("ecgecho/**/*.py"), *ROOT.glob("embed_cache/**/*.py")])


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_a_file_imports_only_what_its_room_may(path):
    room = _room(path)
    assert room in ALLOWED, f"{path} is in a room that architecture.md does not name"
    assert _imports(path) - {room} <= ALLOWED[room]


def test_the_help_of_every_command_needs_no_torch():
    code = (
        "import sys\nfrom ecgecho import cli\nimport typer\n"
        "command = typer.main.get_command(cli.app)\n"
        "below = [['store', name] for name in command.commands['store'].commands]\n"
        "for words in ([], *([name] for name in command.commands), *below):\n"
        "    try:\n        cli.app(args=[*words, '--help'])\n    except SystemExit as stop:\n        assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'zarr', 'pyarrow', 'pydicom', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_decode_workers_need_no_torch():
    code = "import sys\nimport ecgecho.cache\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_no_room_is_a_drawer():
    drawers = {"utils", "util", "common", "base", "core", "helpers", "misc"}
    assert not {p.stem for p in FILES} & drawers
    assert not {part for p in FILES for part in p.relative_to(ROOT).parts} & drawers
