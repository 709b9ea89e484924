"""Training: one loop for every method. It knows steps, time and files, and no method, modality or loss by name.

The directory of a run holds run.json (recipe, versions, what it read), metrics.jsonl, checkpoint/ while it is not done,
model.safetensors when it is, and vocabulary.json where the run reads texts. The same call again resumes, or says it is done.

Under torchrun every process (rank) makes the same tables and model, takes its slice of each batch and averages the gradients
with the others. Rank 0 alone writes, speaks and validates; what all must do together (stop, refuse, end) all agree on. What
fails for rank 0 it says alone; what fails for others only, they say.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ecgecho
from ecgecho import config, dist, log, optim, plugins, weights
from ecgecho import state as states
from ecgecho.config import Recipe
from ecgecho.data.batches import Batches
from ecgecho.data.examples import join
from ecgecho.data.sampler import BlockOrder
from ecgecho.data.sources import Sources, open_sources
from ecgecho.data.tables import EchoTable, Normaliser, SignalTable
from ecgecho.data.texts import Tokeniser, TokenTable, Words, make_tokeniser
from ecgecho.types import Json, MethodSizes, UsageError, UserError

FORMAT = 1
LOG_STEPS = 10
MOST_VALIDATIONS = 200
TIMED_ROWS = 8
QUICK_SECONDS = 5.0
SHOWN_IDS = 8
SHOWN_DIFFERENCES = 4
LINGER_SECONDS = 1.0
"""A process that ends without a word waits, because torchrun ends all as soon as one has ended: who speaks goes first."""


def train(
    recipe: Recipe,
    *,
    catalogs: Sequence[Path],
    ecgs: Sequence[Path],
    echos: Sequence[Path] = (),
    out: Path,
    init: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    say: Callable[[str], None] = log.say,
) -> Json:
    """Train a student into `out`, from where a former call stopped; what it reports is what `run.json` has under "result".

    `init` is a file of weights to begin with. Under torchrun ranks other than 0 say nothing and report "helper" as well.
    """
    with dist.joined(device):
        first = dist.rank() == 0
        made = first and not out.exists()
        try:
            with _alike():
                sources = open_sources(catalogs, ecgs, echos)
            if first:
                return _train(recipe, sources, out, init, device, progress=progress, say=say)
            result = _train(recipe, sources, out, init, device, progress=False, say=lambda line: None)
        except KeyboardInterrupt as stop:
            if first:
                raise
            raise SystemExit(130) from stop  # rank 0 says it
        except SystemExit:
            time.sleep(LINGER_SECONDS)
            raise
        finally:
            if made:
                with contextlib.suppress(OSError):  # a run has begun: the folder is not empty
                    out.rmdir()
        return {**result, "helper": True}


@contextlib.contextmanager
def _alike() -> Iterator[None]:
    """What each rank does for itself, with no word between them: where it fails for one it ends for all, and is told once.

    Rank 0 raises its own error and the others end without a word; where rank 0 does not fail, those raise theirs that do.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        failed = error
    try:
        of_first = dist.any_rank(failed is not None and dist.rank() == 0)
        of_any = dist.any_rank(failed is not None)
    except RuntimeError:  # another rank is gone
        if failed is None:
            raise
        of_first = False
    if failed is not None and (dist.rank() == 0 or not of_first):
        raise failed
    if of_any:
        raise SystemExit(1)


