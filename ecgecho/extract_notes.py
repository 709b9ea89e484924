"""Puts echo findings of a catalog's notes into its labels table: `note_lvef`, `note_mr_grade`, ..., by rules or by a server.

A label has the subject and the time of its note and says how it came about; no word of a note is copied. Running again
replaces the labels that an earlier run made from the same kind of text, whether by rules or a model, and nothing else.
Notes are read a block at a time. The catalog is replaced as a whole at the end.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgecho import catalog as catalogs
from ecgecho import notes, notes_rules, notes_server
from ecgecho.catalog import SCHEMAS, Catalog, Progress
from ecgecho.io.workers import Done, run_bounded
from ecgecho.notes import Finding
from ecgecho.notes_server import Server
from ecgecho.types import ItemError, UserError

BLOCK = 128
"""Notes in one task of a worker."""
BLOCK_S = 600.0
NOTE_S = 60.0
"""For each note of a block that was not done in time, or ended its worker: a bad note costs itself alone."""
BLOCK_BYTES = 1 << 30
INLINE = 512
INLINE_CHARACTERS = 1 << 22
"""So few notes, and no more characters, are read before a worker process has started."""
GIVE_UP = 20
"""Notes in a row without an answer, after which the server is taken to be gone."""
META = "extracted_notes"

Rows = list[tuple[str, float, str | None, str]]
"""name, value, unit, definition: the labels of one note."""


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What a run did."""

    catalog: Catalog
    by: str
    """"rules v1", or the model."""
    notes: int
    notes_with_findings: int = 0
    labels: int = 0
    names: Mapping[str, int] = field(default_factory=dict)
    """How many labels of each name."""
    from_cache: int = 0
    asked: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    """Notes without a usable answer, by reason."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Statements of a model that were not taken, by reason."""

    @property
    def exit_status(self) -> int:
        """3 where some notes failed."""
        return 3 if self.failed else 0

    def counts(self) -> dict[str, int]:
        """For the closing lines of the command."""
        told = {"notes": self.notes, "notes_with_findings": self.notes_with_findings, "labels": self.labels}
        if self.asked or self.from_cache or self.failed or self.refused:
            told |= {"asked": self.asked, "from_cache": self.from_cache, "refused": sum(self.refused.values())}
        return told | ({"failed": sum(self.failed.values())} if self.failed else {})


def server_at(url: str, model: str, *, allow_remote: bool = False) -> Server:
    """A server as the command line names it; its key, if it wants one, is in the environment."""
    return Server(url=url, model=model, allow_remote=allow_remote, key=os.environ.get("ECGECHO_NOTES_KEY", ""))


@dataclass(frozen=True, slots=True)
class _Note:
    subject_id: str
    study_id: str | None
    time: object
    text: str


def extract(
    catalog: Catalog,
    *,
    out: Path | None = None,
    server: Server | None = None,
    limit: int | None = None,
    source: str = "discharge",
    workers: int = 2,
    parallel: int = 4,
    progress: Progress | None = None,
) -> Extracted:
    """Read the catalog's texts of `source` and write the catalog again with their labels, in its place or in `out`.

    With `server` each note is asked for there, `parallel` at a time, and answers are kept in a folder beside the catalog;
    else `workers` processes read them by the rules. `limit` takes the first so many notes. Where no note gets an answer,
    nothing is written.
    """
    total = _count(catalog, source)
    wanted = total if limit is None else min(limit, total)
    by = f"rules v{notes_rules.VERSION}" if server is None else _model(server)
    _check_limit(catalog, out, source, wanted, limit)
    _check_columns(catalog, out)
    catalogs.check_place(out or catalog.path)
    if server is not None and not server.allow_remote and not notes_server.is_local(server):
        raise UserError(f"{leaving(catalog, server, source=source, limit=limit)} --allow-remote sends it.")
    if server is not None:
        notes_server.check_reachable(server)
    work = _Work(by, source)
    stream = _notes(catalog, source, wanted, BLOCK if server is None else max(4 * parallel, 16))
    if server is None:
        few = wanted <= INLINE and _size(catalog, source, wanted)[1] <= INLINE_CHARACTERS
        answered = _by_rules(stream, 0 if few else max(workers, 1), work)
    else:
        answered = _by_server(stream, server, catalog, parallel, work)
    tables: list[pa.Table] = []
    done = 0
    for block, rows in answered:
        tables.append(_labels(block, rows, work))
        done += len(block)
        if progress is not None:
            progress("notes", done, wanted)
    if wanted and sum(work.failed.values()) == wanted:
        reasons = ", ".join(f"{code} {count}" for code, count in sorted(work.failed.items()))
        raise UserError(f"no note got a usable answer ({reasons}); {out or catalog.path} is as it was. Mend it and run it again.")
    labels = pa.concat_tables(tables) if tables else SCHEMAS["labels"].empty_table()
    fresh = with_labels(
        catalog,
        labels,
        drop=f"{_source(source)} (",
        out=out,
        meta={META: {**catalog.meta.get(META, {}), source: {"by": by, "notes": wanted, "failed": dict(work.failed)}}},
    )
    return Extracted(
        catalog=fresh,
        by=by,
        notes=wanted,
        notes_with_findings=work.with_findings,
        labels=labels.num_rows,
        names=dict(sorted(work.names.items())),
        from_cache=work.from_cache,
        asked=work.asked,
        failed=dict(work.failed),
        refused=dict(work.refused),
    )


