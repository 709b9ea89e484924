"""`ecgecho store ...`: look at stores, check, compare, convert them, forget a subject. Thin, and as fast to start as cli.py."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ecgecho.terminal import AsJson, ProgressBar, address, close, quoted, say, usage

if TYPE_CHECKING:
    from ecgecho.catalog import Catalog
    from ecgecho.foreign import Item

app = typer.Typer(
    help="Look at a store, check it, convert it, compare two, or erase a subject.", rich_markup_mode=None, no_args_is_help=True
)

Store = Annotated[Path, typer.Argument(help="A folder, or s3://bucket/prefix, gs://bucket/prefix.")]
STATUSES = ("ok", "excluded", "failed")


@app.command("verify")
def store_verify(store: Store, as_json: AsJson = False) -> None:
    """Read every byte of a store again and compare it with its checksums; names the damaged rows."""
    import embed_cache

    report = embed_cache.verify(store)
    damaged: list[dict[str, Any]] = [
        {"file": d.path, "problem": d.problem, "rows": d.rows and [d.rows.start, d.rows.stop], "ids": list(d.ids)}
        for d in report.damages
    ]
    if as_json:
        told = {
            "ok": report.ok,
            "files": report.num_files,
            "bytes": report.num_bytes,
            "damages": damaged,
            "open_segment": report.open_segment,
        }
        print(json.dumps({**told, "unlisted": list(report.unlisted)}, indent=1))
        raise typer.Exit(0 if report.ok else 1)
    for d in damaged:
        print(f"damaged: {d['file']}: {d['problem']}{_rows(d['rows'], d['ids'])}")
    for name in report.unlisted:
        print(f"not of this store: {name}")
    if report.open_segment is not None:
        print(f"segment {report.open_segment} is not finished; the command that made the store goes on with it.")
    whole = "whole" if report.ok else "DAMAGED"
    print(f"{whole}: {report.num_files} files, {report.num_bytes / 1e6:.1f} MB read in {address(store)}")
    if damaged:
        print(f"next: ecgecho store repair {quoted(store)}")
    raise typer.Exit(0 if report.ok else 1)


def _rows(span: Sequence[int] | None, ids: Sequence[str]) -> str:
    if span is None:
        return ""
    return f", rows {span[0]} to {span[1] - 1}: {_some(ids, span[1] - span[0]) if ids else 'ids unknown, they are damaged too'}"


@app.command("info")
def store_info(
    store: Store,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", help="Its catalog: counts by view, and what is not cached.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a store holds, what made it, and how many rows there are of each status, view and reason."""
    import embed_cache
    from ecgecho import catalog as tables

    read = tables.read(catalog) if catalog is not None else None
    found = embed_cache.info(store)
    found["coverage"] = _coverage(store, found, read)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print("\n".join(_info_lines(found, read)))


