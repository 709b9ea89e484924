"""What does a training step of `echo2ecg` cost beside the published path, and which of the differences gives how much?

    python benchmarks/echo2ecg_step.py --work DIR --out benchmarks/results/NAME_YYYYMM.md
    python benchmarks/echo2ecg_step.py --work DIR --out ... --device cuda --batch 256 --ecgs 4096 --steps 20 --workers 8

The plain path is written here from a description of the reference and holds nothing of ours: a file for every ECG, one tensor of
all views addressed by number, studies padded with zeros to 128 views, attention that projects twice and keeps its maps, every
block computed twice (checkpointing), AdamW with a group for every parameter. Ours reads rows of stores, pools ragged views,
multiplies the two projections first and keeps no maps. Sizes are the paper's: the OTiS encoder (12 blocks, 505 tokens of 192),
views of 512, pooling in 1024, embeddings of 512. Before anything is timed, both must give the same loss from the same weights for
the same batch. Each way runs in a process of its own, so that the peak of its memory is its own. All data are random numbers;
only speed is asked. Needs pandas, as the reference does.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FS_HZ, LENGTH, CROP, LEADS = 500, 5000, 1008, 12
VIEW_DIM, POOL_DIM, JOINT_DIM, SLOTS = 512, 1024, 512, 128
TEMPERATURE = 0.5
MOST_VIEWS, MEAN_VIEWS = 30, 7.4  # the paper's 7.4 views a study
TOLERANCE = 1e-4
SCALE = 2.0**-12


@dataclass(frozen=True)
class Way:
    """Which of the plain path's habits a row of the table has; `plain` is the model written here, not ours with a habit."""

    name: str
    title: str
    plain: bool = False
    files: bool = False
    padded: bool = False
    maps: bool = False
    unfolded: bool = False
    checkpointed: bool = False
    groups: bool = False