def leaving(catalog: Catalog, server: Server, *, source: str = "discharge", limit: int | None = None) -> str:
    """What would be sent to a server that is not local, in words."""
    number, characters = _size(catalog, source, _count(catalog, source) if limit is None else limit)
    return (
        f"{server.url} is neither on this machine nor in a private network: {number:,} clinical notes with {characters:,} "
        f"characters would leave for it."
    )


def answers_folder(catalog: Catalog) -> Path:
    """Where answers of servers are kept: beside the catalog."""
    return catalog.path.with_name(f"{catalog.path.name}.notes_answers")


def label_rows(found: Iterable[Finding], by: str) -> Rows:
    """The labels of one note, from all its findings.

    A number is one label. Another finding is `note_<name>`, 1 where it is said to be there and 0 where it is said not to be, and
    `note_<name>_grade` where its grade is said too; a wall motion abnormality has no grade.
    """
    rows: Rows = []
    for name, finding in sorted(notes.current(found).items()):
        label, value = f"note_{name}", finding.value
        if name in notes.NUMBERS:
            assert value is not None
            bound = finding.low if finding.op.startswith(">") else finding.high
            how = {"exact": "stated", "range": "middle of a range"}.get(finding.form, f"threshold {finding.op} {bound:g}")
            rows.append((label, value, finding.unit, f"{by}: {how}"))
            continue
        if finding.form == "absent" or finding.low > 0:
            rows.append((label, float(not finding.negated), None, f"{by}: {'absent' if finding.negated else 'present'}"))
        if value is not None and name != "wall_motion":
            how = {"absent": "absent", "range": "middle of a range of grades"}.get(finding.form, "stated")
            rows.append((f"{label}_grade", value, None, f"{by}: {how}"))
    return rows


def with_labels(
    catalog: Catalog, labels: pa.Table, *, drop: str, out: Path | None = None, meta: Mapping[str, object] | None = None
) -> Catalog:
    """The catalog written again, in its place or in `out`, with `labels` in place of those whose source begins with `drop`.

    All other tables, meta and files stay as they are; tables are read and written a row group at a time.
    """
    path = out or catalog.path
    tables: dict[str, Iterable[pa.Table]] = {name: _row_groups(catalog, name) for name in SCHEMAS if name != "labels"}
    tables["labels"] = _labels_without(catalog, drop, labels)
    known = {f"{name}.parquet" for name in SCHEMAS} | {"catalog.json"}
    keep = {file.name: file.read_bytes() for file in sorted(catalog.path.iterdir()) if file.is_file() and file.name not in known}
    return catalogs.write(
        path,
        root=catalog.root,
        dataset=catalog.dataset,
        family=catalog.family,
        tables=tables,
        key_id=catalog.key_id,
        meta={**catalog.meta, **(meta or {})},
        keep=keep,
    )


# ---- Reading


def _model(server: Server) -> str:
    # Some servers call a model by its path on their machine, which no catalog needs to know.
    name = server.model.rstrip("/").rpartition("/")[2] if server.model.startswith(("/", "~", ".")) else server.model
    return f"model {name}, prompt v{notes_server.PROMPT_VERSION}"


def _count(catalog: Catalog, source: str) -> int:
    told = pc.value_counts(catalog.table("texts", columns=("source",))["source"].combine_chunks()).to_pylist()
    by_source = {str(entry["values"]): int(entry["counts"]) for entry in told}
    if source not in by_source:
        has = f"its texts are {', '.join(sorted(by_source))}" if by_source else "it has no texts"
        raise UserError(f"{catalog.path} has no texts of the source {source!r}; {has}. Index a root with notes, or name another.")
    return by_source[source]


