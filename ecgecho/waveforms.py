"""What only the signals tell: every ECG of a catalog is read once, and what was found joins its table of defects.

Missing samples, flat and clipped leads, voltages that cannot be, leads that contradict Einthoven and Goldberger. The look is
resumable: what was seen is remembered beside the tables, by file, size and time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ecgecho import catalog
from ecgecho.catalog import Catalog, Progress
from ecgecho.decode import EcgTask, ecg_files, look_at_ecg, source_tag
from ecgecho.io.scan import File, files_at, scan
from ecgecho.types import Json

ITEM = "waveforms"


def look(found: Catalog, *, workers: int, progress: Progress | None = None) -> Catalog:
    """The catalog with the defects of all its waveforms."""
    sources = found.ecg_sources(found.ecgs)
    ids, paths = found.ecgs["ecg_id"].to_pylist(), found.ecgs["path"].to_pylist()
    names = {path: _on_disk(found, path) for path in dict.fromkeys(paths)}
    there = {
        file.path: file for file in files_at(found.root, dict.fromkeys(name for several in names.values() for name in several))[0]
    }
    files, tasks = [], {}
    missing = 0
    for ecg_id, path in zip(ids, paths, strict=True):
        *beside, place = (there.get(name) for name in names[path])
        if place is None:
            missing += 1
            continue
        headers = " ".join(f"{file.size}:{file.mtime_ns}" for file in beside if file is not None)
        which = " ".join(filter(None, (ecg_id, source_tag(sources.get(ecg_id)), headers)))
        file = File(path=place.path, size=place.size, mtime_ns=place.mtime_ns, which=which)
        files.append(file)
        tasks[file.key] = EcgTask(path=str(found.file(path)), contract=None, source=sources.get(ecg_id))
    memory = found.path / catalog.WAVEFORMS
    seen = scan(
        found.root,
        files,
        _look,
        memory=[memory],
        task_of=lambda file: tasks[file.key],
        workers=workers,
        progress=None if progress is None else lambda done, total: progress(ITEM, done, total),
    )
    fresh = memory.with_name(f".{memory.name}.new")
    fresh.write_bytes(seen.lines)  # of files that are gone, nothing is remembered
    os.replace(fresh, memory)
    count: Counter[tuple[str, str]] = Counter()
    for codes in seen.seen.values():
        count.update((code, "of the signals read") for code in codes["defects"])
    count.update({(code, "cannot be read"): number for code, number in seen.failures().items()})
    count["missing_file", "listed, not there"] += missing
    rows = [(code, detail, number) for (code, detail), number in sorted(count.items())]
    faulty = sum(bool(codes["defects"]) for codes in seen.seen.values())
    facts = {"read": len(seen.seen), "of": len(ids), "with_defects": faulty}
    return catalog.replace_defects(found, ITEM, rows, facts)


def note(found: Catalog, codes: Mapping[str, int]) -> Catalog:
    """The catalog with the defects that a cache job met, unless a look at all waveforms has told more."""
    if found.meta.get(ITEM):
        return found
    return catalog.replace_defects(
        found, ITEM, [(code, "of the signals cached", number) for code, number in sorted(codes.items())]
    )


def _look(task: EcgTask) -> Json:
    return {"defects": look_at_ecg(task)}


def _on_disk(found: Catalog, path: str) -> list[str]:
    """The files of a recording, relative to the root; the last one holds the samples."""
    return [Path(file).relative_to(found.root).as_posix() for file in ecg_files(str(found.file(path)))]
