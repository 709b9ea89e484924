"""CSV tables of a published dataset: found by what they are called, read as text by column name, refused with file and column.

Names of files and columns are compared without case, separators and `.gz`. Column order plays no part and further columns
are ignored. Every value stays a string here (ids keep their zeros); an empty field is null.
"""

from __future__ import annotations

import csv
import fnmatch
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ecgecho.catalog import SCHEMAS, conform, nearest
from ecgecho.types import Json, UserError

MAX_DEPTH = 3  # folders below ROOT, e.g. mimiciv/3.1/hosp
HASHED_BYTES = 16 << 20  # tables up to this size are known by their bytes, larger ones by size and time
MAX_HEADER_BYTES = 1 << 20
WORD = pa.dictionary(pa.int32(), pa.string())
BLOCK_BYTES = 64 << 20  # of text; a row (a clinical note) must fit into one

SEPARATORS = {",": "','", ";": "';'", "\t": "tabs"}

_PATTERN = re.compile(r"[*\[]")
# Folders that hold a file or a folder per recording or patient: listing them would take minutes and finds no table.
_CROWDED = re.compile(r"^(p\d+|s\d{6,}|\..*|.*\.zarr|__MACOSX)$")


def find_parts(root: Path, parts: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """For each part the one table, file or folder with one of its names, at most MAX_DEPTH folders below `root`.

    A name that ends in / is a folder's; one with * is a pattern, and the part is the folder that holds such files (or, where
    it ends in /, such folders). Of a name or pattern that begins with **/ there may be several, in several folders: the part
    is the folder that holds them all. A table may be named with the folder that it lies in ("A4C/FileList.csv"). Two
    candidates for one part are a UserError that names both: two copies, or two versions, of one dataset.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the dataset.")
    given = [(part, name) for part, several in parts.items() for name in several]
    gathered = {part for part, name in given if name.startswith("**/")}
    names = [(part, name.removeprefix("**/")) for part, name in given]
    tables = {(name.rpartition("/")[0].lower(), plain_name(name)): part for part, name in names if name.endswith(".csv")}
    files = {name.lower(): part for part, name in names if not name.endswith((".csv", "/")) and not _PATTERN.search(name)}
    folders = {name[:-1].lower(): part for part, name in names if name.endswith("/") and not _PATTERN.search(name)}
    patterns = [(name.lower(), part) for part, name in names if _PATTERN.search(name)]
    found: dict[str, list[Path]] = {}
    for place, below, inside in os.walk(root, followlinks=True):
        here = Path(place)
        for name in below:
            if name.lower() in folders:
                found.setdefault(folders[name.lower()], []).append(here / name)
            for pattern, part in patterns:
                if fnmatch.fnmatch(f"{name.lower()}/", pattern) and here not in found.get(part, ()):
                    found.setdefault(part, []).append(here)
        deep = len(here.relative_to(root).parts) >= MAX_DEPTH
        held = {name for name in below for pattern, _ in patterns if fnmatch.fnmatch(f"{name.lower()}/", pattern)}
        below[:] = (
            [] if deep else sorted(n for n in below if not _CROWDED.match(n) and n.lower() not in folders and n not in held)
        )
        for name in sorted(inside):
            lower = name.lower()
            if name.startswith("."):
                continue
            table = [t for t in (("", plain_name(name)), (here.name.lower(), plain_name(name))) if t in tables]
            if lower.endswith((".csv", ".csv.gz")) and table:
                for key in table:
                    found.setdefault(tables[key], []).append(here / name)
            elif lower in files:
                found.setdefault(files[lower], []).append(here / name)
            for pattern, part in patterns:
                if fnmatch.fnmatch(lower, pattern) and here not in found.get(part, ()):
                    found.setdefault(part, []).append(here)
    for part, paths in found.items():
        if part in gathered:
            paths[:] = [Path(os.path.commonpath(paths))]
        if len(paths) > 1:
            both = " and ".join(str(path) for path in paths[:4])
            raise UserError(f"two candidates for the part {part!r}: {both}. Keep one below {root}, or give a narrower ROOT.")
    return {part: found[part][0] for part in parts if part in found}


def plain_name(name: str) -> str:
    """A file name without folder, case, separators and endings: `Structured-Measurements.csv.gz` -> `structuredmeasurements`."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"(\.csv)?(\.gz)?$", "", Path(name).name.lower()))


def fingerprint(path: Path) -> Json:
    """What a table was when it was read: size, and its hash where it is small, else its time."""
    stat = path.stat()
    if path.is_dir():
        return {}
    if stat.st_size > HASHED_BYTES:
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return {"size": stat.st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def listing(root: Path, paths: Iterable[str]) -> Json:
    """What files were when they were read: how many, and a hash of their names, sizes and times."""
    digest, number = hashlib.sha256(), 0
    for path in paths:
        try:
            stat = (root / path).stat()
        except OSError:
            continue
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        number += 1
    return {"number": number, "sha256": digest.hexdigest()}


def header_of(path: Path, *, delimiter: str = ",", encoding: str = "utf-8", own: bool = False) -> list[str]:
    """The column names of a table; `own` as in `read_table`."""
    try:
        with _open(path) as stream:
            first = stream.readline(MAX_HEADER_BYTES)
        text = first.decode("utf-8-sig" if encoding == "utf-8" else encoding)
        names = next(csv.reader([text], delimiter=delimiter), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error, own) from error
    if not names:
        raise UserError(f"{path} is empty; {'give it a header, or take it away' if own else 'fetch it again'}.")
    return names


def read_table(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    words: Sequence[str] = (),
    delimiter: str = ",",
    encoding: str = "utf-8",
    quoted_lines: bool = False,
    own: bool = False,
) -> pa.Table:
    """The columns named, as trimmed strings; an optional one that the file lacks is null. A table without rows is refused.

    With `quoted_lines` a quoted field may hold line breaks. Those of `words` come as dictionaries in one chunk: few distinct
    values in millions of rows take four bytes each. One that is the user's `own` may have no rows, and is said to be mended
    where another is to be fetched again.
    """
    names = _file_names(path, required, optional, delimiter, encoding, own)
    options = _options(names, quoted_lines=quoted_lines, delimiter=delimiter, encoding=encoding, words=words)
    options["read_options"].use_threads = not own  # one thread knows the number of a bad row
    try:
        table = arrow_csv.read_csv(_source(path), **options)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise _unreadable(path, error, own) from error
    if not table.num_rows and not own:
        raise _no_rows(path)
    return _renamed(table, names, (*required, *optional), words)


def stream_table(path: Path, required: Sequence[str]) -> Iterator[pa.Table]:
    """`read_table` block by block, for fields that hold line breaks and for tables that exceed the memory."""
    names, number = _file_names(path, required, ()), 0
    try:
        with arrow_csv.open_csv(_source(path), **_options(names, quoted_lines=True)) as reader:
            for batch in reader:
                number += batch.num_rows
                yield _renamed(pa.Table.from_batches([batch]), names, tuple(required))
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    if not number:
        raise _no_rows(path)


def require(table: pa.Table, columns: Sequence[str], path: Path) -> pa.Table:
    """`table`, where no row lacks one of `columns`."""
    for name in columns:
        missing = pc.is_null(table[name])
        if (row := int(pc.index(missing, True).as_py())) >= 0:
            raise UserError(f"{path}: column {name!r} is empty in data row {row + 1} ({int(pc.sum(missing).as_py())} such rows).")
    return table


def once(rows: pa.Table, key: str, path: Path) -> tuple[pa.Table, int]:
    """`rows` without repeats of the same row, and how many those were; one `key` for two different rows is a UserError."""
    rows = rows.combine_chunks()
    ids = codes(rows[key])
    kept, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    if len(kept) == len(ids):
        return rows, 0
    twin = pa.array(first[inverse])
    for name in rows.column_names:
        column = rows[name].combine_chunks()
        if isinstance(column, pa.DictionaryArray):
            column = column.indices
        other = column.take(twin)
        differs = pc.or_(pc.fill_null(pc.not_equal(column, other), False), pc.xor(column.is_null(), other.is_null()))
        if (row := int(pc.index(differs, True).as_py())) >= 0:
            raise UserError(
                f"{path}: {key} {rows[key][row]} stands twice with different {name!r}; two versions may be mixed. Fetch it again."
            )
    return rows.take(pa.array(np.sort(first))), len(ids) - len(kept)


def codes(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Equal numbers for equal ids."""
    return np.asarray(ids.combine_chunks().dictionary_encode().indices, np.int64)


def below(root: Path, place: Path, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths beside a table, or inside a folder, -> paths below the root."""
    bad = pc.match_substring_regex(paths, r"^[/\\]|(^|[/\\])\.\.([/\\]|$)")
    if (row := int(pc.index(bad, True).as_py())) >= 0:
        raise UserError(
            f"{place}: the path {paths[row].as_py()!r} in data row {row + 1} leaves the folder of the table. Fetch it again."
        )
    folder = (place if place.is_dir() else place.parent).relative_to(root).as_posix()
    return paths if folder == "." else pc.binary_join_element_wise(folder, paths, "/")


def label_rows(
    name: str,
    value: Any,
    *,
    subject_id: pa.ChunkedArray | pa.Array,
    unit: str | None,
    source: str,
    definition: str | pa.ChunkedArray | pa.Array,
    ecg_id: pa.ChunkedArray | pa.Array | None = None,
    study_id: pa.ChunkedArray | pa.Array | None = None,
    time: pa.ChunkedArray | pa.Array | None = None,
) -> pa.Table:
    """Rows of the labels table, one for each value that is not null; `value` is an array of numbers."""
    values = (value if isinstance(value, (pa.Array, pa.ChunkedArray)) else pa.array(value)).cast(pa.float64())
    n = len(values)
    empty = pa.nulls(n, pa.string())
    rows = pa.table(
        {
            "subject_id": subject_id,
            "study_id": empty if study_id is None else study_id,
            "ecg_id": empty if ecg_id is None else ecg_id,
            "time": pa.nulls(n, pa.timestamp("us")) if time is None else time,
            "name": constant(name, n),
            "value": values,
            "unit": pa.nulls(n, SCHEMAS["labels"].field("unit").type) if unit is None else constant(unit, n),
            "source": constant(source, n),
            "definition": constant(definition, n) if isinstance(definition, str) else definition.cast(pa.string()),
        }
    )
    return conform("labels", rows.filter(pc.is_finite(pc.fill_null(rows["value"], float("nan")))), f"labels {name}")


def times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates with or without a time of day -> timestamps; null where it is neither."""
    text = pc.replace_substring_regex(column, r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(\.\d+)?Z?$", r"\1 \2\3")
    whole = pc.strptime(text, format="%Y-%m-%d %H:%M:%S", unit="us", error_is_null=True)
    if whole.null_count == column.null_count:
        return whole
    minutes = pc.strptime(text, format="%Y-%m-%d %H:%M", unit="us", error_is_null=True)
    return pc.coalesce(whole, minutes, pc.strptime(text, format="%Y-%m-%d", unit="us", error_is_null=True))


def numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text -> double, with a percent sign allowed; null where it is not one plain number."""
    match = pc.match_substring_regex(column, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?\s*%?$")
    bare = pc.replace_substring_regex(pc.if_else(match, column, pa.scalar(None, pa.string())), r"\s*%$", "")
    return pc.replace_substring_regex(bare, r"^\+", "").cast(pa.float64())


def constant(value: str, length: int) -> pa.DictionaryArray:
    """One word, `length` times, in four bytes each."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), length), pa.array([value]))


def _file_names(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str],
    delimiter: str = ",",
    encoding: str = "utf-8",
    own: bool = False,
) -> dict[str, str]:
    """For each wanted column that is there, its name in the file."""
    there = header_of(path, delimiter=delimiter, encoding=encoding, own=own)
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in there}
    if len(plain) < len(there):
        twice = next((name for name in there if there.count(name) > 1), "")
        if twice in (*required, *optional):
            raise UserError(f"{path} has the column {twice!r} twice; {'keep one' if own else 'fetch it again'}.")
    names = {}
    for name in (*required, *optional):
        if (key := re.sub(r"[^a-z0-9]", "", name.lower())) in plain:
            names[name] = plain[key]
        elif name in required:
            if other := _separator(there, key, delimiter):
                advice = f"Save it separated by {SEPARATORS[delimiter]}, with decimal points." if own else "Fetch it again."
                raise UserError(f"{path} is separated by {other}, not by {SEPARATORS[delimiter]}. {advice}")
            raise UserError(f"{path} has no column {name!r}.{nearest(name, there)}")
    return names


def _separator(there: Sequence[str], key: str, delimiter: str) -> str:
    """What separates the columns of a header in truth, where with that it has the one that is missed; else empty."""
    for other, word in SEPARATORS.items():
        names = next(csv.reader([delimiter.join(there)], delimiter=other), [])
        if key and other != delimiter and len(names) > 1 and key in (re.sub(r"[^a-z0-9]", "", name.lower()) for name in names):
            return word
    return ""


def _options(
    names: Mapping[str, str],
    *,
    quoted_lines: bool,
    delimiter: str = ",",
    encoding: str = "utf-8",
    words: Sequence[str] = (),
) -> Json:
    columns = list(dict.fromkeys(names.values()))
    encoded = {names[name] for name in words if name in names}
    return {
        "read_options": arrow_csv.ReadOptions(block_size=BLOCK_BYTES, encoding=encoding),
        "parse_options": arrow_csv.ParseOptions(newlines_in_values=quoted_lines, delimiter=delimiter),
        "convert_options": arrow_csv.ConvertOptions(
            column_types={name: WORD if name in encoded else pa.string() for name in columns},
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    }


def _renamed(table: pa.Table, names: Mapping[str, str], order: Sequence[str], words: Sequence[str] = ()) -> pa.Table:
    made = {}
    for name in order:
        if name not in names:
            kind = WORD if name in words else pa.string()
            made[name] = pa.chunked_array([pa.nulls(table.num_rows, kind)], kind)
        else:
            made[name] = (_trimmed_words if name in words else _trimmed)(table[names[name]])
    return pa.table(made)


def _trimmed_words(column: pa.ChunkedArray) -> pa.DictionaryArray:
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of an empty table
        whole = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], pa.string()))
    trimmed = _trimmed(whole.dictionary).dictionary_encode()
    return pa.DictionaryArray.from_arrays(trimmed.indices.take(whole.indices), trimmed.dictionary)


def _trimmed(column: pa.ChunkedArray | pa.Array) -> Any:
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(pc.binary_length(text), 0), pa.scalar(None, pa.string()), text)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def _source(path: Path) -> Any:
    return pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None)


def _no_rows(path: Path) -> UserError:
    return UserError(f"{path} has a header and no rows; fetch it again.")


def _unreadable(path: Path, error: BaseException, own: bool = False) -> UserError:
    why = _why(error)
    if "Empty CSV" in str(error):  # a header without the end of its line
        return UserError(f"{path} has a header and no rows; write them, or take it away.") if own else _no_rows(path)
    if not own:
        advice = "Fetch it again."
    elif "UTF-8" in why:
        advice = "Save it as UTF-8."
    elif "columns" in why:
        advice = "Quote the field that holds a separator, or give the row all its columns."
    else:
        advice = "Save it again."
    return UserError(f"{path} cannot be read: {why}. {advice}")


def _why(error: BaseException) -> str:
    text = str(error)
    if "invalid UTF8" in text or isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, (EOFError, zlib.error)) or "zlib" in text or "Truncated" in text or "gzip" in text.lower():
        return "its compressed data is damaged or cut off"
    # The rest of Arrow's message quotes the row, maybe a patient's text. It counts the header as a row.
    if widths := re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", text):
        row = f"data row {int(widths[1]) - 1}" if widths[1] else "a row"
        return f"{row} has {widths[3]} columns, the header has {widths[2]}"
    return type(error).__name__ if "CSV" in text else text.partition("\n")[0].rstrip(".")
