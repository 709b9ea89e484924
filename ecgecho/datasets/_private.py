"""Keys of datasets whose ids are private from the start: where the key lies, the ids that it makes, and who is nobody."""

from __future__ import annotations

import os
import re
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho import keys
from ecgecho.catalog import IndexOptions
from ecgecho.types import UsageError, UserError

if TYPE_CHECKING:
    from ecgecho.datasets._indexing import Reading

_WORDS = """
anon anonym anonyme anonymous anonymouspatient anonymized anonymised anonymizedpatient anonimo anonimizado blank
confidential default deid deidentified deidentifiedpatient deleted demo dummy empty hidden id inconnu masked missing
mrn na nan nil noid noname none nopatient nopatientid notapplicable notavailable notspecified null patient patientid
pid private redacted removed sample tbd temp test testpatient unassigned unbekannt undefined unidentified unknown
unknownpatient unspecified
"""
NO_PATIENT = frozenset(_WORDS.split())
"""What de-identification leaves in the place of a patient's id, without signs: the same word for everyone is no subject."""
LEADING_ZEROS = "ids that differ only in the zeros before a number; taken as one person"
MANY_STUDIES, MANY_ECGS = 50, 300
"""More of one patient are hardly of one patient."""


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


def is_nobody(patient: str) -> bool:
    """Whether an id is no patient's: a known word whatever its case and signs (DE-IDENTIFIED, ANONYMOUS^, No ID), or one sign
    over and over (0, 00000000, XXX, 9999999). A word with a number (ANON0017) and a single letter or digit are somebody.
    """
    word = re.sub(r"[\W_]+", "", patient.casefold())
    same = len(set(word)) <= 1 and (len(word) >= 4 or set(word) <= {"0", "x"})
    return same or word in NO_PATIENT


def written(patient: str) -> str:
    """A patient's id as it is hashed: a number without the zeros before it (MUSE pads numbers with them, a DICOM does not)."""
    word = patient.strip()
    return word.lstrip("0") or "0" if word.isascii() and word.isdigit() else word


def subject_of(key: keys.Key, patient: str) -> str:
    """The subject that a patient's id means in every dataset under this key; "" where the word means nobody."""
    return "" if is_nobody(patient) else key.of("subject", written(patient))


def note_crowds(reading: Reading, clips: pa.Table | None, ecgs: pa.Table | None) -> None:
    """A defect where one id has so many studies or ECGs that it may be a word for everyone, which `is_nobody` does not know."""
    for table, column, most, what in ((clips, "study_id", MANY_STUDIES, "studies"), (ecgs, "ecg_id", MANY_ECGS, "ECGs")):
        if table is not None and table.num_rows:
            counts = table.group_by("subject_id", use_threads=False).aggregate([(column, "count_distinct")])
            many = pc.sum(pc.greater(counts[f"{column}_count_distinct"], most)).as_py()
            reading.defect("subjects", "crowded_id", f"more than {most} {what} under one id: is it a placeholder?", many)


def one_each(rows: pa.Table, keys: tuple[str, ...], value: str) -> tuple[pa.Array, tuple[int, int] | None]:
    """The rows that are the first with their `value` under their `keys` (null is a key too), and, where two different values
    stand under one key, the first two rows that contradict each other.
    """
    codes = rows[value].combine_chunks().dictionary_encode().indices
    numbered = rows.select(keys).append_column("code", codes).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    groups = numbered.group_by(list(keys), use_threads=False).aggregate([("code", "min"), ("code", "max"), ("row", "min")])
    kept = groups["row_min"].combine_chunks().sort()
    clash = groups.filter(pc.not_equal(groups["code_min"], groups["code_max"]))
    if not clash.num_rows:
        return kept, None
    first = pc.min(clash["row_min"]).as_py()
    mine = (rows[name][first].as_py() for name in keys)
    same = reduce(
        pc.and_, (pc.is_null(rows[name]) if v is None else pc.equal(rows[name], v) for name, v in zip(keys, mine, strict=True))
    )
    other = pc.and_(pc.fill_null(same, False), pc.not_equal(codes, codes[first]))
    return kept, (first, int(pc.index(other, True).as_py()))


def check_slashes(place: Path, paths: pa.ChunkedArray) -> None:
    """Refuse the paths of Windows: here `ecg\\one.hea` is a file of that name."""
    bad = pc.match_substring(paths, "\\")
    if (row := int(pc.index(bad, True).as_py())) >= 0:
        number = int(pc.sum(bad).as_py())
        raise UserError(
            f"{place}: path in data row {row + 1} holds a \\; write / in paths ({number} such row{'s' * (number > 1)})."
        )


def views(reading: Reading, rows: pa.Table) -> pa.Table:
    """The rows path, view of a table of views, each path once; two views of one path are refused."""
    check_slashes(reading.parts["views"], rows["path"])
    kept, clash = one_each(rows, ("path",), "view")
    if clash:
        a, b = (row + 1 for row in clash)
        raise UserError(f"{reading.parts['views']}: data rows {a} and {b} give one path two views; keep the right one.")
    reading.defect("views", "row_twice", "the same path and view; kept once", rows.num_rows - len(kept))
    return rows.take(kept)


def hashed(key: keys.Key, kind: str, column: pa.ChunkedArray) -> pa.Array:
    """Ids of a kind, hashed; null stays null."""
    encoded = column.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return pa.array([key.of(kind, word) for word in words], pa.string()).take(encoded.indices)