@app.command("diff")
def store_diff(
    a: Annotated[Path, typer.Argument(help="A store.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """What differs between the live rows of two stores. Exit status 0: nothing; 1: something, or a store cannot be read."""
    from ecgecho.difference import difference

    with ProgressBar("diff", "rows") as bar:
        found = difference(a, b, progress=bar)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        raise typer.Exit(0 if found.equal else 1)
    for name, (left, right) in found.schema.items():
        print(f"{name}: {_shown(left)} in A, {_shown(right)} in B")
    for name, some in (("only in A", found.only_a), ("only in B", found.only_b)):
        if some.count:
            print(f"{name}: {some.count} rows: {_some(some.examples, some.count)}")
    for name, some in found.index.items():
        print(f"other {name}: {some.count} rows: {_some(some.examples, some.count)}")
    for name, column in found.columns.items():
        apart = (
            f"at most {column.max_abs:.4g} apart ({column.max_abs_row}), cosine distance at most {column.max_cosine_distance:.3g}"
        )
        lengths = f"; {column.other_length} of another length" if column.other_length else ""
        print(f"other {name}: {column.rows.count} rows, {apart}{lengths}: {_some(column.rows.examples, column.rows.count)}")
    same = "the same content" if found.content_hash[0] == found.content_hash[1] else "equal rows in other places"
    told = same if found.equal else "DIFFERENT"
    print(f"{told}: A {address(a)} with {found.rows[0]} rows, B {address(b)} with {found.rows[1]} rows")
    raise typer.Exit(0 if found.equal else 1)


@app.command("export")
def store_export(
    store: Store,
    out: Annotated[Path, typer.Option("--out", help="A file ending in .h5 or .safetensors, or a folder for a file a study.")],
    to: Annotated[str, typer.Option("--to", help="hdf5, safetensors, studies, or auto (by the ending of --out).")] = "auto",
    contains_text: Annotated[bool, typer.Option("--contains-text", help="The copy may hold patients' words.")] = False,
) -> None:
    """Write the rows of a store as HDF5, as safetensors, or as one safetensors file a study, for other programs."""
    from ecgecho.export import export

    with ProgressBar("store export", "rows") as bar:
        report = export(store, out, to, contains_text=contains_text, progress=bar)
    counts = {**report.by_status, "files": report.num_files, "megabytes": round(report.num_bytes / 1e6, 1), "to": report.to}
    if report.replaced:
        print(f"replaced an older export of this store at {out}")
    back = out.with_name(out.name.removesuffix(out.suffix) + "_copy.zarr")
    extra = {"content_hash": report.content_hash}
    close("store export", out, counts, 0, bar.seconds, f"ecgecho store import {quoted(out)} --out {quoted(back)}", extra=extra)


@app.command("import")
def store_import(
    source: Annotated[Path, typer.Argument(help="A folder of .npy, .npz, .pt, .h5 or .safetensors files, or an export.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make or go on with.")],
    teacher_name: Annotated[str, typer.Option(help="Which model made the embeddings; kept as your statement.")] = "",
    frame_norm: Annotated[str, typer.Option(help="l2: frame vectors become unit vectors first; or none.")] = "none",
    weights_sha256: Annotated[str, typer.Option(help="SHA-256 of that model's weights, where you know it.")] = "",
    licence: Annotated[str, typer.Option(help="What the model's licence allows; kept with the rows.")] = "",
    table: Annotated[Path | None, typer.Option("--table", help="CSV with the columns id, study, path.")] = None,
    separator: Annotated[str, typer.Option(help="The study is what stands before the last one in a file's name.")] = "",
    catalog: Annotated[Path | None, typer.Option("--catalog", help="Take the study of each clip from a catalog.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Key file of the catalog, where it does not lie beside it.")] = None,
    array: Annotated[str, typer.Option(help="Which array, where files hold several.")] = "",
    part_rows: Annotated[int | None, typer.Option("--part-rows", min=1, help="Rows of a part (default: by the size).")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read files.")] = 1,
    repair: Annotated[bool, typer.Option("--repair", help="Verify the store first; read again what is damaged.")] = False,
) -> None:
    """Turn embeddings that you already have, or an export, into a store; the same command again adds, heals and resumes."""
    import embed_cache
    from ecgecho import convert, foreign
    from ecgecho.exchange import about_of

    norms: dict[str, Literal["l2", "none"]] = {"l2": "l2", "none": "none"}
    if frame_norm not in norms:
        raise usage(f"there is no frame norm {frame_norm!r}; there is: l2, none.")
    items: Sequence[Item] | None = None
    skip = frozenset[str]()
    erased: tuple[str, ...] | None = None
    if about_of(source) is None:
        items = foreign.list_items(source, table, separator)
        erased = tuple(erasure.name for erasure in embed_cache.erasures(out))
        items, skip = _studies(items, catalog, out, str(key or ""))
    with ProgressBar("store import", "rows") as bar:
        report = convert.import_embeddings(
            source, out, teacher_name=teacher_name, frame_norm=norms[frame_norm], weights_sha256=weights_sha256,
            licence=licence, items=items, key=array, part_rows=part_rows, workers=workers, skip=skip,
            erased=erased, repair=repair, progress=bar,
        )  # fmt: skip
    told = ", ".join(f"{status} {count}" for status, count in sorted(report.by_status.items()))
    if report.already_done:
        print(f"{address(out)} is done: nothing is new, missing or changed ({told}).")
        raise typer.Exit(report.exit_status)
    for reason, count in sorted(report.by_reason.items()):
        print(f"  {reason:32} {count:>9}   {_some(report.examples[reason], count)}")
    failed = report.by_status.get("failed", 0)
    if failed:
        print(f"{failed} of {report.num_rows} failed. Mend the files and run the same command: only those rows are read.")
    counts = {**report.by_status, "read_now": report.num_computed}
    following = f"ecgecho store info {quoted(out)}"
    close("store import", out, counts, report.exit_status, bar.seconds, following, extra={"by_reason": dict(report.by_reason)})
    raise typer.Exit(report.exit_status)


@app.command("repair")
def store_repair(store: Store) -> None:
    """Put back every damaged file that follows from others, and say which rows must be made again from their sources."""
    import embed_cache

    began = time.monotonic()
    report = embed_cache.repair(store)
    for name in report.mended:
        print(f"mended: {name}")
    for name in report.lost:
        print(f"lost: {name}; restore it from a copy, or make the store again")
    if report.pending:
        print("\n".join(_to_make_again(store, report.pending)))
    counts = {
        "mended": len(report.mended),
        "parts_to_make_again": sum(map(len, report.pending.values())),
        "lost": len(report.lost),
    }
    status = 0 if report.ok else 1
    close("store repair", store, counts, status, time.monotonic() - began, f"ecgecho store verify {quoted(store)}")
    raise typer.Exit(status)


def _to_make_again(store: Path, pending: Mapping[int, Sequence[int]]) -> list[str]:
    """The rows of damaged parts, and which command makes them again. The store cannot be opened while files are missing."""
    from embed_cache import EmbeddingStore
    from embed_cache.place import place_of
    from embed_cache.store import read_head

    place = place_of(store)
    manifest = read_head(place)
    assert manifest is not None  # a store without a head is not repaired
    index = EmbeddingStore(place, manifest).index
    places = list(zip(*(index[name].to_pylist() for name in ("id", "segment", "part")), strict=True))
    lines = []
    for number, parts in pending.items():
        ids = [item for item, segment, part in places if segment == number and part in parts]
        lines.append(f"to be made again: segment {number}, {len(parts)} parts, {len(ids)} rows: {_some(ids[:8], len(ids))}")
    kind = "store import" if manifest.identity.get("origin") == "imported" else f"cache-{manifest.kind}"
    return [*lines, f"These rows need their source files: give the {kind} command that made the store again, with --repair."]


@app.command("erase")
def store_erase(
    store: Store,
    catalog: Annotated[Path, typer.Option("--catalog", help="The catalog that lists the subject.")],
    subject: Annotated[str, typer.Option("--subject", help="Its id in the catalog.")],
    key: Annotated[Path | None, typer.Option("--key", help="Key file, where it does not lie beside the catalog.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; there is no way back.")] = False,
) -> None:
    """Overwrite every row of a subject who withdraws, in all segments and logs; no later command computes them again."""
    import embed_cache
    from ecgecho import cache
    from ecgecho import catalog as tables

    began = time.monotonic()
    read = tables.read(catalog)
    ids = _items_of(read, subject)
    opened = embed_cache.open(store)
    num_rows = sum(item in ids for item in opened.index["id"].to_pylist())
    if not yes:
        print(f"{num_rows} rows in {address(store)} are of that subject; nothing was changed. Give --yes to erase them for good.")
        raise typer.Exit(1)
    mark = cache.subject_hash(read, subject, key=str(key or ""))
    done = embed_cache.erase(store, ids=ids, keyed_hash=mark, provenance={"command": "store erase", "time": round(time.time())})
    if done.damaged:
        print(f"{len(done.damaged)} files of these rows were damaged before; store verify goes on naming them.")
    if embed_cache.is_remote(store):
        print("The bucket may keep old versions of these objects: set a rule that expires noncurrent versions.")
    print("Not touched: the catalog and source files, exports and copies of the store, and students that were trained on it.")
    counts = {"rows_erased": len(done.rows)}
    close("store erase", store, counts, 0, time.monotonic() - began, f"ecgecho store verify {quoted(store)}")


def _items_of(catalog: Catalog, subject: str) -> set[str]:
    """Clips and ECGs of a subject."""
    found: set[str] = set()
    for table, name in ((catalog.clips, "clip_id"), (catalog.ecgs, "ecg_id")):
        pairs = zip(table[name].to_pylist(), table["subject_id"].to_pylist(), strict=True)
        found |= {item for item, owner in pairs if owner == subject}
    if not found and subject not in catalog.subjects["subject_id"].to_pylist():
        raise usage(f"{catalog.path} lists no subject with that id. Ids are exact: letters, case and leading zeros count.")
    return found


def _studies(items: Sequence[Item], catalog: Path | None, out: Path, key: str) -> tuple[Sequence[Item], frozenset[str]]:
    """Items with the study that the catalog gives each, and the ids of subjects who were erased from the store."""
    import dataclasses

    import embed_cache
    from ecgecho import cache
    from ecgecho import catalog as tables

    erased = {erasure.keyed_hash for erasure in embed_cache.erasures(out)}
    if catalog is None:
        if erased:
            raise usage(f"subjects were erased from {out}; give --catalog, so that they are known and left out.")
        return items, frozenset()
    read = tables.read(catalog)
    columns = [read.clips[name].to_pylist() for name in ("clip_id", "study_id", "subject_id")]
    listed = {clip: (study, subject) for clip, study, subject in zip(*columns, strict=True)}
    known = [item for item in items if item.id in listed]
    if not known:
        raise usage(
            f"{catalog} lists none of the {len(items)} ids, such as {_first(items)!r}; it lists {_first(listed)!r} and others."
        )
    if len(known) < len(items):
        say(f"{len(items) - len(known)} of {len(items)} ids are not in {catalog}; they keep the study that their folder gives.")
    marks = {s: cache.subject_hash(read, s, key=key, make=False) for s in {listed[i.id][1] for i in known}} if erased else {}
    skip = frozenset(item.id for item in known if marks.get(listed[item.id][1]) in erased)
    return [dataclasses.replace(i, study=listed[i.id][0]) if i.id in listed else i for i in items], skip


def _first(names: Sequence[Any] | Mapping[str, Any]) -> str:
    first = next(iter(names), "")
    return str(getattr(first, "id", first))


def _coverage(store: Path, found: Mapping[str, Any], catalog: Catalog | None) -> list[dict[str, Any]]:
    """Live rows by view and status, where there is a catalog also the clips (or ECGs) that the store has no row of."""
    import embed_cache

    if not found["complete"]:
        return [{"view": "all so far", **found["status"]}]
    index = embed_cache.open(store).index
    live = index.filter(index["live"])
    status = dict(zip(live["id"].to_pylist(), live["status"].to_pylist(), strict=True))
    views = _views(catalog, found["kind"]) if catalog is not None else {}
    counts: dict[str, Counter[str]] = {}
    for item, outcome in status.items():
        view = views.get(item, "not in the catalog" if catalog is not None else "all")
        counts.setdefault(view, Counter())[outcome] += 1
    for item, view in views.items():
        if item not in status:
            counts.setdefault(view, Counter())["no row"] += 1
    return [{"view": view, **counts[view]} for view in sorted(counts)]


def _views(catalog: Catalog, kind: str) -> dict[str, str]:
    """Item -> view, or what is known instead."""
    if kind != "echo":
        return dict.fromkeys(catalog.ecgs["ecg_id"].to_pylist(), "ECG")
    columns = [catalog.clips[name].to_pylist() for name in ("clip_id", "view", "kind")]
    return {item: view or f"view unknown, {kind or 'kind unknown'}" for item, view, kind in zip(*columns, strict=True)}


def _info_lines(found: Mapping[str, Any], catalog: Catalog | None) -> list[str]:
    from ecgecho.export import licence_of

    lines = [f"{found['path']}: {'store' if found['complete'] else 'UNFINISHED store'} of kind {found.get('kind', 'unknown')}"]

    def tell(name: str, value: str) -> None:
        if value:
            lines.append(f"{name:10} {value}")

    what = "studies" if found.get("kind") == "echo" else "groups"
    rows = f"{found['rows']} in {found['groups']} {what}" if found["complete"] else str(found["rows"])
    if found.get("rows_superseded"):
        rows += f", and {found['rows_superseded']} that were made anew later or erased"
    tell("rows", rows)
    columns = [f"{c['name']} {c['dtype']} {c['shape']}{' ragged' if c['ragged'] else ''}" for c in found.get("columns", ())]
    tell("columns", "; ".join(columns))
    tell("made by", _maker(found.get("identity", {})))
    tell("licence", licence_of(found.get("identity", {})))
    for number, segment in enumerate(found["segments"]):
        tell(f"segment {number}", f"{segment['rows']} rows in {segment['parts']} parts; {_provenance(segment['provenance'])}")
    if found["open_segment"] is not None:
        tell("open", f"segment {found['open_segment']}: {found['parts_done']} of {found['parts_planned']} parts are finished")
    tell("size", f"{found['bytes'] / 1e6:.1f} MB" + (f" in {found['files']} files" if "files" in found else ""))
    tell("content", found.get("content_hash", ""))
    return [*lines, "", *_table(found["coverage"]), *_reasons(found), *_advice(found, catalog)]


def _maker(identity: Mapping[str, Any]) -> str:
    told = []
    for name, value in identity.items():
        if isinstance(value, dict):
            told.append(f"{name} {value.get('name', 'unnamed')}")
        elif name == "weights_sha256" and value:
            told.append(f"weights {str(value)[:12]}")
        elif not name.endswith("_sha256") and value not in (None, ""):
            told.append(f"{name} {', '.join(value) if isinstance(value, list) else value}")
    return ", ".join(told)


def _provenance(note: Mapping[str, Any]) -> str:
    told = [f"{name} {value}" for name, value in note.items() if name != "time" and isinstance(value, str | int | float)]
    if isinstance(note.get("time"), int | float):
        told.append(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(note["time"])))
    return ", ".join(told[:8])


def _table(coverage: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name in (*STATUSES, "erased", "no row") if name in STATUSES or any(row.get(name) for row in coverage)]
    total = {"view": "all", **{name: sum(row.get(name, 0) for row in coverage) for name in names}}
    shown = [*coverage, total] if len(coverage) > 1 else list(coverage) or [total]
    width = max(24, *(len(str(row["view"])) for row in shown))
    lines = [f"{'view':{width}}" + "".join(f"{name:>12}" for name in names)]
    return lines + [f"{row['view']:{width}}" + "".join(f"{row.get(name, 0):>12,}" for name in names) for row in shown]


def _reasons(found: Mapping[str, Any]) -> list[str]:
    return [
        f"  {f'{status}: {reason}':44} {count:>9,}"
        for status in (*STATUSES[1:], "ok")
        for reason, count in sorted(found.get("reasons", {}).get(status, {}).items())
    ]


def _advice(found: Mapping[str, Any], catalog: Catalog | None) -> list[str]:
    if found["complete"] and catalog is None and found["kind"] in ("echo", "ecg"):
        return ["with --catalog: by view, and what of the catalog has no row"]
    return []


def _shown(value: Any) -> str:
    return "not there" if value is None else json.dumps(value)


def _some(names: Sequence[str], count: int) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if count > min(len(names), 8) else shown
