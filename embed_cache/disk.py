"""The one small layer between a store and the file system: everything that is written, renamed or removed goes through here.

A file appears under its name only when all its bytes are on the disk: temporary name, write, fsync, rename, and the
directory's own fsync before anything that relies on it is written.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from embed_cache.errors import DamagedStore, StoreError

TEMPORARY = re.compile(r"\.\d+\.tmp$")  # NAME.<process id>.tmp
MAX_JSON_BYTES = 1 << 30  # a head of 20 million rows stays below 20 MB

_ADVICE = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space or raise the quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
    errno.ENOENT: "put the folder back",
    errno.ENOTDIR: "put the folder back",
}


def write_file(path: Path, data: bytes | memoryview) -> None:
    """All of `data` under `path`, or nothing. The caller syncs the directory afterwards (`sync_directory`)."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with _explained(path):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
            try:
                _write(handle, memoryview(data).cast("B"))
                _fsync(handle)
            finally:
                os.close(handle)
            _rename(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def sync_directory(path: Path) -> None:
    """Makes the names in `path` durable."""
    with _explained(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _fsync(handle)
        finally:
            os.close(handle)


def make_directory(path: Path) -> None:
    """`path` and its missing parents, each durable in its parent."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with _explained(path):
        try:
            _mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise
    sync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file if it is there."""
    with _explained(path):
        if os.path.lexists(path):
            _remove(path)


def remove_unlisted(folder: Path, keep: set[Path]) -> None:
    """Removes files below `folder` that are not in `keep`, and folders that this leaves empty."""
    for path in list(walk(folder)):
        if path not in keep:
            remove_file(path)
    with _explained(folder):
        for inner, _, _ in os.walk(folder, topdown=False):
            if not os.listdir(inner):
                _remove(Path(inner))


def remove_temporaries(root: Path) -> None:
    """Removes what killed writers left behind under `root`."""
    for path in walk(root):
        if TEMPORARY.search(path.name):
            remove_file(path)


def walk(root: Path) -> Iterator[Path]:
    """Every file below `root`, links to directories included as files, in sorted order."""
    for folder, folders, files in os.walk(root):
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in linked)
        for name in sorted(files + linked):
            yield Path(folder, name)


def read_file(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; FileNotFoundError when it is not there."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise DamagedStore(f"{path} is not a regular file of at most {limit} bytes. Restore it from a copy.")
        return file.read()


def regular_size(path: str | Path) -> int | None:
    """Size of a regular file, None when there is none (a link is not one)."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def checksum(path: Path) -> str | None:
    """sha256 of a regular file's bytes, None when it cannot be read."""
    if regular_size(path) is None:
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def checksums(paths: Iterable[Path]) -> Iterator[str | None]:
    """`checksum` of each path, in order, on a few threads (hashing releases the interpreter lock)."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(checksum, paths)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "mend that")
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}. What was finished is kept; {advice} and run the same command again."
        ) from error


def _write(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _fsync(handle: int) -> None:
    os.fsync(handle)


def _rename(source: Path, target: Path) -> None:
    source.replace(target)


def _mkdir(path: Path) -> None:
    path.mkdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