def _train(
    recipe: Recipe, sources: Sources, out: Path, init: Path | None, device: str, *, progress: bool, say: Callable[[str], None]
) -> Json:
    first = dist.rank() == 0
    with _alike():
        if init is None and recipe.optim.epochs == 0 and recipe.optim.steps == 0:
            raise UsageError("optim.epochs is 0, which makes a run out of given weights: add --init FILE, or raise it.")
        identity = {"recipe": _without_place(recipe), **sources.identity()}
        if init is not None:
            identity["init_sha256"] = _init_hash(init)
    former: Json = dist.from_first(lambda: _former_run(out, identity))
    if former.get("done"):
        say(f"{out} is done: {former['result']['steps']} steps; nothing to do.")
        return {**former["result"], "already_done": True}

    with _alike():
        out.mkdir(parents=True, exist_ok=True)
        where = _device(dist.device_of_rank(device))
        tables = _tables(recipe, sources, where, former)
    in_blocks = bool(dist.from_first(lambda: tables.in_blocks))
    key, checkpoint = config.digest(identity), out / "checkpoint"

    def sampler_at(step: int) -> Json:
        return asdict(batches.sampler.position(step, config.digest([identity["ecgs"], identity["echos"]])))

    with _alike():
        built = _build(recipe, sources, where, tables, in_blocks=in_blocks)
        model, batches, options, num_steps = built.model, built.batches, recipe.optim, _num_steps(recipe, built.batches)
        initial = [] if init is None else _import(recipe, model, init, built.tokeniser)
        after_step: Callable[[int], None] = model.after_step  # type: ignore[assignment]
        optimizer = optim.make_optimizer(model, options)
        state = states.restore(checkpoint, states.TrainState(model=model, optimizer=optimizer), key, sampler_at)
    step_of_first = dist.from_first(lambda: state.step)
    with _alike():
        if state.step != step_of_first:
            raise UserError(f"{checkpoint} is not the same for all processes: {out} must lie on a file system that they share.")
    run = {"format": FORMAT, "done": False, "identity": identity, "paths": sources.paths(out), "num_steps": num_steps}
    run |= {"device": _device_name(where), "versions": _versions(), **built.facts}
    if first:
        states.write_json(out / "run.json", run)
        if built.tokeniser is not None:
            states.write_json(out / "vocabulary.json", built.tokeniser.keep(out))
    for line in (*built.notes, *initial, _opening(recipe, built, num_steps, state.step, out)):
        say(line)
    step_seconds = 0.0
    if where.type == "cpu" and state.step < num_steps:
        step_seconds = _step_seconds(model, batches, options)
        seconds = (num_steps - state.step) * step_seconds
        say(f"about {seconds / 3600:.2g} hours ({log.duration(seconds)}) on this CPU, measured on one step")

    autocast = torch.autocast(where.type, torch.bfloat16, enabled=_bf16(recipe, where))
    every = max(batches.sampler.steps_per_epoch, num_steps / MOST_VALIDATIONS)
    metrics = log.Metrics(out / "metrics.jsonl", step=state.step) if first else None
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    numbers, held_out = dict[str, float](), dict[str, float]()
    bar = log.Bar("train", num_steps, unit="steps", start=state.step, shown=progress, say=say)
    with bar, states.Interrupt(step_seconds, together=dist.world() > 1) as interrupt:
        for step in range(state.step, num_steps):
            started = time.monotonic()
            # dropout: a resumed run draws the same, and each rank for itself
            torch.manual_seed(states.step_seed(recipe.seed, step, f"step{dist.rank() or ''}"))
            rate = optim.set_learning_rate(optimizer, step, num_steps, options)

            model.train()
            batch = batches.train(step)
            with autocast:
                parts: dict[str, torch.Tensor] = model(batch)
            optimizer.zero_grad(set_to_none=True)
            parts["loss"].backward()  # type: ignore[no-untyped-call]
            dist.average_gradients(model.parameters())
            norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm or math.inf)
            if dist.any_rank(not torch.isfinite(parts["loss"] + norm)):  # the one point where the host waits for the device
                if not first:
                    raise SystemExit(1)  # rank 0 says it
                raise _not_finite(step, parts, norm, batches.ids(step), out)
            optimizer.step()
            after_step(step)

            interrupt.step_seconds = time.monotonic() - started
            seconds = time.monotonic() - began
            state = states.TrainState(
                step=step + 1, model=model, optimizer=optimizer, seconds=seconds, sampler=sampler_at(step + 1)
            )
            if metrics and (step % LOG_STEPS == 0 or state.step == num_steps):
                numbers = {name: float(value.detach()) for name, value in parts.items()}
                numbers |= {"learning_rate": rate, "gradient_norm": float(norm), "seconds": state.seconds}
                metrics.write("train", state.step, numbers)
            bar.advance(1, f"loss {numbers['loss']:.4g}" if numbers else "")
            if metrics and (state.step // every > step // every or state.step == num_steps):
                epoch = state.step / batches.sampler.steps_per_epoch
                held_out = validate(model, batches, autocast)
                metrics.write("val", state.step, {"epoch": epoch, **held_out, "seconds": state.seconds})
            stop = dist.any_rank(interrupt.requested)
            if first and (stop or time.monotonic() - saved >= 60 * options.checkpoint_minutes):
                states.save(checkpoint, state, key)
                saved = time.monotonic()
            if stop:
                dist.barrier()  # a process that ends takes the others with it
                raise KeyboardInterrupt

    if metrics:
        metrics.close()

    def finish() -> Json:
        result = _result(built, state, held_out or validate(model, batches, autocast))
        states.write_tensors(out / "model.safetensors", states.weights(model))
        states.write_json(out / "run.json", {**run, "done": True, "result": result})
        states.remove(checkpoint)
        return result

    finished: Json = dist.from_first(finish)
    return finished


def validate(model: nn.Module, batches: Batches, autocast: torch.autocast) -> dict[str, float]:
    """Means over all rows of the validation split, each part over the batches that have it; empty where the split is."""
    model.eval()
    total: dict[str, float] = {}
    rows: dict[str, int] = {}
    with torch.no_grad(), autocast, dist.alone():
        for batch in batches.validation():
            for name, value in model(batch).items():
                total[name] = total.get(name, 0.0) + float(value) * len(batch.subject)
                rows[name] = rows.get(name, 0) + len(batch.subject)
    return {name: total[name] / rows[name] for name in total}


def make_recipe(method: str, name: str, assignments: Sequence[str] = ()) -> Recipe:
    """A method's recipe by name ("paper", "small") or a JSON file, with `key=value` words applied.

    `encoder_name=...` comes first and brings that encoder's own settings, so that `encoder.width=...` means the new one's.
    """
    module = plugins.load("methods", method)
    if name.endswith(".json"):
        recipe = config.from_json(Recipe, config.read_json(Path(name)))
        if recipe.method_name.replace("-", "_") != method.replace("-", "_"):
            raise UsageError(f"{name} is a recipe of {recipe.method_name}, not of {method}.")
    elif name in ("paper", "small"):
        recipe = replace(module.recipe(name), method_name=method if method.endswith(".py") else method.replace("-", "_"))
    else:
        raise UsageError(f"there is no recipe {name!r}.{plugins.near_miss(name, ['paper', 'small', 'FILE.json'])}")
    first = [word for word in assignments if word.partition("=")[0].strip() == "encoder_name"]
    if first:
        recipe = config.override(replace(recipe, encoder={}), first)
    return config.override(_complete(recipe), [word for word in assignments if word not in first])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    model: nn.Module
    batches: Batches
    tokeniser: Tokeniser | None
    facts: Json
    """For run.json."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    signals: SignalTable
    echo: EchoTable | None
    blocks: BlockOrder
    in_blocks: bool
    """Whether this rank would pass the ECGs by blocks; rank 0 decides."""


def _tables(recipe: Recipe, sources: Sources, device: torch.device, former: Json) -> _Tables:
    contract = plugins.load("encoders", recipe.encoder_name).CONTRACT
    place = recipe.data.place
    blocks = BlockOrder(**former["blocks"]) if former.get("blocks") else BlockOrder()
    signals = SignalTable(sources.ecgs, sources.ecg_paths, contract, device, place, blocks)
    echo = EchoTable(sources.echos, sources.echo_paths, device, place) if sources.echos else None
    in_blocks = former.get("blocks") is not None if former else signals.signal.place == "blocks"
    return _Tables(signals=signals, echo=echo, blocks=blocks, in_blocks=in_blocks)


def _build(recipe: Recipe, sources: Sources, device: torch.device, tables: _Tables, *, in_blocks: bool) -> _Built:
    """Model and batches, with every check that can be made before the first step. No word between ranks: see `_alike`."""
    signals, echo, blocks = tables.signals, tables.echo, tables.blocks
    material = join(
        sources.catalogs, signals.rows, echo.rows if echo else {}, recipe.data, echo.view_of_row if echo else lambda row: ""
    )
    train_split = material.splits["train"]
    if not len(train_split.row):
        raise UserError("no ECG of the ECG stores is in the training split; a split needs more subjects.")
    tokeniser = make_tokeniser(recipe.data, material.training_texts())
    sizes = MethodSizes(
        echo_dim=echo.dim if echo else 0,
        vocabulary_size=tokeniser.size if tokeniser else 0,
        num_labels=len(recipe.data.tasks),
        text_model="" if recipe.data.text == "words" else recipe.data.text,
        max_tokens=recipe.data.max_tokens,
    )
    model = config.build_model(recipe, sizes).to(device)
    needs: frozenset[str] = model.needs
    if "echo" in needs and recipe.data.views == "all" and not getattr(model, "takes_views", False):
        if setting := getattr(model, "one_view_by", ""):
            raise UsageError(
                f"data.views=all shows each view by itself, and {setting} takes one view a study; set data.views=draw, merge or "
                f"a view's name, or drop {setting}."
            )
        raise UsageError(
            f"data.views=all shows each view by itself, and {recipe.method_name} takes one echo a study; "
            "set data.views=merge (all, exactly, as one), or draw (one a pass)."
        )
    with_text = tokeniser is not None and "text" in needs
    mean, std = signals.statistics(train_split.row)
    batches = Batches(
        material=material,
        signals=signals,
        echo=echo if "echo" in needs else None,
        tokens=TokenTable(material.texts, tokeniser, recipe.data) if tokeniser and with_text else None,
        normaliser=Normaliser(mean, std, device),
        needs=needs,
        options=recipe.data,
        seed=recipe.seed,
        device=device,
        blocks=blocks if in_blocks else None,
        rank=dist.rank(),
        ranks=dist.world(),
    )
    notes, counts = list(material.notes), batches.counts()
    if not counts["val_ecgs"]:
        notes.append("the validation split holds nothing that this run learns from: there is no val loss")
    if dist.world() > 1:
        notes.append(_several(model, recipe))
    facts = {
        "blocks": asdict(blocks) if in_blocks else None,
        "seed": recipe.seed,
        "needs": sorted(needs),
        "sizes": config.to_json(sizes),
        "contract": config.to_json(signals.contract),
        "normaliser": {"mean_mv": mean.tolist(), "std_mv": std.tolist()},
        "teacher": echo.teacher if echo and "echo" in needs else None,
        "steps_per_epoch": batches.sampler.steps_per_epoch,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "counts": counts,
    }
    if dist.world() > 1:
        facts["ranks"] = dist.world()
    return _Built(model=model, batches=batches, tokeniser=tokeniser if with_text else None, facts=facts, notes=tuple(notes))


def _without_place(recipe: Recipe) -> Json:
    """The recipe as a run is known by: where a table lies changes nothing but speed."""
    value: Json = config.to_json(recipe)
    del value["data"]["place"]
    return value


def _complete(recipe: Recipe) -> Recipe:
    """The recipe with every setting of its method and encoder spelled out."""
    settings = {}
    for kind, name, given in (("encoder", recipe.encoder_name, recipe.encoder), ("method", recipe.method_name, recipe.method)):
        settings[kind] = config.to_json(config.from_json(plugins.load(f"{kind}s", name).Config, given, kind))
    return replace(recipe, **settings)


def _former_run(out: Path, identity: Json) -> Json:
    """run.json of a former call, checked to be the same run; empty for a new directory."""
    path = out / "run.json"
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} holds something that is no run; choose another --out.")
        return {}
    former: Json = config.read_json(path)
    known, asked = dict(former.get("identity") or {}), json.loads(json.dumps(identity))
    began, begins = known.pop("init_sha256", None), asked.pop("init_sha256", None)
    differs = _differences(known, asked)
    if began != begins:
        how = "without --init" if began is None else "with --init" if begins is None else "with another --init file"
        differs.insert(0, f"it was begun {how}")
    if differs:
        shown = "; ".join(differs[:SHOWN_DIFFERENCES]) + ("; ..." if differs[SHOWN_DIFFERENCES:] else "")
        raise UserError(f"{out} is another run: {shown}. Choose another --out, or run it as before.")
    return former


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [line for k in keys for line in _differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    return [] if old == new else [f"{where} was {_short(old)} and is {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _num_steps(recipe: Recipe, batches: Batches) -> int:
    """0 where no epoch is wanted, else 1 at least."""
    return recipe.optim.steps or math.ceil(recipe.optim.epochs * batches.sampler.steps_per_epoch)


def _not_finite(step: int, parts: dict[str, torch.Tensor], norm: torch.Tensor, ids: list[str], out: Path) -> UserError:
    values = {name: float(value.detach()) for name, value in parts.items()} | {"gradient_norm": float(norm)}
    bad = ", ".join(name for name, value in values.items() if not math.isfinite(value)) or "the loss of another rank"
    path = out / "not_finite.json"
    found = {"step": step, "not_finite": bad, "values": {k: repr(v) for k, v in values.items()}, "ecg_ids": ids}
    states.write_json(path, found)
    shown = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
    return UserError(
        f"{bad} not finite at step {step}; ECGs of the batch: {shown} (all {len(ids)} in {path}). "
        "Lower optim.learning_rate, or look at these recordings."
    )


def _result(built: _Built, state: states.TrainState, held_out: dict[str, float]) -> Json:
    counts = built.facts["counts"]
    return {
        "steps": state.step,
        "epochs": round(state.step / built.facts["steps_per_epoch"], 3),
        "seconds": round(state.seconds, 3),
        "val_loss": held_out.get("loss"),
        "parameters": built.facts["num_parameters"],
        "train_ecgs": counts["train_ecgs"],
        "train_echo_pairs": counts["train_echo_pairs"],
    }


def _step_seconds(model: nn.Module, batches: Batches, options: config.OptimOptions) -> float:
    """Seconds of one step, on a copy of the model: of a few rows, and of a whole batch where that is quick. By all ranks."""
    copied = copy.deepcopy(model).train()
    optimizer = optim.make_optimizer(copied, options)

    def measure(rows: int) -> float:
        batch, began = batches.sample(rows), time.monotonic()
        copied(batch)["loss"].backward()
        dist.average_gradients(copied.parameters())
        optimizer.step()
        return time.monotonic() - began

    size = batches.options.batch_size // dist.world()
    few = min(TIMED_ROWS, size)
    measure(few)  # warms up
    seconds = measure(few) * size / few
    seconds = float(dist.from_first(lambda: seconds))
    return measure(size) if seconds < QUICK_SECONDS else seconds


def _several(model: nn.Module, recipe: Recipe) -> str:
    """How the processes share a batch, for the user."""
    ranks = dist.world()
    size = recipe.data.batch_size
    told = f"{ranks} processes, each with its slice of every batch of {size}"
    if getattr(model, "gathers", False):
        return f"{told}; the loss is over all of it"
    return f"{told}; {recipe.method_name} has its loss over a slice alone, of about {size // ranks} rows"


def _init_hash(path: Path) -> str:
    """SHA-256 of a file of weights, or of the names and hashes of all of them in a folder."""
    if (path / "run.json").is_file():
        raise UsageError(f"--init {path} is the folder of a run; give {path / 'model.safetensors'}.")
    if path.is_file():
        return weights.sha256(path)
    files = sorted(p for p in path.iterdir() if p.suffix in weights.SUFFIXES) if path.is_dir() else []
    if not files:
        raise UsageError(
            f"--init {path}: there is no such file of weights ({', '.join(weights.SUFFIXES)}), nor a folder of them."
        )
    lines = "".join(f"{p.name}:{weights.sha256(p)};" for p in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _import(recipe: Recipe, model: nn.Module, path: Path, tokeniser: Tokeniser | None) -> list[str]:
    """Load given weights: those of a run of ours, of the method's publication, or of the encoder's. What to tell the user."""
    if path.suffix == ".safetensors" and path.is_file():
        own = weights.read_weights(path)
        kept = path.with_name("vocabulary.json")
        common = own.keys() & model.state_dict().keys()
        if len(common) > max(len(own), len(model.state_dict())) / 2:
            if isinstance(tokeniser, Words) and kept.is_file() and config.read_json(kept).get("tokens") != list(tokeniser.tokens):
                raise UserError(
                    f"--init {path}: that run learnt from reports with another vocabulary ({kept}), so its words would be others "
                    "here. Begin with published weights, or train on the same catalogs."
                )
            weights.fit(model, own, f"--init {path}")
            return [f"began with {path}: all {len(own)} tensors of a run's model"]
    for kind, name, module in (("methods", recipe.method_name, model), ("encoders", recipe.encoder_name, model.encoder)):
        reader = getattr(plugins.load(kind, name), "import_weights", None)
        lines: list[str] = reader(module, path) if reader is not None else []
        if lines:
            return lines
    raise UserError(
        f"--init {path}: neither {recipe.method_name} nor {recipe.encoder_name} knows these weights, and they are not those of "
        "a run of this very recipe (model.safetensors)."
    )


def _opening(recipe: Recipe, built: _Built, num_steps: int, step: int, out: Path) -> str:
    counts = built.facts["counts"]
    return (
        f"train: {recipe.method_name} on {recipe.encoder_name}, {built.facts['num_parameters'] / 1e6:.2f} M parameters, "
        f"{counts['train_ecgs']} ECGs and {counts['train_echo_pairs']} echo pairs of {counts['train_subjects']} subjects, "
        f"{num_steps} steps of {recipe.data.batch_size}{f', from step {step}' if step else ''} -> {out}"
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch sees no GPU here; use cpu or auto.")
    return device


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _bf16(recipe: Recipe, device: torch.device) -> bool:
    return recipe.precision == "bf16" or (recipe.precision == "auto" and device.type == "cuda")


def _versions() -> Json:
    ours = {"ecgecho": ecgecho.__version__, "python": platform.python_version()}
    return {**ours, "torch": torch.__version__, "numpy": np.__version__}
