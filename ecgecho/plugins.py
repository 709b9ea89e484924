"""A plug-in is a file: `ecgecho/<kind>/<name>.py` is its own registration.

A plug-in module has `Config` (a frozen dataclass) and `build(config, ...)`. Kinds are plural. A path to a `.py` file
outside the package works the same way.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ecgecho.types import UsageError

KINDS = ("teachers", "methods", "encoders", "datasets", "evals")
_HERE = Path(__file__).parent


def names(kind: str) -> list[str]:
    """The plug-ins of a kind that ship with the package, sorted."""
    if kind not in KINDS:
        raise UsageError(f"there is no kind {kind!r}.{near_miss(kind, KINDS)}")
    return sorted(path.stem for path in (_HERE / kind).glob("*.py") if not path.stem.startswith("_"))


def summary(kind: str, name: str) -> str:
    """First line of a plug-in's docstring, read without importing it."""
    tree = ast.parse((_HERE / kind / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").split("\n")[0]


def load(kind: str, name: str) -> ModuleType:
    """The module of a plug-in. `name` is one of `names(kind)` (hyphen and underscore are the same) or a path to a `.py`."""
    if name.endswith(".py"):
        return _load_file(kind, Path(name))
    stem = name.replace("-", "_")
    if stem not in names(kind):
        raise UsageError(f"there is no {kind[:-1]} {name!r}.{near_miss(stem, names(kind))}")
    return importlib.import_module(f"ecgecho.{kind}.{stem}")


def near_miss(word: str, known: tuple[str, ...] | list[str]) -> str:
    """' Did you mean X?' and at most 10 of what there is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} There is: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}."


def _load_file(kind: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give the path of a .py file, or one of: {', '.join(names(kind))}.")
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    found = importlib.util.spec_from_file_location(f"ecgecho_plugin_{path.stem}_{mark}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # dataclasses look there for what annotations mean
    found.loader.exec_module(module)
    for attribute in ("Config", "build"):
        if not hasattr(module, attribute):
            raise UsageError(f"{path} has no `{attribute}`; a plug-in has `Config` (a frozen dataclass) and `build(config)`.")
    return module
