"""A store in a bucket: s3:// and gs:// through obstore, the library behind zarr's own `ObjectStore`.

An object appears whole or not at all, and a conditional put makes one of several writers the first; there are no locks.
Endpoint and credentials come from the environment, as every tool of the provider takes them (AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from embed_cache.errors import DamagedStore, StoreError
from embed_cache.place import MAX_JSON_BYTES, STALE_S, TEMPORARY, Piece, is_gone, writer_number

THREADS = 16
"""Requests in flight: what one host needs to fill 10 Gbit/s with objects of 2 MiB."""
ATTEMPTS = 5
FEW = 32
"""Up to so many sizes are asked one by one; more by listing the prefix."""
CONNECT_TIMEOUT, TIMEOUT = "5s", "300s"
RETRY: dict[str, Any] = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


class ObjectPlace:
    """A store below a prefix of a bucket."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
        except ImportError as error:
            raise StoreError(f"{url} needs the library obstore. Install the extra: pip install 'ecgecho[s3]'.") from error
        self.url = url.rstrip("/")
        self.number = writer_number()
        self._obstore = obstore
        self._taken: tuple[type[Exception], ...] = (AlreadyExistsError, PreconditionError)
        self._failures: tuple[type[Exception], ...] = (BaseError, OSError, ValueError)
        options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "timeout": TIMEOUT}
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = True
        try:
            self.store = obstore.store.from_url(self.url, client_options=options, retry_config=RETRY)  # type: ignore[call-overload]
        except self._failures as error:
            raise StoreError(f"{self.url} cannot be opened: {_first_line(error)}. Check the address.") from error

    def label(self, name: str = "") -> str:
        return f"{self.url}/{name}" if name else self.url

    def top(self) -> list[str] | None:
        with self._explained():
            found = self._obstore.list_with_delimiter(self.store)
            names = {item["path"] for item in found["objects"]} | {prefix.rstrip("/") for prefix in found["common_prefixes"]}
        return sorted(names) or None

    def read(self, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
        with self._explained(name):
            found = self._obstore.get(self.store, name)
            if found.meta["size"] > limit:
                raise DamagedStore(f"{self.label(name)} is larger than {limit} bytes. Restore it from a copy.")
            return bytes(found.bytes())

    def sizes(self, names: Collection[str]) -> dict[str, int | None]:
        if len(names) <= FEW:
            return dict(zip(names, self._each(self._size, names), strict=True))
        found = {path: size for path, size, _ in self._list()}
        return {name: found.get(name) for name in names}

    def modified(self, name: str) -> float:
        with self._explained(name):
            return float(self._obstore.head(self.store, name)["last_modified"].timestamp())

    def checksums(self, names: Iterable[str]) -> Iterator[str | None]:
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            yield from pool.map(self._checksum, names)

    def walk(self, folder: str = "") -> Iterator[str]:
        yield from sorted(path for path, _, _ in self._list(folder))

    def flat(self, pieces: Sequence[Piece], num_bytes: int) -> npt.NDArray[np.uint8]:
        values: npt.NDArray[np.uint8] = np.empty(max(num_bytes, 1), dtype=np.uint8)

        def fetch(piece: Piece) -> None:
            try:
                data = self.read(piece.path, piece.size)
            except FileNotFoundError:
                data = b""
            if len(data) != piece.size:
                raise DamagedStore(f"{self.label(piece.path)} has changed its size. Run a verification of the store.")
            values[piece.start : piece.start + piece.used] = np.frombuffer(data, dtype=np.uint8, count=piece.used)

        list(self._each(fetch, pieces))
        values = values[:num_bytes]
        values.flags.writeable = False
        return values

    def write(self, files: Mapping[str, bytes]) -> None:
        list(self._each(lambda item: self._put(*item), files.items()))

    def create(self, name: str, data: bytes) -> bool:
        return self._put_if(name, data, "create")

    def replace(self, name: str, data: bytes, old: bytes | None) -> bool:
        if old is None:
            return self.create(name, data)
        try:
            with self._explained(name):
                found = self._obstore.get(self.store, name)
                tag = found.meta["e_tag"]
                if bytes(found.bytes()) != old:
                    return False
        except FileNotFoundError:
            return False
        return self._put_if(name, data, {"e_tag": tag})

    def stage(self, files: Mapping[str, bytes]) -> None:
        self.write({f"{name}.{self.number}.tmp": data for name, data in files.items()})

    def adopt(self, names: Iterable[str], number: str) -> None:
        def move(name: str) -> None:
            with contextlib.suppress(FileNotFoundError), self._explained(name):
                self._obstore.copy(self.store, f"{name}.{number}.tmp", name)
                self._obstore.delete(self.store, f"{name}.{number}.tmp")

        list(self._each(move, names))

    def remove(self, names: Iterable[str]) -> None:
        listed = list(names)
        with contextlib.suppress(FileNotFoundError), self._explained():
            if listed:
                self._obstore.delete(self.store, listed)

    def overwrite(self, name: str, spans: Sequence[tuple[int, bytes]]) -> None:
        for _ in range(ATTEMPTS):
            old = self.read(name, 1 << 40)
            data = bytearray(old)
            for offset, new in spans:
                data[offset : offset + len(new)] = new
            if data == old or self.replace(name, bytes(data), old):
                return
        raise StoreError(f"{self.label(name)} is being changed by another writer. Run the same command again.")

    def wipe(self, name: str, data: bytes) -> None:
        self._put(name, data)

    def discard(self, name: str) -> None:
        self.remove([name])

    def clean(self) -> None:
        now = time.time()
        stale = []
        for path, _, modified in self._list():
            found = TEMPORARY.search(path)
            if found and (is_gone(found[1]) or now - modified > STALE_S):
                stale.append(path)
        self.remove(stale)

    def locked(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _list(self, folder: str = "") -> list[tuple[str, int, float]]:
        """(path, size, time) of every object below a folder."""
        with self._explained(folder):
            found = self._obstore.list(self.store, prefix=folder or None, chunk_size=1000)
            return [(item["path"], item["size"], item["last_modified"].timestamp()) for page in found for item in page]

    def _size(self, name: str) -> int | None:
        try:
            with self._explained(name):
                return int(self._obstore.head(self.store, name)["size"])
        except FileNotFoundError:
            return None

    def _checksum(self, name: str) -> str | None:
        digest = hashlib.sha256()
        try:
            with self._explained(name):
                for piece in self._obstore.get(self.store, name).stream(min_chunk_size=1 << 22):
                    digest.update(piece)
        except FileNotFoundError:
            return None
        return digest.hexdigest()

    def _put(self, name: str, data: bytes) -> None:
        with self._explained(name):
            self._obstore.put(self.store, name, data)

    def _put_if(self, name: str, data: bytes, mode: Any) -> bool:
        try:
            with self._explained(name):
                self._obstore.put(self.store, name, data, mode=mode, use_multipart=False)
        except _Taken:
            # The answer to a put that succeeded may have been lost, and the put been sent again.
            with contextlib.suppress(FileNotFoundError):
                return self.read(name, 1 << 40) == data
            return False
        return True

    def _each(self, function: Any, items: Iterable[Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            yield from pool.map(function, items)

    @contextlib.contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except self._taken as error:
            raise _Taken from error
        except self._failures as error:
            raise StoreError(
                f"{self.label(name)}: {_first_line(error)}. What was finished is kept; check the bucket, its endpoint and "
                "the credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...), and run the same command again."
            ) from error


class _Taken(Exception):
    """A conditional put that another writer was before."""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
