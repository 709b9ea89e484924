"""The one small layer between a store and the file system: everything that is written, renamed or removed goes through here.

A file appears under its name only when all its bytes are on the disk: temporary name, write, fsync, rename, and the
directory's own fsync before anything that relies on it is written.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from embed_cache import mapping
from embed_cache.errors import DamagedStore, StoreError
from embed_cache.layout import ROOT
from embed_cache.place import MAX_JSON_BYTES, STALE_S, TEMPORARY, Piece, is_gone, writer_number

T = TypeVar("T")
LOCK_WAIT_S = 600.0
"""What is done under the lock takes seconds; who waits longer waits for a stopped process."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
_ADVICE = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space or raise the quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "make the folder writable",
    errno.EPERM: "make the folder writable",
    errno.ENOENT: "put the folder back",
    errno.ENOTDIR: "put the folder back",
    errno.ESTALE: "mount the file system again",
}


class LocalPlace:
    """A store in a folder of a local or mounted file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = writer_number()

    def label(self, name: str = "") -> str:
        return str(self.root / name)

    def _path(self, name: str) -> Path:
        """Where a name lies; a link on the way, which would lead out of the store, is refused."""
        path = self.root / name
        folder = path.parent
        while folder != self.root and self.root in folder.parents:
            if folder.is_symlink():
                raise DamagedStore(f"{folder} is a link. A store holds none: put the folder itself there.")
            folder = folder.parent
        return path

    def top(self) -> list[str] | None:
        if not os.path.lexists(self.root):
            return None
        if not self.root.is_dir():
            raise StoreError(f"{self.root} is a file, not a folder. Choose another output.")
        return sorted(item.name for item in self.root.iterdir())

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        path = self._path(name)
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                raise DamagedStore(f"{path} is not a regular file of at most {limit} bytes. Restore it from a copy.")
            return file.read()

    def sizes(self, names: Collection[str]) -> dict[str, int | None]:
        root = os.fspath(self.root)
        linked: set[str] = set()
        for folder in _folders(names):
            if os.path.islink(f"{root}/{folder}"):
                linked.add(f"{folder}/")
        found = {name: _regular_size(f"{root}/{name}") for name in names}
        if linked:
            return {name: None if name.startswith(tuple(linked)) else size for name, size in found.items()}
        return found

    def modified(self, name: str) -> float:
        return (self.root / name).stat().st_mtime

    def checksums(self, names: Iterable[str]) -> Iterator[str | None]:
        # Hashing releases the interpreter lock.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            yield from pool.map(self._checksum, names)

    def walk(self, folder: str = "") -> Iterator[str]:
        start = self.root / folder
        for inner, folders, files in os.walk(start):
            linked = [name for name in folders if Path(inner, name).is_symlink()]
            folders[:] = sorted(name for name in folders if name not in linked)
            for name in sorted(files + linked):
                yield Path(inner, name).relative_to(self.root).as_posix()

    def flat(self, pieces: Sequence[Piece], num_bytes: int) -> npt.NDArray[np.uint8]:
        return mapping.flat([mapping.Piece(self.root / p.path, p.start, p.used, p.size) for p in pieces], num_bytes)

    def write(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self._put(name, data, _rename)
        self._sync(files)

    def create(self, name: str, data: bytes) -> bool:
        created = self._put(name, data, _link_first)
        if created:
            self._sync([name])
        return created

    def replace(self, name: str, data: bytes, old: bytes | None) -> bool:
        try:
            found: bytes | None = self.read(name)
        except FileNotFoundError:
            found = None
        if found != old:
            return False
        self.write({name: data})
        return True

    def stage(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            temporary = self._temporary(name)
            self._make_folder(temporary.parent)
            with _explained(temporary):
                try:
                    _write_whole(temporary, data)
                except OSError:
                    _forget(temporary)
                    raise
        self._sync(files)

    def adopt(self, names: Iterable[str], number: str) -> None:
        moved = []
        for name in names:
            path = self._path(name)
            with _explained(path):
                try:
                    _rename(path.with_name(f"{path.name}.{number}.tmp"), path)
                except FileNotFoundError:
                    continue
            moved.append(name)
        self._sync(moved)

    def remove(self, names: Iterable[str]) -> None:
        folders = set()
        for name in names:
            path = self._path(name)
            with _explained(path):
                if os.path.lexists(path):
                    _remove(path)
            folders.add(path.parent)
        for folder in folders:
            self._prune(folder)

    def _prune(self, folder: Path) -> None:
        """Removes a folder that is empty, and those above it that this leaves empty."""
        if self.root not in folder.parents:
            return
        try:
            _remove(folder)
        except FileNotFoundError:
            pass
        except OSError:
            return  # it holds something
        self._prune(folder.parent)

    def overwrite(self, name: str, spans: Sequence[tuple[int, bytes]]) -> None:
        path = self._path(name)
        with _explained(path):
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                for offset, data in spans:
                    os.lseek(handle, offset, os.SEEK_SET)
                    _write(handle, memoryview(data))
                _fsync(handle)
            finally:
                os.close(handle)

    def wipe(self, name: str, data: bytes) -> None:
        path = self._path(name)
        try:
            old = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            self.write({name: data})
            return
        try:
            size = os.fstat(old).st_size
            self.write({name: data})
            with _explained(path):
                os.lseek(old, 0, os.SEEK_SET)
                _write(old, memoryview(bytes(size)))
                _fsync(old)
        finally:
            os.close(old)

    def discard(self, name: str) -> None:
        try:
            found = os.lstat(self._path(name))
        except FileNotFoundError:
            return
        # A record that was linked to its name, and its writer killed then, shares its blocks with the temporary.
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self.overwrite(name, [(0, bytes(found.st_size))])
        self.remove([name])

    def clean(self) -> None:
        now = time.time()
        for name in self.walk():
            found = TEMPORARY.search(name)
            if found is None:
                continue
            path = self.root / name
            try:
                age = now - os.lstat(path).st_mtime
            except OSError:
                continue
            if is_gone(found[1]) or age > STALE_S:
                with _explained(path):
                    try:
                        _remove(path)
                    except FileNotFoundError:
                        continue

    @contextmanager
    def locked(self) -> Iterator[None]:
        """flock on the root group's file, which is never rewritten: the kernel ends it with its holder, however that ends."""
        try:
            handle = os.open(self.root / ROOT, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            yield
            return
        try:
            self._lock(handle)
            yield
        finally:
            os.close(handle)

    def _checksum(self, name: str) -> str | None:
        try:
            path = self._path(name)
            if _regular_size(path) is None:
                return None
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, DamagedStore):
            return None

    def _lock(self, handle: int) -> None:
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                    return  # a file system without locks: the order of writing alone protects the store
                if time.monotonic() > until:
                    raise StoreError(
                        f"another process has been finishing {self.root} for {LOCK_WAIT_S / 60:.0f} minutes. "
                        "See whether it hangs, then run the same command again."
                    ) from error
            time.sleep(0.02)

    def _put(self, name: str, data: bytes, move: Callable[[Path, Path], T]) -> T:
        """A temporary with all of `data`, and what `move` of it to its name gives."""
        path, temporary = self._path(name), self._temporary(name)
        self._make_folder(path.parent)
        with _explained(path):
            try:
                for _ in range(2):
                    _write_whole(temporary, data)
                    try:
                        return move(temporary, path)
                    except FileNotFoundError:  # another writer took the temporary for a dead one's
                        if not path.parent.is_dir():
                            raise
                _write_whole(temporary, data)
                return move(temporary, path)
            except OSError:
                _forget(temporary)
                raise

    def _temporary(self, name: str) -> Path:
        path = self._path(name)
        return path.with_name(f"{path.name}.{self.number}.tmp")

    def _make_folder(self, path: Path) -> None:
        """`path` and its missing parents, each durable in its parent."""
        if path.is_dir():
            return
        self._make_folder(path.parent)
        with _explained(path):
            try:
                _mkdir(path)
            except FileExistsError:
                if not path.is_dir():
                    raise
        _sync_directory(path.parent)

    def _sync(self, names: Iterable[str]) -> None:
        for folder in sorted({(self.root / name).parent for name in names}):
            _sync_directory(folder)