def _size(catalog: Catalog, source: str, wanted: int) -> tuple[int, int]:
    """Notes among the first `wanted`, and their characters."""
    number = characters = 0
    for batch in _batches(catalog, ("source", "text"), source):
        lengths = pc.utf8_length(batch["text"]).slice(0, wanted - number)
        number += len(lengths)
        characters += int(pc.sum(lengths).as_py() or 0)
        if number >= wanted:
            break
    return number, characters


def _check_limit(catalog: Catalog, out: Path | None, source: str, wanted: int, limit: int | None) -> None:
    before = catalog.meta.get(META, {}).get(source, {}).get("notes", 0)
    if limit is not None and wanted < before and (out is None or out == catalog.path):
        raise UserError(
            f"{catalog.path} has the labels of {before:,} notes; --limit {limit} would leave those of {wanted:,}. "
            "Give --out FOLDER."
        )


def _check_columns(catalog: Catalog, out: Path | None) -> None:
    """A catalog that a hospital wrote may have columns of its own, which writing it again would lose."""
    if out is not None and out != catalog.path:
        return
    for name, schema in SCHEMAS.items():
        path = catalog.path / f"{name}.parquet"
        more = sorted(set(pq.read_schema(path).names) - set(schema.names)) if path.is_file() else []
        if more:
            raise UserError(f"{path} has columns of its own ({', '.join(more[:5])}), which would be lost. Give --out FOLDER.")


def _batches(catalog: Catalog, columns: tuple[str, ...], source: str, size: int = BLOCK) -> Iterator[pa.Table]:
    path = catalog.path / "texts.parquet"
    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        have = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=size, columns=have):
            table = catalogs.conform("texts", pa.table(batch), str(path), columns=columns)
            kept = table.filter(pc.equal(table["source"], source))
            if kept.num_rows:
                yield kept


def _notes(catalog: Catalog, source: str, wanted: int, size: int) -> Iterator[list[_Note]]:
    """The first `wanted` notes in blocks."""
    left = wanted
    for table in _batches(catalog, ("subject_id", "study_id", "time", "source", "text"), source, size):
        rows = table.slice(0, left)
        left -= rows.num_rows
        columns = (rows[name].to_pylist() for name in ("subject_id", "study_id", "time", "text"))
        yield [_Note(*row) for row in zip(*columns, strict=True)]
        if not left:
            return


class _Work:
    """What is counted on the way."""

    def __init__(self, by: str, source: str) -> None:
        self.by, self.source = by, source
        self.with_findings = self.from_cache = self.asked = 0
        self.names: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()


def _read_block(texts: list[str]) -> list[Rows | str]:
    """The labels of each note, or the code of why it has none."""
    return [_read(text) for text in texts]


def _read(text: str) -> Rows | str:
    try:
        return label_rows(notes_rules.findings(text), f"rules v{notes_rules.VERSION}")
    except ItemError as error:
        return error.code
    except MemoryError:
        return "out_of_memory"
    except Exception:  # a fault of the rules costs its own note, not the block; its words might quote the note
        return "unexpected_error"


def _by_rules(stream: Iterator[list[_Note]], workers: int, work: _Work) -> Iterator[tuple[list[_Note], list[Rows]]]:
    """Blocks in the order of the catalog, whichever worker is done first."""
    begun: dict[int, list[_Note]] = {}

    def tasks() -> Iterator[list[str]]:
        for position, block in enumerate(stream):
            begun[position] = block
            yield [note.text for note in block]

    waiting: dict[int, list[Rows | str]] = {}
    following = 0
    for position, result in run_bounded(_read_block, tasks(), workers=workers, timeout_s=BLOCK_S, memory_bytes=BLOCK_BYTES):
        waiting[position] = result.value if isinstance(result, Done) else _one_by_one(begun[position])
        while following in waiting:
            outcomes = waiting.pop(following)
            work.failed.update(outcome for outcome in outcomes if isinstance(outcome, str))
            yield begun.pop(following), [[] if isinstance(outcome, str) else outcome for outcome in outcomes]
            following += 1


def _one_by_one(block: list[_Note]) -> list[Rows | str]:
    """The notes of a block that came to nothing as a whole."""
    outcomes: list[Rows | str] = [[] for _ in block]
    texts = ([note.text] for note in block)
    for place, result in run_bounded(_read_block, texts, workers=1, timeout_s=NOTE_S, memory_bytes=BLOCK_BYTES):
        outcomes[place] = result.value[0] if isinstance(result, Done) else result.code
    return outcomes


