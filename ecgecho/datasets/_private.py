"""Keys of datasets whose ids are private from the start: where the key lies, and the ids that it makes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from ecgecho import keys
from ecgecho.catalog import IndexOptions
from ecgecho.types import UsageError, UserError

NO_PATIENT = frozenset(
    {"", "0", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "na", "n/a", "test", "patient", "x", "xxx"}
)
"""What de-identification leaves in the place of a patient's id: the same word for everyone is no subject."""


def key_file(named: str, options: IndexOptions, out: Path) -> Path:
    """The key file: `named` in the settings, that of --pseudonymise, or the one beside the catalog."""
    if named and options.pseudonymise and os.path.realpath(named) != os.path.realpath(options.pseudonymise):
        raise UsageError(f"--key is {named} and --pseudonymise {options.pseudonymise}; one key makes all ids of a catalog.")
    return Path(named or options.pseudonymise) if named or options.pseudonymise else keys.beside(out)


def key_of(named: str, options: IndexOptions, out: Path, *, make: bool) -> keys.Key:
    """The key; a new one is made beside a new catalog only."""
    file = key_file(named, options, out)
    if not file.exists():
        if named or options.pseudonymise:
            raise UserError(
                f"there is no key {file}. Give the key file of another catalog (`<catalog>.key`), or leave --key out."
            )
        if (out / "catalog.json").is_file():
            raise UserError(
                f"{file}, the key of the ids in {out}, is gone; another key would give everyone other ids. "
                f"Put it back, give it with --key FILE, or index into another folder."
            )
        if make:
            keys.make(file)
    return keys.read(file)


def subject_of(key: keys.Key, patient: str) -> str:
    """The subject that a patient's id means in every dataset under this key; "" where the word means nobody."""
    return "" if patient.strip().casefold() in NO_PATIENT else key.of("subject", patient.strip())


def hashed(key: keys.Key, kind: str, column: pa.ChunkedArray) -> pa.Array:
    """Ids of a kind, hashed; null stays null."""
    encoded = column.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return pa.array([key.of(kind, word) for word in words], pa.string()).take(encoded.indices)