WAYS = (
    Way("plain", "the plain path, all of it", *[True] * 7),
    Way("ours", "ours"),
    Way("files", "ours, but a file for every ECG", files=True),
    Way("padded", "ours, but padded to 128 views", padded=True),
    Way("maps", "ours, but attention not fused, its maps kept", maps=True),
    Way("unfolded", "ours, but two projections one after the other", unfolded=True),
    Way("checkpointed", "ours, but every block computed twice", checkpointed=True),
    Way("groups", "ours, but a group for every parameter", groups=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--ecgs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=2, help="each in another order of the ways")
    parser.add_argument("--workers", type=int, default=0, help="processes that read files ahead, in the ways that read files")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--one", default="", help="a single way (or `check`) in this process; prints JSON")
    words = parser.parse_args()
    if words.threads:
        torch.set_num_threads(words.threads)
    if words.one:
        print(json.dumps(check(words) if words.one == "check" else measure(words, next(w for w in WAYS if w.name == words.one))))
        return
    prepare(words.work, words.ecgs)
    checked = alone(words, "check")
    print(f"loss of the plain path {checked['plain']:.6f}, of ours {checked['ours']:.6f}", flush=True)
    if not abs(checked["plain"] - checked["ours"]) < TOLERANCE:
        sys.exit("the two paths do not compute the same loss; there is nothing to compare")
    found: dict[str, list[dict[str, Any]]] = {way.name: [] for way in WAYS}
    for turn in range(words.rounds):
        for way in WAYS[:: 1 if turn % 2 == 0 else -1]:
            found[way.name].append(alone(words, way.name))
            last = found[way.name][-1]
            print(f"{way.title}: {last['step']:.2f} s a step, {last['peak_mib']:.0f} MiB", flush=True)
            text = report(words, checked, found)
            if words.out is not None:
                words.out.write_text(text, encoding="utf-8")
    print(text)


def alone(words: argparse.Namespace, name: str) -> dict[str, Any]:
    """One way in a process of its own."""
    keep = ("work", "device", "batch", "ecgs", "steps", "threads", "workers")
    line = [sys.executable, __file__, "--one", name, *(w for k in keep for w in (f"--{k}", str(getattr(words, k))))]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# The data: the same numbers as stores and as files


def prepare(work: Path, ecgs: int) -> None:
    """Catalog, stores, files and start weights; nothing where they are."""
    import embed_cache
    from ecgecho import catalog
    from ecgecho.config import digest, to_json
    from ecgecho.encoders import otis

    if (work / "ready.json").is_file() and json.loads((work / "ready.json").read_text()) == {"ecgs": ecgs}:
        return
    shutil.rmtree(work, ignore_errors=True)
    (work / "files").mkdir(parents=True)
    rng = np.random.default_rng(0)
    people = [f"p{k:06d}" for k in range(ecgs)]
    counts = np.clip(rng.geometric(1 / MEAN_VIEWS, ecgs), 1, MOST_VIEWS)
    clips = [(f"{who}-c{k:02d}", f"{who}-s", who) for who, n in zip(people, counts, strict=True) for k in range(n)]
    now = datetime.datetime(2020, 1, 1)  # noqa: DTZ001 - the catalog's times have no zone
    some = {"time": [now] * ecgs}
    catalog.write(
        work / "catalog",
        root=work,
        dataset="random",
        family="random",
        tables={
            "subjects": pa.table({"subject_id": people, "split": ["train"] * ecgs}),
            "ecgs": pa.table({"ecg_id": [f"{p}-e" for p in people], "subject_id": people, "path": people, **some}),
            "clips": pa.table(
                {
                    "clip_id": [c[0] for c in clips],
                    "study_id": [c[1] for c in clips],
                    "subject_id": [c[2] for c in clips],
                    "path": [c[0] for c in clips],
                    "time": [now] * len(clips),
                }
            ),
            "pairs": pa.table(
                {
                    "ecg_id": [f"{p}-e" for p in people],
                    "subject_id": people,
                    "study_id": [f"{p}-s" for p in people],
                    "gap_days": [0.0] * ecgs,
                    "split": ["train"] * ecgs,
                    "weight": [1.0] * ecgs,
                }
            ),
        },
    )
    scale, valid = np.full(LEADS, SCALE, np.float32), np.ones(LEADS, np.uint8)

    def ecg_values(item: str) -> dict[str, Any]:
        noise = np.random.default_rng(int(item[1:7])).standard_normal((LEADS, LENGTH), np.float32)
        signal = np.round(noise / SCALE).clip(-32767, 32767).astype(np.int16)
        torch.save(torch.from_numpy(signal.astype(np.float32) * SCALE), work / "files" / f"{item}.pt")
        return {"signal": signal, "scale": scale, "lead_valid": valid}

    number = {c[0]: k for k, c in enumerate(clips)}
    views = torch.empty(len(clips), VIEW_DIM)

    def echo_values(item: str) -> dict[str, Any]:
        vector = np.random.default_rng((1, number[item])).standard_normal(VIEW_DIM).astype(np.float16)
        views[number[item]] = torch.from_numpy(vector.astype(np.float32))
        return {"moments": np.stack([vector, np.full(VIEW_DIM, 0.1, np.float16)]), "pooled": vector}

    contract = otis.CONTRACT
    made = {"contract": to_json(contract), "contract_sha256": digest(contract), "unit": contract.unit}
    columns = [
        embed_cache.Column("signal", (LEADS, LENGTH), "int16"),
        embed_cache.Column("scale", (LEADS,), "float32"),
        embed_cache.Column("lead_valid", (LEADS,), "uint8"),
    ]
    store(work / "ecg.zarr", "ecg", made, columns, {f"{p}-e": f"{p}-e" for p in people}, ecg_values)
    columns = [embed_cache.Column("moments", (2, VIEW_DIM), "float16"), embed_cache.Column("pooled", (VIEW_DIM,), "float16")]
    taught = {"teacher": "random", "weights_sha256": "0" * 64}
    store(work / "echo.zarr", "echo", taught, columns, {c[0]: c[1] for c in clips}, echo_values, num_frames=1)
    torch.save(views, work / "files" / "views.pt")
    lines = ["ecg_study_id,echo_study_id,ecg_filepath,echo_embed_idx"]
    lines += [f"{who}-e,{study},{work / 'files' / f'{who}-e.pt'},{number[clip]}" for clip, study, who in clips]
    (work / "files" / "pairs.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    torch.save({"state_dict": Plain().state_dict()}, work / "plain.pt")
    (work / "ready.json").write_text(json.dumps({"ecgs": ecgs}))


def store(
    path: Path, kind: str, identity: dict[str, Any], columns: list[Any], groups: dict[str, str],
    values: Callable[[str], dict[str, Any]], **counts: int,
) -> None:  # fmt: skip
    """A sealed store of these items."""
    import embed_cache

    plan = embed_cache.make_plan(list(groups), list(groups.values()), seed=0)
    writer = embed_cache.Writer.create_or_resume(
        path, kind=kind, identity=identity, columns=columns, counts=tuple(counts), plan=plan
    )
    for part in writer.pending():
        rows = {i: embed_cache.Row("ok", values=values(i), counts=counts) for i, *_ in writer.rows_of(part)}
        writer.commit(part, rows, {})
    writer.seal({})


# The plain path. B batch, T tokens, D width.


class Attention(nn.Module):
    """Projected twice, once by `qkv` and once within the module of torch, which also returns its map; the map is kept."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.mha = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        out, self.map = self.mha(query, key, value)
        result: Tensor = self.proj(out)
        return result


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(1, dim, (1, patch), (1, patch)), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 12, L) -> (B, 12, L // patch, D)."""
        return F.gelu(self.norm(self.proj(x[:, None]).permute(0, 2, 3, 1)))


class Encoder(nn.Module):
    """(B, 12, 1008) -> (B, 505, D), CLS first, then lead by lead; no norm at the end."""

    def __init__(self, dim: int = 192, depth: int = 12, heads: int = 3, patch: int = 24) -> None:
        super().__init__()
        steps, half = CROP // patch, dim // 2
        self.patch_embed = PatchEmbed(dim, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed_x = nn.Parameter(time_codes(steps, half), requires_grad=False)
        self.pos_embed_y = nn.Embedding(LEADS + 1, half, padding_idx=0)
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(depth))

    def forward(self, ecg: Tensor) -> Tensor:
        x = self.patch_embed(ecg)
        batch, leads, steps, dim = x.shape
        lead = self.pos_embed_y(torch.arange(1, leads + 1, device=x.device))[None, :, None].expand(1, leads, steps, -1)
        when = self.pos_embed_x[:, None, 1 : steps + 1].expand(1, leads, steps, -1)
        tokens = (x + torch.cat([lead, when], -1)).reshape(batch, leads * steps, dim)
        x = torch.cat([self.cls_token.expand(batch, -1, -1), tokens], 1)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if torch.is_grad_enabled() else block(x)
        return x


def time_codes(steps: int, dim: int) -> Tensor:
    """(1, 1 + steps, dim): zeros for CLS, then sines and cosines of the positions from 0."""
    rate = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * rate
    return torch.cat([torch.zeros(1, dim), torch.cat([angle.sin(), angle.cos()], -1).float()])[None]


class Pool(nn.Module):
    """Attention over the views of a study, the query being their mean. (B, V, D), missing (B, V) -> (B, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.aggregator = nn.ModuleDict({"mha": nn.MultiheadAttention(dim, heads, batch_first=True)})

    def forward(self, views: Tensor, missing: Tensor) -> Tensor:
        there = (~missing)[..., None].to(views.dtype)
        query = (views * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        out, self.map = self.aggregator["mha"](query, views, views, key_padding_mask=missing)
        pooled: Tensor = out[:, 0]
        return pooled


class Plain(nn.Module):
    """The plain path's model, under the names of the published checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.ecg_encoder = Encoder()
        self.token_aggregator = nn.ModuleDict({"ecg_layernorm_global": nn.LayerNorm(192)})
        self.ecg_alignment_global_token = nn.Linear(192, JOINT_DIM, bias=False)
        self.echo_projection_for_agg = nn.Linear(VIEW_DIM, POOL_DIM)
        self.echo_view_aggregator = Pool(POOL_DIM, 4)
        self.echo_alignment_global_token = nn.Linear(POOL_DIM, JOINT_DIM, bias=False)

    def forward(self, ecg: Tensor, views: Tensor, missing: Tensor) -> Tensor:
        tokens = self.token_aggregator["ecg_layernorm_global"](self.ecg_encoder(ecg)[:, 1:].mean(1))
        return clip_loss(self.ecg_alignment_global_token(tokens), self.study(views, missing))

    def study(self, views: Tensor, missing: Tensor) -> Tensor:
        pooled = self.echo_view_aggregator(self.echo_projection_for_agg(views), missing)
        result: Tensor = self.echo_alignment_global_token(pooled)
        return result


def clip_loss(ecg: Tensor, echo: Tensor) -> Tensor:
    logits = F.normalize(ecg, dim=-1) @ F.normalize(echo, dim=-1).T / TEMPERATURE
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class Files(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """An ECG and the views of its study, by a look-up in a table and a file read for every item."""

    def __init__(self, work: Path, slots: int, *, crop_at: int | None = None) -> None:
        import pandas

        self.rows = pandas.read_csv(work / "files" / "pairs.csv").groupby(["ecg_study_id", "echo_study_id"], sort=False)
        self.keys = list(self.rows.groups)
        self.views = torch.load(work / "files" / "views.pt", weights_only=True)
        self.slots, self.crop_at = slots, crop_at

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.rows.get_group(self.keys[k])
        ecg = torch.load(rows["ecg_filepath"].iloc[0], weights_only=True)
        start = int(torch.randint(LENGTH - CROP + 1, (1,))) if self.crop_at is None else self.crop_at
        found = torch.stack([self.views[int(row["echo_embed_idx"])] for _, row in rows.iterrows()][:SLOTS])
        missing = torch.ones(self.slots or len(found), dtype=torch.bool)
        missing[: len(found)] = False
        if self.slots:
            found = torch.cat([found, torch.zeros(self.slots - len(found), VIEW_DIM)])
        return ecg[:, start : start + CROP], found, missing


class Chosen(torch.utils.data.Sampler[list[int]]):
    """The items of each step, so that both paths see the same."""

    def __init__(self, steps: list[list[int]]) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


# Ours


def our_batches(words: argparse.Namespace, *, crop: int) -> Any:
    """Training batches as `ecgecho train` makes them."""
    from ecgecho.config import DataOptions
    from ecgecho.data.batches import Batches
    from ecgecho.data.examples import join
    from ecgecho.data.sources import open_sources
    from ecgecho.data.tables import EchoTable, Normaliser, SignalTable
    from ecgecho.encoders import otis

    device = torch.device(words.device)
    options = DataOptions(batch_size=words.batch, views="all", crop_samples=crop, augment="none", max_views=SLOTS)
    sources = open_sources([words.work / "catalog"], [words.work / "ecg.zarr"], [words.work / "echo.zarr"])
    signals = SignalTable(sources.ecgs, sources.ecg_paths, otis.CONTRACT, device)
    echo = EchoTable(sources.echos, sources.echo_paths, device)
    return Batches(
        material=join(sources.catalogs, signals.rows, echo.rows, options),
        signals=signals,
        echo=echo,
        tokens=None,
        normaliser=Normaliser(np.zeros(LEADS, np.float32), np.ones(LEADS, np.float32), device),
        needs=frozenset({"echo"}),
        options=options,
        seed=0,
        device=device,
    )


def our_model(words: argparse.Namespace, *, checkpointing: bool = False) -> Any:
    """The method in its published setting with the weights of the plain one."""
    from ecgecho import config, plugins
    from ecgecho.train import make_recipe
    from ecgecho.types import MethodSizes

    settings = ["encoder.drop_path=0", f"encoder.checkpointing={json.dumps(checkpointing)}", "method.repeats=negatives"]
    recipe = make_recipe("echo2ecg", "paper", settings)
    model: nn.Module = config.build_model(recipe, MethodSizes(echo_dim=VIEW_DIM))
    plugins.load("methods", "echo2ecg").import_weights(model, words.work / "plain.pt")
    return model.to(words.device)


class Mapped(nn.Module):
    """Our attention, not fused: the map is made, used and kept, averaged over heads as torch's own module gives it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, out_weight, out_bias = self.inner.folded()
        q, k, v = F.linear(x, weight, bias).view(*x.shape[:2], 3, self.inner.heads, -1).permute(2, 0, 3, 1, 4)
        shares = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        self.map = shares.mean(1)
        return F.linear((shares @ v).transpose(1, 2).flatten(2), out_weight, out_bias)


class Unfolded(Attention):
    """Projected twice, as published, but fused."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        result: Tensor = self.proj(self.mha(query, key, value, need_weights=False)[0])
        return result


def unfolded(inner: nn.Module) -> Unfolded:
    made = Unfolded(192, 3)
    made.load_state_dict(inner.state_dict())
    return made.to(next(inner.parameters()).device)


def padded(echo: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ragged views as (M, 128, D) with zeros and missing (M, 128), put together on the host."""
    start = echo.start.tolist()
    whole, missing = torch.zeros(len(start) - 1, SLOTS, VIEW_DIM), torch.ones(len(start) - 1, SLOTS, dtype=torch.bool)
    values = echo.values[:, 0].cpu()
    for m, (first, last) in enumerate(zip(start[:-1], start[1:], strict=True)):
        whole[m, : last - first], missing[m, : last - first] = values[first:last], False
    return whole.to(device), missing.to(device)


def padded_loss(model: Any, ecg: Tensor, views: Tensor, missing: Tensor) -> Tensor:
    """Ours with the plain pooling over padded studies, by the same weights."""
    from ecgecho.losses.clip import clip_loss as our_loss

    values = model.project_views(views)
    there = (~missing)[..., None].to(values.dtype)
    query = (values * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    pooled, _ = model.pool.mha(query, values, values, key_padding_mask=missing)
    loss: Tensor = our_loss(model.ecg_head(model.features(ecg)), model.echo_head(pooled[:, 0]), model.scale)
    return loss


def ragged(items: list[tuple[Tensor, Tensor, Tensor]]) -> Any:
    """Items of `Files` without padding as a batch of ours."""
    from ecgecho.types import Batch, Block

    counts = [len(views) for _, views, _ in items]
    values = torch.cat([views for _, views, _ in items])
    number = torch.arange(len(items))
    return Batch(
        ecg=torch.stack([ecg for ecg, _, _ in items])[None],
        ecg_lead_valid=torch.ones(len(items), LEADS, dtype=torch.bool),
        subject=number,
        study=number,
        text_key=torch.full_like(number, -1),
        echo=Block(values=torch.stack([values, torch.zeros_like(values)], 1), row=number,
                   start=torch.tensor([0, *np.cumsum(counts)])),
    )  # fmt: skip


# What is measured


def check(words: argparse.Namespace) -> dict[str, float]:
    """The loss of both paths for the same batch, crops at 0, fp32; and the items of every step, for the way that reads files."""
    batches = our_batches(words, crop=0)
    ids = [batches.ids(step) for step in range(words.steps + 1)]
    (words.work / "order.json").write_text(json.dumps(ids))
    device = torch.device(words.device)
    model = our_model(words)
    batch = batches.train(0)
    files = Files(words.work, SLOTS, crop_at=0)
    number = {key[0]: k for k, key in enumerate(files.keys)}
    items = torch.utils.data.default_collate([files[number[i]] for i in ids[0]])
    plain = plain_model(words)
    with torch.no_grad():
        ours = model.eval()(dataclasses.replace(batch, ecg=batch.ecg[..., :CROP].contiguous()))["loss"]
        theirs = plain.eval()(*(part.to(device) for part in items))
    views = np.mean([len(files.rows.get_group(key)) for key in files.keys])
    return {"plain": float(theirs), "ours": float(ours), "views": float(views)}


def plain_model(words: argparse.Namespace) -> Plain:
    model = Plain()
    model.load_state_dict(torch.load(words.work / "plain.pt", weights_only=True)["state_dict"])
    return model.to(words.device)


def measure(words: argparse.Namespace, way: Way) -> dict[str, Any]:
    """Seconds of the parts of a step, medians, and the peak of memory."""
    device = torch.device(words.device)
    cuda = device.type == "cuda"
    torch.manual_seed(0)
    model: Any
    if way.plain:
        model = plain_model(words)
    else:
        model = our_model(words, checkpointing=way.checkpointed)
        for block in model.encoder.blocks:
            block.attn = Mapped(block.attn) if way.maps else unfolded(block.attn) if way.unfolded else block.attn
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    if way.groups:
        optimizer = torch.optim.AdamW([{"params": [p]} for p in trained], lr=5e-4, weight_decay=1e-7)
    else:
        optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=1e-7, fused=True)

    load, steps = loader(words, way), words.steps + 1
    before = torch.cuda.memory_allocated() if cuda else resident()
    seconds: dict[str, list[float]] = {"data": [], "model": [], "optimiser": [], "cpu": []}
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    for step in range(steps):
        cpu, began = time.process_time(), now()
        given = load(step)
        loaded = now()
        with torch.autocast("cuda", torch.bfloat16) if cuda else contextlib.nullcontext():
            loss = loss_of(model, way, given)
        loss.backward()  # type: ignore[no-untyped-call]
        computed = now()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ended = now()
        for name, value in zip(
            seconds, (loaded - began, computed - loaded, ended - computed, time.process_time() - cpu), strict=True
        ):
            seconds[name].append(value)
    found: dict[str, Any] = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    found["step"] = statistics.median(sum(parts) for parts in list(zip(*list(seconds.values())[:3], strict=True))[1:])
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = {"peak_mib": peak / 2**20, "steps_mib": (peak - before) / 2**20}
    return found | memory | {"load": os.getloadavg()[0], "threads": torch.get_num_threads()}


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def loader(words: argparse.Namespace, way: Way) -> Callable[[int], Any]:
    """What a step is given, on the device."""
    device = torch.device(words.device)
    if not way.files:
        batches = our_batches(words, crop=CROP)
        if not way.padded:
            return batches.train

        def from_stores(step: int) -> Any:
            batch = batches.train(step)
            return batch.ecg[0], *padded(batch.echo, device)

        return from_stores
    files = Files(words.work, SLOTS if way.padded else 0)
    number = {key[0]: k for k, key in enumerate(files.keys)}
    chosen = Chosen([[number[i] for i in step] for step in json.loads((words.work / "order.json").read_text())])
    collate = torch.utils.data.default_collate if way.padded else ragged
    read = iter(torch.utils.data.DataLoader(files, batch_sampler=chosen, collate_fn=collate, num_workers=words.workers))
    return lambda step: on_device(next(read), device)


def on_device(given: Any, device: torch.device) -> Any:
    if isinstance(given, list):
        return [part.to(device, non_blocking=True) for part in given]

    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    echo = dataclasses.replace(given.echo, **{k: moved(getattr(given.echo, k)) for k in ("values", "row", "start")})
    rest = {k: moved(getattr(given, k)) for k in ("ecg", "ecg_lead_valid", "subject", "study", "text_key")}
    return dataclasses.replace(given, echo=echo, **rest)


def loss_of(model: Any, way: Way, given: Any) -> Tensor:
    if way.plain:
        return model(*given)  # type: ignore[no-any-return]
    if way.padded:
        return padded_loss(model, *given)
    return model(given)["loss"]  # type: ignore[no-any-return]


# The table


def report(words: argparse.Namespace, checked: dict[str, float], found: dict[str, list[dict[str, Any]]]) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    cuda = words.device != "cpu"
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
    every = [one for turns in found.values() for one in turns]
    load = [one["load"] for one in every]
    lines = [
        "# A training step of `echo2ecg`",
        "",
        f"- machine: {where}; Python {platform.python_version()}, torch {torch.__version__}, {every[0]['threads']} threads",
        f"- date: {datetime.date.today().isoformat()}, commit {commit}, load average (1 min) {min(load):.1f} to {max(load):.1f}",
        f"- command: `python benchmarks/echo2ecg_step.py --work DIR --device {words.device} --batch {words.batch} --ecgs "
        f"{words.ecgs} --steps {words.steps} --rounds {words.rounds} --threads {words.threads} --workers {words.workers}`",
        f"- random data: {words.ecgs} ECGs of {LEADS} x {LENGTH}, each with a study of 1 to {MOST_VIEWS} views, "
        f"{checked['views']:.1f} on average, {VIEW_DIM} numbers a view; batch {words.batch}, {'bf16' if cuda else 'fp32'}; crops "
        f"of {CROP} samples; no augmentation and no drop path in any row",
        f"- the same loss first: plain {checked['plain']:.6f}, ours {checked['ours']:.6f} (same weights, same batch, fp32)",
        f"- medians of {words.steps} steps, and of at most {words.rounds} rounds; ratios are to `ours`, above 1: slower, larger",
        f"- each way in a process of its own; memory is the peak {'allocated on the GPU' if cuda else 'of the process (RSS)'}, "
        "and what of it came after model and data were there",
        "",
        "| way | data, s | forward and backward, s | optimiser, s | step, s | ratio | CPU time, s | ratio | peak, MiB "
        "| of it by steps, MiB | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def middle(name: str, key: str) -> float:
        return statistics.median(one[key] for one in found[name])

    for way in WAYS:
        if not found[way.name]:
            continue
        keys = ("data", "model", "optimiser")
        cells = [f"{middle(way.name, key):.3f}" for key in keys]
        for key, shape in (("step", ".2f"), ("cpu", ".1f"), ("steps_mib", ".0f")):
            cells += [f"{middle(way.name, 'peak_mib'):.0f}"] if key == "steps_mib" else []
            ratio = f"{middle(way.name, key) / middle('ours', key):.2f}" if found["ours"] else "-"
            cells += [f"{middle(way.name, key):{shape}}", ratio]
        lines.append(f"| {way.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