def _folders(names: Iterable[str]) -> set[str]:
    """Every folder above any of the names."""
    folders: set[str] = set()
    for name in names:
        while "/" in name and (name := name.rpartition("/")[0]) not in folders:
            folders.add(name)
    return folders


def _write_whole(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    try:
        _write(handle, memoryview(data).cast("B"))
        _fsync(handle)
    finally:
        os.close(handle)


def _sync_directory(path: Path) -> None:
    """Makes the names in `path` durable."""
    with _explained(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no directories
                raise
        finally:
            os.close(handle)


def _link_first(temporary: Path, path: Path) -> bool:
    """Gives a temporary its name unless that is taken; False where it is."""
    try:
        _link(temporary, path)
    except FileExistsError:
        _discard(temporary)
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: the lock that records are made under has to do.
        if os.path.lexists(path):
            _discard(temporary)
            return False
        _rename(temporary, path)
        return True
    _discard(temporary)
    return True


def _discard(temporary: Path) -> None:
    """Removes a temporary that another writer may have taken for a dead one's."""
    try:
        _remove(temporary)
    except FileNotFoundError:
        return


def _forget(temporary: Path) -> None:
    """Best effort: what stays is removed by whoever comes next."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return


def _regular_size(path: str | Path) -> int | None:
    """Size of a regular file, None when there is none (a link is not one)."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


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


def _link(source: Path, target: Path) -> None:
    os.link(source, target)


def _mkdir(path: Path) -> None:
    path.mkdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
