"""Opening a file that may not be there, may not be a file, or may be larger than anything we expect."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from ecgecho.types import ItemError

MAX_BYTES = 4 << 30
"""No input and no decoded clip may be larger: a 10 s cine of 1080 x 1920 at 60 frames/s is 3.5 GiB."""


def size_of(path: Path, *, most: int = MAX_BYTES) -> int:
    """Bytes of a regular file; raises ItemError where there is none, it is empty, or it has more than `most`."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ItemError("missing_file", f"there is no file {path.name}") from err
    except OSError as err:
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
    except ValueError as err:  # a NUL in the name
        raise ItemError("missing_file", f"{str(path)!r} cannot be a file name") from err
    # A fifo or a device would block the reader forever.
    if not stat.S_ISREG(found.st_mode):
        raise ItemError("not_a_file", f"{path.name} is a folder, a pipe or a device, not a file")
    if found.st_size == 0:
        raise ItemError("empty", f"{path.name} has no bytes")
    if found.st_size > most:
        raise ItemError("too_large", f"{path.name} has {found.st_size} bytes, more than the {most} a reader takes")
    return found.st_size


class Clipped(io.BufferedReader):
    """A file whose `read` takes no memory for bytes that are not there, whatever length a damaged header announces."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what is left of the file."""
        return super().read(size if size is None or size < 0 else min(size, max(self._size - self.tell(), 0)))


def read_bytes(path: Path, *, offset: int = 0, size: int | None = None, most: int = MAX_BYTES) -> bytes:
    """`size` bytes from `offset`, or all to the end, of a file of at most `most` bytes."""
    size_of(path, most=most)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read() if size is None else file.read(size)
    except OSError as err:
        raise ItemError("unreadable", f"{path.name}: {err.strerror}", permanent=False) from err
