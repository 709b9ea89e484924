"""Keys of ids that may not be public: a file that only its owner reads, and keyed hashes made with it.

A catalog's key lies beside it (`<catalog>.key`) or where the user says. With it are made the ids of a folder of private files,
and the hashes by which a store remembers who was erased from it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from ecgecho.types import UserError

KEY_BYTES = 32
MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 4096
ID_CHARS = 32  # 128 bits of the hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Keyed hashes. What kind of thing is hashed is part of the hash."""

    key: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Tells two keys apart and says nothing of them."""
        return self.of("key", "id")[:16]

    def of(self, kind: str, value: str) -> str:
        """The hash of a thing of a kind."""
        message = kind.encode() + b"\0" + value.encode(errors="surrogateescape")
        return hmac.new(self.key, message, hashlib.sha256).hexdigest()[:ID_CHARS]


def beside(catalog: Path) -> Path:
    """Where the key of a catalog lies unless the user says otherwise."""
    return catalog.with_name(f"{catalog.name}.key")


def make(path: Path) -> None:
    """A new key in a file that only its owner reads; written beside and linked, so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(new, path)  # fails where another process was first: its key is used
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def read(path: Path) -> Key:
    """The key in a file; refused when others may read it, or when it is too short to be one."""
    try:
        stat = path.stat()
        key = path.read_bytes().strip() if stat.st_size <= MAX_KEY_BYTES else b""
    except OSError as error:
        raise UserError(f"the key {path} cannot be read: {error.strerror}.") from error
    if stat.st_mode & 0o077:
        raise UserError(f"the key {path} can be read by others (mode {stat.st_mode & 0o777:o}); run: chmod 600 {path}")
    if len(key) < MIN_KEY_BYTES:
        raise UserError(
            f"the key {path} is shorter than {MIN_KEY_BYTES} or longer than {MAX_KEY_BYTES} bytes; give another --key."
        )
    return Key(key=key)
