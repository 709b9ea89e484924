"""Recordings in HDF5: one array of many, or one. Shapes: N recordings, C leads, L samples.

The array is `tracings` (CODE-15 %: (N, 4096, 12) float32), the one that the file beside it names under "dataset", or the only
one of numbers with 2 to 4 axes. No link is followed out of the file, no array that lies in another file is read, and no
filter is loaded: only the compressions that HDF5 itself has. Zeros in all leads at both ends are padding and are cut off.

Codes of "failed": those of arrays.py, and outside_link, no_array, several_arrays, no_such_array, only_padding.
Defects of a record that was read: zero_padding_trimmed, excerpt_short.
Source of the layout: CODE-15 %, Zenodo 4916206.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecgecho.io.arrays import MAX_FILE_BYTES, check_numbers, recording_of
from ecgecho.io.excerpt import samples_of
from ecgecho.io.files import size_of
from ecgecho.io.sidecar import record_of, said_of
from ecgecho.types import EcgRecord, EcgSource, ItemError

TRACINGS = "tracings"
MAX_CHUNK_BYTES = 1 << 29
"""What a compressed file must unpack at once to give one recording; 510 MB of shuffled noise were read within 1 GiB."""
MAX_VALUES = 1 << 26
"""Of one recording, read whole so that its padding is found: 9 minutes of 12 leads at 10 kHz. What was never written in a file
still takes memory when it is read."""
MAX_NODES = 4096
OWN_FILTERS = frozenset([1, 2, 3, 4, 5, 6, 32000])
"""deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and lzf, which h5py itself holds; any other number is a plug-in."""
MAX_FILTERS = 32


def read(path: Path, source: EcgSource | None = None) -> EcgRecord:
    """One recording of an HDF5 file."""
    size_of(path, most=MAX_FILE_BYTES)
    said = said_of(path, source)
    try:
        values = _values(path, source, said)
    except (ItemError, MemoryError):
        raise
    except Exception as err:  # whatever the library makes of hostile bytes
        raise ItemError("undecodable", f"{path.name}: {type(err).__name__}") from err
    assert said.fs_hz is not None
    there = np.flatnonzero((values != 0).any(axis=0))
    if not len(there):
        raise ItemError("only_padding", f"{path.name}: this recording holds zeros only")
    first, last = int(there[0]), int(there[-1]) + 1
    trimmed = ("zero_padding_trimmed",) if last - first < values.shape[1] else ()
    start, stop, defects = samples_of(source, said.fs_hz, last - first, path.name)
    return record_of(values[:, first + start : first + stop], said, path.name, (*trimmed, *defects))


def _values(path: Path, source: EcgSource | None, said: Any) -> npt.NDArray[Any]:
    """(C, L) of the whole recording: an excerpt is one of what remains without the padding."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        dataset = _dataset(file, said.dataset, path.name)
        check_numbers(dataset.dtype, path.name)
        _check_storage(dataset, path.name)
        if dataset.ndim > 1 and int(dataset.shape[-1]) * int(dataset.shape[-2]) > MAX_VALUES:
            raise ItemError("too_large", f"{path.name}: recordings of shape {dataset.shape[-2:]} are more than a reader takes")
        whole = None if source is None else replace(source, start_s=0.0, duration_s=None)
        values, _ = recording_of(dataset, said, whole, path.name)
    return values


def _dataset(file: Any, wanted: str, name: str) -> Any:
    import h5py

    if wanted:
        node = file
        for word in wanted.strip("/").split("/"):
            node = _inside(node, word, name) if isinstance(node, h5py.Group) else None
            if node is None:
                raise ItemError("no_such_array", f"{name} holds no array {wanted!r}")
    elif TRACINGS in file:
        node = _inside(file, TRACINGS, name)
    else:
        found = _arrays(file, name)
        if len(found) != 1:
            shown = ", ".join(repr(key) for key in sorted(found)[:4])
            code, words = (
                ("several_arrays", f"holds the arrays {shown}; name one") if found else ("no_array", "holds no recording")
            )
            raise ItemError(code, f'{name} {words} under "dataset" in the file beside it')
        (node,) = found.values()
    if not isinstance(node, h5py.Dataset):
        raise ItemError("no_such_array", f"{name}: {wanted or TRACINGS!r} is no array")
    return node


def _inside(group: Any, word: str, name: str) -> Any:
    """A member of a group, None where there is none; a link is refused."""
    import h5py

    link = group.get(word, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise ItemError("outside_link", f"{name}: {word!r} is a link; links are never followed")
    return None if link is None else group[word]


def _arrays(file: Any, name: str) -> dict[str, Any]:
    """The arrays of numbers with 2 to 4 axes at the top of the file."""
    import h5py

    found = {}
    for count, word in enumerate(file):
        if count >= MAX_NODES:
            raise ItemError("several_arrays", f"{name} holds more than {MAX_NODES} things")
        if isinstance(file.get(word, getlink=True), h5py.HardLink):
            node = file[word]
            if isinstance(node, h5py.Dataset) and node.ndim in (2, 3, 4) and node.dtype.kind in "iuf":
                found[word] = node
    return found


def _check_storage(dataset: Any, name: str) -> None:
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual or plist.get_external_count():
        raise ItemError("outside_link", f"{name} has its values in another file; links are never followed")
    number = plist.get_nfilters()
    filters = [plist.get_filter(k)[0] for k in range(min(number, MAX_FILTERS))]
    if number > MAX_FILTERS or not OWN_FILTERS.issuperset(filters):
        raise ItemError("unsupported_format", f"{name} is compressed by the plug-ins {filters[:4]}, which are never loaded")
    if dataset.chunks is not None and number:  # of others HDF5 reads what is asked for
        size = int(np.prod([int(n) for n in dataset.chunks], dtype=object)) * dataset.dtype.itemsize
        if size > MAX_CHUNK_BYTES:
            raise ItemError("too_large", f"{name} unpacks {size} bytes for one recording, more than {MAX_CHUNK_BYTES}")
