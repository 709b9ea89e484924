"""The command line: thin, and fast to start - whatever is heavy is imported inside the command that needs it.

Exit status: 0 done; 3 some items failed; 1 nothing usable, a refusal, or a fault of ours; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ecgecho import __version__, cli_store
from ecgecho.terminal import AsJson, ProgressBar, address, close, quoted, say, usage

if TYPE_CHECKING:
    from ecgecho.catalog import Catalog
    from ecgecho.job import CacheReport, Preview, Repaired


class _Interrupted(Exception):
    """Ctrl-C, on its way past typer, which would end without a word."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Interrupted from stop


app = typer.Typer(
    name="ecgecho",
    cls=_Commands,
    help="Teach ECG students from echo studies that were decoded and embedded once.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
app.add_typer(cli_store.app, name="store")

PartRows = Annotated[
    int | None, typer.Option("--part-rows", min=1, help="Rows of a part, the unit of commit (default: by the size).")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Decode processes (default: one a core).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and how long it would take; write nothing.")]
Repair = Annotated[bool, typer.Option("--repair", help="First read all of the store, and compute damaged parts again.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")]


def main() -> None:
    """Run a command; turn what went wrong into at most three lines and an exit status."""
    debug = "--debug" in sys.argv[1:]
    words = [_hyphens(word) for word in sys.argv[1:] if word != "--debug"]
    if words and not words[0].startswith("-"):
        words[0] = words[0].replace("_", "-")
    try:
        app(args=words, prog_name="ecgecho", standalone_mode=True)
    except (KeyboardInterrupt, _Interrupted):
        again = shlex.join(["ecgecho", *words])
        say(f"Interrupted; finished work is kept. The same command goes on from here:\n  {again}")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, MemoryError) as error:
        if debug:
            raise
        say(_told(error))
        sys.exit(getattr(error, "exit_status", 1))
    except Exception as error:
        if debug:
            raise
        say(
            f"A fault of ecgecho, not of your input: {type(error).__name__}: {error}\n"
            "Run it again with --debug for the traceback."
        )
        sys.exit(1)


def _hyphens(word: str) -> str:
    """--part_rows is --part-rows."""
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value if word.startswith("--") else word


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        advice = {28: " Free some space and run the same command again; finished work is kept."}.get(error.errno, "")
        return f"Error: {error.strerror}{where}.{advice}"
    lines = [line for text in (str(error), *getattr(error, "__notes__", ())) for line in text.splitlines() if line]
    return "Error: " + "\n".join(lines[:3] or [type(error).__name__])


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Teach ECG students from echo studies that were decoded and embedded once."""


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    subjects: Annotated[int, typer.Option(min=2, help="How many people.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Below 1,000,000; larger ones trained what is shipped.")] = 7,
    echo_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of subjects with cines.")] = 0.25,
    resolution: Annotated[str, typer.Option(metavar="ROWSxCOLUMNS", help="Size of a picture.")] = "300x400",
    frames: Annotated[int, typer.Option(min=0, help="Of a cine; 0: as many as machines record.")] = 0,
    views: Annotated[str, typer.Option(metavar="A,B,...", help="Echo views of a study (default: all six).")] = "",
    difficulty: Annotated[float, typer.Option(min=0.0, max=1.0, help="0: an ECG tells nearly all of a heart; 1: little.")] = 0.5,
    years: Annotated[float, typer.Option(min=0.0, max=20.0, help="Time that a subject's events spread over.")] = 3.0,
    layout: Annotated[str, typer.Option(help="Whose folders and tables to imitate.")] = "mimic-iv",
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Tables and truth, no waveforms or pictures.")] = False,
    enrich: Annotated[bool, typer.Option(help="Raise the shares of LVEF < 40 % and severe hypertrophy.")] = False,
    ecgs_per_subject: Annotated[int, typer.Option(min=1, help="At most so many ECGs of a subject.")] = 3,
    workers: Workers = None,
) -> None:
    """Make a simulated cohort: ECGs, echo cines, notes and measurements in the folders of a dataset."""
    from ecgecho.simulate import VIEWS, layouts
    from ecgecho.simulate import simulate as run

    module = layouts.load(layout)
    with ProgressBar("simulate", "subjects") as bar:
        counts = run(
            out,
            subjects=subjects,
            seed=seed,
            echo_share=echo_share,
            enrich=enrich,
            frames=frames,
            size=_resolution(resolution),
            views=tuple(view.strip() for view in views.split(",")) if views.strip() else VIEWS,
            ecgs_per_subject=ecgs_per_subject,
            years=years,
            difficulty=difficulty,
            layout=layout,
            tables_only=tables_only,
            workers=_cores(workers),
            progress=bar,
        )
    if not counts["files_written"]:
        print(f"{out} is done: the cohort of {counts['subjects']} subjects is complete.")
        return
    following = module.READ_BY.format(root=quoted(out), beside=quoted(out / "catalog"), ecg=quoted(out / "ecg.zarr"))
    if tables_only:
        print("no waveforms or pictures; the same command without --tables-only adds them.")
        if not module.TABLES_ALONE:
            following = ""
    elif not following:
        print(f"nothing in ecgecho reads the layout {module.NAME} yet; its tables and arrays are for other tools.")
    close("simulate", out, counts, 0, bar.seconds, following)


@app.command()
def index(
    dataset: Annotated[str, typer.Argument(help="A dataset module: `ecgecho list datasets`.")],
    root: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the catalog.")],
    key: Annotated[Path | None, typer.Option("--key", help="Key file of private ids (datasets that hash ids).")] = None,
    window_days: Annotated[str, typer.Option(metavar="DAYS|LOW:HIGH", help="Time of an echo minus that of its ECG.")] = "30",
    match: Annotated[str, typer.Option(help="nearest: one echo study an ECG; all: every one in the window.")] = "nearest",
    same_admission: Annotated[bool, typer.Option("--same-admission", help="Pair only within a hospital stay.")] = False,
    waveforms: Annotated[bool, typer.Option("--waveforms", help="Read every ECG once, for the table of defects.")] = False,
    pseudonymise: Annotated[
        Path | None, typer.Option("--pseudonymise", metavar="KEYFILE", help="Hash all ids with this key, shift dates.")
    ] = None,
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is there and what is missing; write nothing.")] = False,
    sets: Set = None,
) -> None:
    """Turn a dataset's folder into a catalog: Parquet tables of clips, ECGs, texts, labels, subjects and pairs."""
    from ecgecho import catalog as tables
    from ecgecho import config as configuration
    from ecgecho import keys, plugins

    module = plugins.load("datasets", dataset)
    settings = configuration.override(module.Config(), sets or [])
    if key is not None:
        if not hasattr(settings, "key"):
            raise usage(f"{dataset} has public ids; --pseudonymise {key} makes keyed hashes of them.")
        settings = configuration.override(settings, [f"key={json.dumps(str(key))}"])
    if not root.is_dir():
        raise usage(f"there is no folder {root}; give the dataset's root folder.")
    if pseudonymise is not None and (pseudonymise.is_dir() or not pseudonymise.parent.is_dir()):
        raise usage(f"--pseudonymise is {str(pseudonymise)!r}; give a file for the key, in a folder that is there.")
    _one_of("--match", match, ("nearest", "all"))
    options = tables.IndexOptions(
        window_days=_window(window_days),
        match=match,  # type: ignore[arg-type]
        same_admission=same_admission,
        pseudonymise="" if pseudonymise is None else str(pseudonymise),
        workers=_cores(workers),
    )
    if pseudonymise is not None and not pseudonymise.exists():
        if dry_run:
            print(f"a new key would be made: {pseudonymise}")
            options = dataclasses.replace(options, pseudonymise="")
        else:
            keys.make(pseudonymise)
            say(f"made a new key, {pseudonymise}: keep it, nothing else makes the same ids again.")
    dataset_of = module.build(settings)
    if dry_run:
        _show_inspection(dataset_of.inspect(root, out, options))
        return
    before = tables.told(out)
    with ProgressBar("index", "files") as bar:
        catalog = dataset_of.index(root, out, progress=bar, options=options)
        unchanged = catalog.unchanged
        if "extracted_notes" in before and "extracted_notes" not in catalog.meta:
            say(f"labels taken from notes are gone with the old catalog; once more: ecgecho extract-notes {quoted(out)}")
        if waveforms:
            from ecgecho import waveforms as signals

            catalog = signals.look(catalog, workers=options.workers, progress=bar)
    if unchanged and not waveforms:
        print(f"{out} is done: the dataset's files are as they were.")
        return
    description = tables.describe(catalog)
    print(tables.render(description))
    totals = {name: row["all"] for name, row in description["counts"].items() if isinstance(row, dict) and "all" in row}
    following = ""
    if catalog.clips.num_rows:
        following = f"ecgecho cache-echo {quoted(out)} --teacher demo --out {quoted(out.parent / 'echo.zarr')}"
    elif "zscore" in catalog.ecgs["unit"].unique().to_pylist():  # no contract takes what is not in mV
        following = f"ecgecho cache-ecg {quoted(out)} --out {quoted(out.parent / 'ecg_raw.zarr')}"
    elif catalog.ecgs.num_rows:
        following = f"ecgecho cache-ecg {quoted(out)} --contract echoing_ecg --out {quoted(out.parent / 'ecg.zarr')}"
    close("index", out, totals, 0, bar.seconds, following)


@app.command("extract-notes")
def extract_notes(
    catalog: Annotated[Path, typer.Argument(help="A catalog with clinical notes among its texts.")],
    out: Annotated[Path | None, typer.Option("--out", help="Another catalog to write (default: in its place).")] = None,
    source: Annotated[str, typer.Option(help="Which texts: discharge, ...")] = "discharge",
    server: Annotated[str, typer.Option(metavar="URL", help="An OpenAI-compatible server of your own, up to /v1.")] = "",
    model: Annotated[str, typer.Option(help="The model that the server runs.")] = "",
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Notes may leave for a server elsewhere.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many notes.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Notes that are asked for at a time.")] = 4,
    workers: Workers = None,
) -> None:
    """Add to a catalog's labels what its clinical notes state of the heart: by rules, or by a model that you run."""
    from ecgecho import catalog as tables
    from ecgecho import extract_notes as story
    from ecgecho import notes_server

    if bool(server) != bool(model):
        raise usage("--server and --model belong together; without them the notes are read by rules.")
    read = tables.read(catalog)
    asked = story.server_at(server, model, allow_remote=allow_remote) if server else None
    if asked is not None and allow_remote and not notes_server.is_local(asked):
        say(story.leaving(read, asked, source=source, limit=limit))
    with ProgressBar("extract-notes", "notes") as bar:
        done = story.extract(
            read, out=out, server=asked, limit=limit, source=source, workers=_cores(workers), parallel=parallel, progress=bar
        )
    print(f"read by {done.by}")
    for name, count in sorted(done.names.items()):
        print(f"  {name:32} {count:>9}")
    for what, counted in (("no usable answer", done.failed), ("statements not taken", done.refused)):
        for reason, count in sorted(counted.items()):
            print(f"  {what}: {reason:20} {count:>9}")
    status = 3 if done.failed else 0
    close("extract-notes", out or catalog, done.counts(), status, bar.seconds, "")
    if status:
        raise typer.Exit(status)


@app.command("cache-echo")
def cache_echo(
    source: Annotated[Path, typer.Argument(help="A catalog, or a folder of DICOM or AVI files.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make or go on with; s3:// and gs:// too.")],
    teacher: Annotated[str, typer.Option(help="A teacher: `ecgecho list teachers`.")] = "demo",
    weights: Annotated[str, typer.Option(help="Local file or hub id of the teacher's weights.")] = "",
    key: Annotated[Path | None, typer.Option("--key", help="Key file of private ids.")] = None,
    decode: Annotated[str, typer.Option(help="full, or dct: JPEG frames at a part of their size.")] = "full",
    part_rows: PartRows = None,
    workers: Workers = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 (CUDA only).")] = "fp32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Pictures as CUDA's tensor cores like them.")] = False,
    compile_teacher: Annotated[bool, typer.Option("--compile", help="torch.compile the teacher (CUDA only).")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes of this machine that share the job and its GPUs.")] = 1,
    ray: Annotated[str, typer.Option(metavar="ADDRESS", help="Run parts as tasks of this Ray cluster; auto finds it.")] = "",
    timeout_s: Annotated[float, typer.Option(min=1.0, help="Seconds a clip may take to decode.")] = 120.0,
    repair: Repair = False,
    dry_run: DryRun = False,
    sets: Set = None,
) -> None:
    """Push every echo frame through a frozen teacher, once, into a store."""
    from ecgecho import cache, plugins
    from ecgecho import config as configuration

    module = plugins.load("teachers", teacher)
    words = ([f"weights={json.dumps(weights)}"] if weights else []) + (sets or [])
    settings = configuration.override(module.Config(), words)
    _one_of("--decode", decode, ("full", "dct"))
    _one_of("--precision", precision, ("fp32", "bf16"))
    if processes > 1 and ray:
        raise usage("--processes is for one machine and --ray for a cluster; give one of them.")
    _check_device(device)
    with _catalog_or_folder(source, out, key, dry_run=dry_run) as catalog, ProgressBar("cache-echo", "clips") as bar:
        options = cache.EchoOptions(
            decode=decode,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            channels_last=channels_last,
            compile=compile_teacher,
            device=device,
            workers=workers,
            timeout_s=timeout_s,
            part_rows=part_rows,
            key=str(key) if key is not None else "",
        )
        job = cache.echo_job(catalog, teacher, settings, out, options=options, progress=bar)
        if dry_run:
            _show_preview(job.preview(), "clips")
            return
        if repair:
            _say_repaired(job.repair())
        members = None
        if processes > 1 or ray:
            from ecgecho import cluster

            work = cluster.Work.of(catalog, teacher, settings, out, options)
            members = cluster.by_ray(work, ray, say=say) if ray else cluster.by_processes(work, processes, say=say)
        say(f"cache-echo: {catalog.clips.num_rows} clips -> {address(out)} by teacher {teacher}")
        report = job.run(members)
        bar.close()
    following, ecg = "", out.parent / "ecg.zarr"
    if made_by := _contract_of(ecg):
        following = _train_with(made_by, source, ecg, out)
    elif catalog.ecgs.num_rows:
        following = f"ecgecho cache-ecg {quoted(source)} --contract echoing_ecg --out {quoted(ecg)}"
    _close_cache("cache-echo", out, report, bar.seconds, following, _paths(catalog.clips, "clip_id"))


@app.command("cache-ecg")
def cache_ecg(
    source: Annotated[Path, typer.Argument(help="A catalog, a folder of ECG files, or a raw ECG store.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make or go on with; s3:// and gs:// too.")],
    contract: Annotated[str, typer.Option(help="An encoder's input contract; without it, ECGs are kept as recorded.")] = "",
    vcg: Annotated[str, typer.Option(help="How X, Y, Z become 12 leads: dower, or kors (its pseudo-inverse).")] = "dower",
    flip_z: Annotated[bool, typer.Option("--flip-z", help="Z points forwards in these recordings.")] = False,
    key: Annotated[Path | None, typer.Option("--key", help="Key file of private ids.")] = None,
    part_rows: PartRows = None,
    workers: Workers = None,
    repair: Repair = False,
    dry_run: DryRun = False,
) -> None:
    """Read every ECG once: leads by name, millivolts, at the rate and length that an encoder wants."""
    import embed_cache
    from ecgecho import cache

    _one_of("--vcg", vcg, ("dower", "kors"))
    wanted = cache.find_contract(contract) if contract else None
    catalog: Catalog | None = None
    paths: Mapping[str, str] = {}
    with contextlib.ExitStack() as stack, ProgressBar("cache-ecg", "ECGs") as bar:
        if embed_cache.is_remote(source) or (source / "head.json").is_file() or source.suffix == ".zarr":
            if wanted is None:
                raise usage(f"{source} is a store; say with --contract what to make of it.")
            job = cache.contract_job(source, wanted, out, part_rows=part_rows, workers=workers, progress=bar)
        else:
            catalog = stack.enter_context(_catalog_or_folder(source, out, key, dry_run=dry_run))
            paths = _paths(catalog.ecgs, "ecg_id")
            secret = str(key) if key is not None else ""
            job = cache.ecg_job(
                catalog, wanted, out, part_rows=part_rows, workers=workers, key=secret, progress=bar,
                vcg=vcg, flip_z=flip_z,  # type: ignore[arg-type]
            )  # fmt: skip
        if dry_run:
            _show_preview(job.preview(), "ECGs")
            return
        say(f"cache-ecg: {len(job.target.ids)} ECGs -> {address(out)} by contract {wanted.name if wanted else 'none (raw)'}")
        if repair:
            _say_repaired(job.repair())
        report = job.run()
        bar.close()
        if catalog is not None and os.access(catalog.path, os.W_OK):
            from ecgecho import waveforms

            waveforms.note(catalog, cache.defect_counts(out))
    if wanted is None:
        following = f"ecgecho cache-ecg {quoted(out)} --contract echoing_ecg --out {quoted(out.parent / 'ecg.zarr')}"
    else:
        echo = out.parent / "echo.zarr"
        following = _train_with(wanted.name, source, out, echo if echo.is_dir() else Path("ECHO.zarr"))
    _close_cache("cache-ecg", out, report, bar.seconds, following, paths)


@app.command()
def status(store: Path, as_json: AsJson = False) -> None:
    """How far a store is: rows done, missing and failed with their reasons, disk; quick for a store of any size."""
    import embed_cache

    found = embed_cache.progress(store)
    free = None if embed_cache.is_remote(store) else shutil.disk_usage(store).free
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "free_bytes": free}, indent=1))
        return
    print(f"{address(store)}: {found.kind}, {'complete' if found.complete else 'NOT COMPLETE'}")
    print(f"parts        {found.parts_done} of {found.parts_planned}, {found.part_rows} rows each")
    print(f"rows         {found.rows_done} of {found.rows_planned}, missing {found.rows_planned - found.rows_done}")
    for name, count in sorted(found.status.items()):
        print(f"  {name:10} {count}")
        for reason, number in sorted(found.reasons.get(name, {}).items()):
            print(f"    {reason:28} {number}")
    disk = "" if free is None else f", {free / 1e9:.1f} GB free on its disk"
    print(f"bytes        {found.num_bytes / 1e9:.3f} GB{disk}")
    if found.last_commit:
        print(f"last commit  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(found.last_commit))}")


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="A method: `ecgecho list methods`.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the run.")],
    catalog: Annotated[list[Path], typer.Option("--catalog", help="May be repeated.")],
    ecg: Annotated[list[Path], typer.Option("--ecg", help="ECG store; one a catalog.")],
    echo: Annotated[list[Path] | None, typer.Option("--echo", help="Echo store; one a catalog.")] = None,
    recipe: Annotated[str, typer.Option(help="paper, small, or a JSON file.")] = "paper",
    init: Annotated[Path | None, typer.Option("--init", help="Weights to begin with.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    sets: Set = None,
) -> None:
    """Train an ECG student from the stores; the same command again resumes it."""
    _check_device(device)
    from ecgecho import train as story

    chosen = story.make_recipe(method, recipe, sets or [])
    began = time.monotonic()
    result = story.train(chosen, catalogs=catalog, ecgs=ecg, echos=echo or [], out=out, init=init, device=device, say=say)
    if result.pop("already_done", False) or result.pop("helper", False):
        return
    loss = result["val_loss"]
    told = {**result, "val_loss": None if loss is None else f"{loss:.4g}"}  # the report beside the run has all of it
    kept = {} if loss is None else {"val_loss": loss}
    close("train", out, told, 0, time.monotonic() - began, f"ecgecho eval {quoted(out)}", extra=kept)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Directory of a run.")],
    catalog: Annotated[Path | None, typer.Option("--catalog", help="Judge on another catalog.")] = None,
    ecg: Annotated[Path | None, typer.Option("--ecg", help="Its ECG store.")] = None,
    echo: Annotated[
        list[Path] | None, typer.Option("--echo", help="Echo stores of the catalog (default: the run's own); may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Metrics file (default: in RUN).")] = None,
    evals: Annotated[list[str] | None, typer.Option("--evals", help="Which (default: all); may be repeated.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="A question, or a 0/1 label such as ptbxl.superclass.MI; may be repeated.")
    ] = None,
    labels_share: Annotated[
        list[str] | None,
        typer.Option("--labels-share", metavar="SHARE,...", help="Of the training labels, as 0.001,0.01,0.1,1 (default: 0.1,1)."),
    ] = None,
    window_days: Annotated[
        float | None,
        typer.Option("--window-days", help="From an ECG to a study or measurement (default: as the run learnt)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of the label shares.")] = 0,
    bootstraps: Annotated[int, typer.Option(min=10, help="Resamples of subjects behind an interval.")] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    sets: Set = None,
    as_json: AsJson = False,
) -> None:
    """Judge a run: zero-shot, probes, neighbours, fine-tuning, retrieval, uncertainty, each with its interval and floor."""
    _check_device(device)
    from ecgecho import evaluate as story
    from ecgecho.report.tables import table

    began = time.monotonic()
    result = story.evaluate(
        run, catalog=catalog, ecg=ecg, echo=echo or (), evals=evals or None, seed=seed, bootstraps=bootstraps, device=device,
        tasks=tasks or None, settings=sets or [], out=out, labels_share=_shares(labels_share or ["0.1,1"]),
        window_days=window_days,
    )  # fmt: skip
    print(json.dumps(result, indent=1) if as_json else table(result))
    out = out or story.place(run, catalog, result)
    close("eval", out, {"rows": len(result["rows"])}, 0, time.monotonic() - began, "", quiet=as_json)


def _check_recording(path: Path) -> None:
    """Refuse what is not there and what is a folder; a WFDB record may be named without its suffix."""
    import embed_cache
    from ecgecho.types import UserError

    headers = (path.with_name(f"{path.name}.hea"), path.with_suffix(".hea")) if path.name else ()
    if embed_cache.is_remote(path) or any(header.is_file() for header in headers):
        return
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the recording itself.")
    if not path.exists():
        raise UserError(f"there is no file {path}. Check the path.")


@app.command()
def search(
    run: Annotated[Path, typer.Argument(help="Directory of a run that learnt from echo.")],
    ecg: Annotated[Path, typer.Argument(metavar="ECG-FILE", help="A recording of any format that is read.")],
    store: Annotated[list[Path] | None, typer.Option("--store", help="Echo store (default: the run's); may be repeated.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many studies.")] = 10,
    catalog: Annotated[
        list[Path] | None, typer.Option("--catalog", help="Of the studies (default: the run's); may be repeated.")
    ] = None,
    row: Annotated[int | None, typer.Option(min=0, help="Of an array that holds many recordings.")] = None,
    leads: Annotated[str, typer.Option(metavar="I,II,...", help="Where the file does not name them.")] = "",
    fs_hz: Annotated[float | None, typer.Option("--fs-hz", help="Where the file does not say it.")] = None,
    unit: Annotated[str, typer.Option(help="mv, uv or zscore, where the file does not say it.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: AsJson = False,
) -> None:
    """The echo studies most like an ECG, with how sure the run is and what was measured of them; writes nothing."""
    _check_device(device)
    import embed_cache

    _check_recording(ecg)
    for path in store or []:
        if not embed_cache.is_remote(path):
            embed_cache.open(path)  # before torch is loaded and the recording read
    from ecgecho import search as story
    from ecgecho.types import EcgSource

    if unit:
        _one_of("--unit", unit, ("mv", "uv", "zscore"))
    if fs_hz is not None and not 0 < fs_hz < float("inf"):
        raise usage(f"--fs-hz is {fs_hz:g}; give a rate above 0, such as 500.")
    named = tuple(name.strip() for name in leads.split(",") if name.strip())
    source = EcgSource(row=row, leads=named, fs_hz=fs_hz, unit=unit or None)  # type: ignore[arg-type]
    with ProgressBar("search", "studies") as bar:
        result = story.search(
            run, ecg, k=k, stores=store or [], catalogs=catalog or [], source=source, device=device, progress=bar
        )
    print(json.dumps(result, indent=1) if as_json else address(story.render(result)))


@app.command()
def doctor(
    root: Annotated[Path | None, typer.Argument(help="A dataset's folder or a catalog; without it, the machine alone.")] = None,
    dataset: Annotated[str, typer.Option(help="The dataset module to try on ROOT (default: all).")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Where a job would write (default: here).")] = None,
    teacher: Annotated[str, typer.Option(help="A teacher whose weights are to be tried.")] = "",
    weights: Annotated[str, typer.Option(help="Local file of the teacher's weights.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check a machine, a dataset and weights before a long job: each fault with what mends it."""
    from ecgecho import doctor as story

    if weights and not teacher:
        raise usage("--weights are those of a teacher: name it with --teacher.")
    findings = story.examine(root, out=out, teacher=teacher, weights=weights, dataset=dataset)
    print(json.dumps(story.to_json(findings), indent=1) if as_json else story.render(findings))
    if not story.healthy(findings):
        raise typer.Exit(1)


@app.command("list")
def list_plugins(
    kind: Annotated[str, typer.Argument(help="teachers, methods, encoders, datasets or evals.")],
    as_json: AsJson = False,
) -> None:
    """What there is of a kind of plug-in."""
    from ecgecho import plugins

    found = {name: plugins.summary(kind, name) for name in plugins.names(kind)}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for name, line in found.items():
        print(f"{name:16} {line}")


@contextlib.contextmanager
def _catalog_or_folder(source: Path, out: Path, key: Path | None, *, dry_run: bool) -> Iterator[Catalog]:
    """The catalog, or one made of a folder beside the store; for a dry run somewhere else, and removed again."""
    from ecgecho import catalog as tables
    from ecgecho import plugins

    if (source / "catalog.json").is_file():
        yield tables.read(source)
        return
    if not source.is_dir():
        raise usage(f"there is no catalog or folder {source}.")
    module = plugins.load("datasets", "folder")
    beside = _beside(out).with_name(f"{out.name}.catalog")
    with contextlib.ExitStack() as stack:
        if dry_run:
            kept, beside = beside, Path(stack.enter_context(tempfile.TemporaryDirectory())) / beside.name
            if kept.is_dir():
                shutil.copytree(kept, beside)
            if key is None and kept.with_name(kept.name + ".key").is_file():
                shutil.copy(kept.with_name(kept.name + ".key"), beside.with_name(beside.name + ".key"))
        else:
            say(f"{source} is no catalog; indexing it as a folder into {beside}")
        with ProgressBar("index", "files") as bar:
            settings = module.Config(key=str(key) if key is not None else "")
            catalog: Catalog = module.build(settings).index(source, beside, progress=bar)
        yield catalog


def _beside(out: Path) -> Path:
    """Where what belongs to a store is kept: beside it; for one in a bucket, in this folder."""
    import embed_cache

    return Path(out.name) if embed_cache.is_remote(out) else out


def _window(word: str) -> tuple[float, float]:
    """ "30" is from 30 days before to 30 after; "-1:30" from one day before to 30 after."""
    low, colon, high = word.partition(":")
    try:
        return (float(low), float(high)) if colon else (-float(low), float(low))
    except ValueError as error:
        raise usage(f"--window-days is {word!r}; give days such as 30, or from:to such as -1:30.") from error


def _show_inspection(found: Mapping[str, Any]) -> None:
    print(f"a dry run: nothing is written. {found['dataset']}, {found['bytes'] / 1e9:.3f} GB of tables and files")
    for name, what in found["parts"].items():
        print(f"found {name}: {what}")
    for what in found["missing"]:
        print(f"missing: {what}")
    if found["unchanged"]:
        print("the catalog is there and up to date.")


def _shares(words: list[str]) -> tuple[float, ...]:
    """0.001,0.01 and the like."""
    try:
        return tuple(float(part) for word in words for part in word.split(",") if part.strip())
    except ValueError:
        raise usage(f"--labels-share is {','.join(words)!r}; give shares above 0 and at most 1, as 0.001,0.01,0.1,1.") from None


def _one_of(option: str, word: str, known: tuple[str, ...]) -> None:
    from ecgecho.plugins import near_miss

    if word not in known:
        raise usage(f"{option} is {word!r}.{near_miss(word, known)}")


def _show_preview(preview: Preview, items: str) -> None:
    from ecgecho.log import duration

    there = ", ".join(f"{status} {count}" for status, count in sorted(preview.by_status.items()))
    print("a dry run: nothing is written.")
    print(f"already there    {there or 'nothing'}")
    parts = {"new": preview.num_new, "changed or to try again": preview.num_again, "left of a begun job": preview.num_unfinished}
    print(f"to compute       {preview.num_wanted} {items} ({', '.join(f'{name} {n}' for name, n in parts.items())})")
    print(f"to read          {preview.bytes_to_read / 1e9:.3f} GB")
    print(f"to write         {preview.bytes_to_write / 1e9:.3f} GB")
    if preview.num_sampled:
        measured = f"measured on {preview.num_sampled} {items} in one process; {_busy(preview.busy)}"
        print(f"time             about {duration(preview.seconds)} ({measured})")


def _say_repaired(done: Repaired) -> None:
    for name in done.files:
        say(f"mended: {name}")
    say(f"computed again: {done.num_parts} damaged parts, {done.num_rows} rows")


def _busy(shares: Mapping[str, float]) -> str:
    return "busy: " + ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())


def _paths(table: Any, name: str) -> Mapping[str, str]:
    """Where the files of items lie below the root, for the terminal only."""
    return dict(zip(table[name].to_pylist(), table["path"].to_pylist(), strict=True))


def _contract_of(store: Path) -> str:
    """The name of the contract that a store of ECGs was made by; empty where there is none."""
    import embed_cache

    if not (store / "head.json").is_file():
        return ""
    with contextlib.suppress(ValueError, OSError):
        contract = embed_cache.open(store).manifest.identity.get("contract")
        return str(contract.get("name", "")) if isinstance(contract, Mapping) else ""
    return ""


def _train_with(contract: str, source: Path, ecg: Path, echo: Path) -> str:
    """The command that trains on these stores: a recipe whose encoder takes ECGs of that contract."""
    from ecgecho import plugins

    catalog = source if (source / "catalog.json").is_file() else Path("CATALOG")
    stores = f"--catalog {quoted(catalog)} --echo {quoted(echo)} --ecg {quoted(ecg)}"
    for recipe, method in itertools.product(("small", "paper"), ("echoing_ecg", "echo2ecg")):
        encoder = plugins.load("methods", method).recipe(recipe).encoder_name
        if plugins.load("encoders", encoder).CONTRACT.name == contract:
            return f"ecgecho train {method} --recipe {recipe} {stores} --out runs/a"
    return f"ecgecho train echo2ecg --recipe small --set encoder_name=ENCODER {stores} --out runs/a"


def _close_cache(command: str, out: Path, report: CacheReport, seconds: float, following: str, paths: Mapping[str, str]) -> None:
    if report.already_done:
        told = ", ".join(f"{status} {count}" for status, count in sorted(report.by_status.items()))
        print(f"{address(out)} is done: nothing is new, missing or changed ({told}).")
        raise typer.Exit(report.exit_status)
    for reason, count in sorted(report.by_reason.items()):
        shown = ", ".join(paths.get(item, item) for item in report.examples[reason])
        print(f"  {reason:32} {count:>9}   {shown}{', ...' if count > len(report.examples[reason]) else ''}")
    for code, count in sorted(report.defects.items()):
        print(f"  {'ok, noted: ' + code:32} {count:>9}")
    failed = report.by_status.get("failed", 0)
    if failed:
        print(f"{failed} of {report.num_rows} failed. Mend the files and run the same command: only those rows are computed.")
    counts = {**report.by_status, "computed_now": report.num_computed, "verified_files": report.verified_files,
              "recomputed_and_equal": report.recomputed, "device": report.device}  # fmt: skip
    if report.num_computed:
        counts["per_second"] = round(report.num_computed / max(report.seconds, 1e-9), 1)
        counts["slowest_stage"] = report.slowest
        print(f"slowest stage: {report.slowest} ({_busy(report.busy)})")
    close(
        command,
        out,
        counts,
        report.exit_status,
        seconds,
        following,
        extra={"by_reason": dict(report.by_reason), "defects": dict(report.defects), "busy": dict(report.busy)},
    )
    raise typer.Exit(report.exit_status)


def _resolution(word: str) -> tuple[int, int]:
    rows, _, columns = word.lower().replace("*", "x").partition("x")
    if not (rows.strip().isdigit() and columns.strip().isdigit()):
        raise usage(f"--resolution is {word!r}; give rows x columns, such as 300x400 or 708x1016.")
    return int(rows), int(columns)


def _check_device(device: str) -> None:
    if device in ("auto", "cpu"):
        return
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise usage(f"there is no device {device!r} here; use --device cpu.")


def _cores(workers: int | None) -> int:
    return workers if workers is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