def _by_server(
    stream: Iterator[list[_Note]], server: Server, catalog: Catalog, parallel: int, work: _Work
) -> Iterator[tuple[list[_Note], list[Rows]]]:
    """Blocks in order; within a block `parallel` questions at a time. An answer is kept as soon as it is there."""
    kept = notes_server.Answers(answers_folder(catalog))
    silent = 0
    for block in stream:
        rows: list[Rows] = []
        for outcome in _asked(block, server, kept, parallel):
            if isinstance(outcome, ItemError):
                work.failed[outcome.code] += 1
                silent = silent + 1 if outcome.code in ("server_unreachable", "server_slow", "server_error") else 0
                if silent >= GIVE_UP:
                    raise UserError(
                        f"{server.url}: no answer to {silent} notes in a row ({outcome.code}). Answers so far are kept; run "
                        "the same command again when the server is back."
                    ) from outcome
                rows.append([])
                continue
            answer, fresh = outcome
            silent = 0
            work.asked += fresh
            work.from_cache += not fresh
            work.refused.update(answer.refused)
            rows.append(label_rows(answer.findings, work.by))
        yield block, rows


_Outcome = tuple[notes_server.Answer, bool] | ItemError


def _asked(block: list[_Note], server: Server, kept: notes_server.Answers, parallel: int) -> Iterator[_Outcome]:
    """The outcome of every note of a block in order; a fault that ends the job ends all threads first."""
    outcomes: list[_Outcome | BaseException | None] = [None] * len(block)
    done = [threading.Event() for _ in block]
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    stop = threading.Event()
    for place in range(len(block)):
        waiting.put(place)

    def serve() -> None:
        while not stop.is_set():
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                outcomes[place] = _one(block[place].text, server, kept)
            except BaseException as error:
                outcomes[place] = error
            done[place].set()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(parallel, len(block)))]
    for thread in threads:
        thread.start()
    try:
        for place in range(len(block)):
            done[place].wait()
            outcome = outcomes[place]
            assert outcome is not None
            if isinstance(outcome, BaseException) and not isinstance(outcome, ItemError):
                raise outcome
            yield outcome
    finally:
        stop.set()


def _one(text: str, server: Server, kept: notes_server.Answers) -> _Outcome:
    name = kept.name(server, text)
    if (answer := kept.get(name)) is not None:
        return answer, False
    try:
        answer = notes_server.ask(server, text)
    except ItemError as error:
        return error
    kept.put(name, answer)
    return answer, True


# ---- Writing


def _source(source: str) -> str:
    return f"{source}_note"


def _labels(block: list[_Note], rows: list[Rows], work: _Work) -> pa.Table:
    """The labels of a block."""
    flat = [(note, row) for note, mine in zip(block, rows, strict=True) for row in mine]
    work.with_findings += sum(bool(mine) for mine in rows)
    work.names.update(row[0] for _, row in flat)
    made = pa.table(
        {
            "subject_id": pa.array([note.subject_id for note, _ in flat], pa.string()),
            "study_id": pa.array([note.study_id for note, _ in flat], pa.string()),
            "time": pa.array([note.time for note, _ in flat], pa.timestamp("us")),
            "name": pa.array([row[0] for _, row in flat], pa.string()),
            "value": pa.array([row[1] for _, row in flat], pa.float64()),
            "unit": pa.array([row[2] for _, row in flat], pa.string()),
            "source": pa.array([f"{_source(work.source)} ({work.by})"] * len(flat), pa.string()),
            "definition": pa.array([row[3] for _, row in flat], pa.string()),
        }
    )
    return catalogs.conform("labels", made, "labels of notes")


def _row_groups(catalog: Catalog, name: str) -> Iterator[pa.Table]:
    path = catalog.path / f"{name}.parquet"
    if not path.is_file():
        return
    with pq.ParquetFile(path) as file:
        have = [field.name for field in SCHEMAS[name] if field.name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=1 << 13, columns=have):
            yield catalogs.conform(name, pa.table(batch), str(path))


def _labels_without(catalog: Catalog, drop: str, labels: pa.Table) -> Iterator[pa.Table]:
    for block in _row_groups(catalog, "labels"):
        ours = pc.starts_with(block["source"].cast(pa.string()), drop)
        yield block.filter(pc.invert(pc.fill_null(ours, False)))
    yield labels
