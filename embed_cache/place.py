"""Where a store lies: a folder, or a prefix of a bucket. Everything else knows names only: relative to the store, with "/".

A name appears with all its bytes or not at all, wherever it lies. Of several writers that `create` the same name, one is first.
"""

from __future__ import annotations

import os
import re
import secrets
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embed_cache.errors import StoreError

TEMPORARY = re.compile(r"\.(\d+)\.tmp$")  # NAME.<number of the writer>.tmp
MAX_JSON_BYTES = 1 << 30  # a head of 20 million rows stays below 20 MB
STALE_S = 3600.0
"""A temporary of this age belongs to nobody: writing one takes seconds. A writer whose temporary vanishes writes it again."""
_REMOTE = re.compile(r"(s3|gs):/{1,2}(?=[^/])")


class Piece(Protocol):
    """`used` leading bytes of the file `path` (which has `size` bytes) belong at `start` of a flat array."""

    @property
    def path(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def size(self) -> int: ...


class Place(Protocol):
    """What a store needs of a file system or of an object store. Errors are StoreError with advice, or FileNotFoundError."""

    number: str
    """Of this writer, in the names of its temporaries."""

    def label(self, name: str = "") -> str:
        """For messages."""

    def top(self) -> list[str] | None:
        """Names directly in the store, sorted; None where nothing is there at all."""

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        """All bytes of a regular file of at most `limit` bytes; FileNotFoundError when it is not there."""

    def sizes(self, names: Collection[str]) -> dict[str, int | None]:
        """Name -> size, None for what is not there or no regular file."""

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds since 1970."""

    def checksums(self, names: Iterable[str]) -> Iterator[str | None]:
        """sha256 of each, in order, None for what cannot be read."""

    def walk(self, folder: str = "") -> Iterator[str]:
        """Every name below a folder, sorted."""

    def flat(self, pieces: Sequence[Piece], num_bytes: int) -> npt.NDArray[np.uint8]:
        """Files as one flat array (num_bytes,), read-only."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Each under its name, replacing what is there; durable when this returns."""

    def create(self, name: str, data: bytes) -> bool:
        """`write` of one file unless the name is taken: then False, and nothing is changed."""

    def replace(self, name: str, data: bytes, old: bytes | None) -> bool:
        """`write` of one file where it still is `old` (None: is not there); else False, and nothing is changed."""

    def stage(self, files: Mapping[str, bytes]) -> None:
        """Each under NAME.<number>.tmp, durable."""

    def adopt(self, names: Iterable[str], number: str) -> None:
        """Staged files get their names, durable; one that is no longer there is passed over."""

    def remove(self, names: Iterable[str]) -> None:
        """Removes what is there of these, and folders that this leaves empty."""

    def overwrite(self, name: str, spans: Sequence[tuple[int, bytes]]) -> None:
        """Puts bytes in place at offsets: on a file system into the very blocks that held the old ones."""

    def wipe(self, name: str, data: bytes) -> None:
        """`write` of one file, and the bytes that stood there before are overwritten where the place allows it."""

    def discard(self, name: str) -> None:
        """Removes one file, its bytes overwritten first where the place allows it."""

    def clean(self) -> None:
        """Removes temporaries whose writers are gone."""

    def locked(self) -> AbstractContextManager[None]:
        """One writer at a time, where the place knows locks that end with their holder; elsewhere nothing."""


def place_of(uri: str | os.PathLike[str]) -> Place:
    """The place a uri names: a path, file://, s3:// or gs://."""
    text = os.fspath(uri)
    if is_remote(text):
        from embed_cache.objects import ObjectPlace

        return ObjectPlace(_REMOTE.sub(r"\1://", text))
    from embed_cache.disk import LocalPlace

    if text.startswith("file://"):
        text = text[len("file://") :]
    if "://" in text:
        raise StoreError(f"{text} is neither a folder nor s3:// or gs://. Stores are read and written there only.")
    return LocalPlace(Path(text))


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether a uri names a bucket; also when it went through a Path, which makes one slash of two."""
    return _REMOTE.match(os.fspath(uri)) is not None


def writer_number() -> str:
    """Digits: 10 of the host and its pid namespace, 8 of the process, 6 random."""
    return f"{_host():010d}{os.getpid():08d}{secrets.randbelow(10**6):06d}"


def is_gone(number: str) -> bool:
    """Whether the writer of that number is known to have ended: a process of this host that is no more."""
    if len(number) != 24 or int(number[:10]) != _host():
        return False
    pid = int(number[10:18])
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@cache
def _host() -> int:
    parts = [os.uname().nodename]
    for path in ("/proc/sys/kernel/random/boot_id",):
        try:
            parts.append(Path(path).read_text())
        except OSError:
            continue
    try:
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append("")
    return zlib.crc32("|".join(parts).encode())
