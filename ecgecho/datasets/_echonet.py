"""What the EchoNet sets have in common: videos named by a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from ecgecho.datasets import _headers
from ecgecho.datasets._indexing import Reading

SUFFIX = ".avi"
SPLITS = {"train": "train", "val": "val", "test": "test"}


def stems(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """File names without `.avi`."""
    return pc.replace_substring_regex(names, r"(?i)\.avi$", "")


def paths_of(reading: Reading, part: str, names: pa.ChunkedArray, *, listed_apart: bool = True) -> pa.Array:
    """The path of each named video in a part's folder (or that of its table), null where there is none.

    Videos that are not there are a defect; so are, with `listed_apart`, those that the table does not name. Where none is
    there the root is refused.
    """
    there: dict[str, str] = {}
    twice = 0
    for path in reading.walk(part, (SUFFIX,)):
        twice += there.setdefault(PurePosixPath(path).name[: -len(SUFFIX)], path) != path
    wanted = names.to_pylist()
    paths = [there.get(name) for name in wanted]
    missing = len(set(wanted) - set(there))
    if wanted and missing == len(set(wanted)):
        raise reading.refuse(
            f"not one of the {missing} videos of {reading.parts[part].name} is there; unpack them, or fetch the dataset again."
        )
    reading.defect("clips", "missing_file", "listed, not there; left out", missing)
    reading.defect("clips", "file_twice", "two videos of one name; the first folder's is taken", twice)
    if listed_apart:
        reading.defect("clips", "not_listed", "a video that the table does not name; left out", len(set(there) - set(wanted)))
    return pa.array(paths, pa.string())


def splits_of(reading: Reading, part: str, column: str, words: pa.ChunkedArray, known: Mapping[str, str] = SPLITS) -> pa.Array:
    """The split that each word means, in any case; another word is refused, an empty one is the split `none`."""
    found = pc.utf8_lower(pc.fill_null(words, ""))
    rows = pc.index_in(found.combine_chunks(), value_set=pa.array([*known, ""]))
    if rows.null_count:
        row = int(pc.index(pc.is_null(rows), True).as_py())
        raise reading.refuse(
            f"{reading.parts[part].name}: {column} is {words[row].as_py()!r} in data row {row + 1}; "
            f"it must be one of {', '.join(known)}."
        )
    splits = pa.array([*known.values(), "none"]).take(rows)
    reading.defect(part, "split_missing", f"{column} is empty; in no split", pc.sum(pc.equal(splits, "none")).as_py() or 0)
    return splits


def with_headers(reading: Reading, clips: pa.Table, scan: bool) -> pa.Table:
    """Clips whose kind and frames are those of the headers where these are to be read, else B-mode as published."""
    if not scan:
        return clips.append_column("kind", pa.array(["b_mode"] * clips.num_rows, pa.string()))
    paths = clips["path"].to_pylist()
    seen = _headers.scan_clips(reading, paths)
    read = [seen[path] if path in seen and not seen[path]["code"] else None for path in paths]
    frames = [0 if header is None else header["num_frames"] for header in read]
    if "num_frames" in clips.column_names:
        told = clips["num_frames"].to_pylist()
        differ = sum(header is not None and n is not None and n != m for header, n, m in zip(read, told, frames, strict=True))
        reading.defect("clips", "frame_count_differs", "table and video disagree; the video's number is kept", differ)
        clips = clips.drop_columns(["num_frames"])
    kinds: Sequence[str | None] = [None if header is None else header["kind"] for header in read]
    return clips.append_column("kind", pa.array(kinds, pa.string())).append_column("num_frames", pa.array(frames, pa.int32()))
