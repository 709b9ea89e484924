"""`ecgecho store ...`: look at stores, check, compare, convert them. Thin, and as fast to start as cli.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from ecgecho.terminal import AsJson

app = typer.Typer(help="Look at a store, or check it.", rich_markup_mode=None, no_args_is_help=True)


@app.command("verify")
def store_verify(store: Path, as_json: AsJson = False) -> None:
    """Read every byte of a store again and compare it with its checksums; names the damaged rows."""
    import embed_cache

    report = embed_cache.verify(store)
    damaged: list[dict[str, Any]] = [
        {"file": d.path, "problem": d.problem, "rows": d.rows and [d.rows.start, d.rows.stop], "ids": list(d.ids)}
        for d in report.damages
    ]
    if as_json:
        told = {"ok": report.ok, "files": report.num_files, "bytes": report.num_bytes, "damages": damaged}
        print(json.dumps({**told, "unlisted": list(report.unlisted)}, indent=1))
        raise typer.Exit(0 if report.ok else 1)
    for d in damaged:
        rows = f", rows {d['rows'][0]} to {d['rows'][1] - 1}: {', '.join(d['ids'][:8])}" if d["rows"] else ""
        print(f"damaged: {d['file']}: {d['problem']}{rows}")
    for name in report.unlisted:
        print(f"not of this store: {name}")
    if report.open_segment is not None:
        print(f"segment {report.open_segment} is not finished; the command that made the store goes on with it.")
    print(f"{'whole' if report.ok else 'DAMAGED'}: {report.num_files} files, {report.num_bytes / 1e6:.1f} MB read in {store}")
    raise typer.Exit(0 if report.ok else 1)


@app.command("info")
def store_info(store: Path, as_json: AsJson = False) -> None:
    """What a store holds: rows by status and reason, segments, bytes, and what made it."""
    import embed_cache

    found = embed_cache.info(store)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:12} {json.dumps(value) if isinstance(value, (dict, list)) else value}")
