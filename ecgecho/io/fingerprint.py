"""What identifies the bytes of a source file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ecgecho.io.files import size_of
from ecgecho.types import ItemError


def fingerprint(path: Path | str) -> str:
    """ "SIZE:SHA256" of a file's bytes. The modification time plays no part."""
    path = Path(path)
    size = size_of(path)
    try:
        with path.open("rb") as file:
            return f"{size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as err:
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
