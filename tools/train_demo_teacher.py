"""Trains the shipped demo teacher on simulated cines and reports; minutes on 2 cores.

    python tools/train_demo_teacher.py --out ecgecho/teachers/demo.safetensors

Seeds from 1,000,000 on only, so that no cohort a user makes holds a heart the teacher has seen. Some views of each heart are
drawn, annotated, coded as JPEG, masked and prepared as in real use; a clip stands for the mean of the unit vectors of its
frames, which is matched with a report about it by InfoNCE. While training, linear heads also read LVEF, volume, wall, atrium and
view from that mean (it shortens training by a factor; they are thrown away). benchmarks/demo_teacher.py judges what ships,
through files and the store.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from ecgecho import stats
from ecgecho.echo.sector import blank, find_sector
from ecgecho.simulate import USER_SEEDS, VIEWS, Cine, Heart, cine, draw_heart, stream
from ecgecho.simulate.echo import View
from ecgecho.simulate.text import VIEW_NAMES, echo_report
from ecgecho.simulate.write import jpegs
from ecgecho.teachers import demo
from ecgecho.types import U8, EchoClip, Region

TRAIN_SEED = USER_SEEDS
HELD_OUT_SEED = USER_SEEDS + 1
SPEC = demo.spec(demo.Config())
LOW = ("reduced left ventricular systolic function", "severely reduced ejection fraction", "ejection fraction is 28 percent")
HIGH = ("normal left ventricular systolic function", "normal ejection fraction", "ejection fraction is 62 percent")
VIEWS_PER_HEART = 3
EPOCHS = 14
FRAMES = 4
"""Of a clip in a step."""
BATCH = 64
TARGETS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=1200)
    parser.add_argument("--held-out", type=int, default=150)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.workers)
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        train = gather(pool, TRAIN_SEED, options.subjects)
        held_out = gather(pool, HELD_OUT_SEED, options.held_out)
    drawn = time.monotonic()
    print(f"{len(train.hearts)} clips to learn from, {len(held_out.hearts)} held out, drawn in {drawn - start:.0f} s", flush=True)
    vocabulary = learn_words(train)
    image, text = fit(train, held_out, vocabulary)
    figures = judge(image, text, vocabulary, held_out)
    print(f"trained in {time.monotonic() - drawn:.0f} s: {figures}")
    write(options.out, image, text, vocabulary, figures)


@dataclasses.dataclass(frozen=True)
class Clips:
    """Prepared clips, grey, with the hearts they show."""

    frames: U8
    """(N, T, S, S)."""
    hearts: list[Heart]
    views: list[View]
    subject: npt.NDArray[np.int64]

    def targets(self) -> torch.Tensor:
        """(N, TARGETS): LVEF, log volume, wall, log atrium, each about unit size."""
        rows = [
            [(h.lvef - 48) / 15, (np.log(h.edv_ml) - 4.75) / 0.3, (h.wall_mm - 11.5) / 3.5, (np.log(h.la_ml) - 4) / 0.35]
            for h in self.hearts
        ]
        return torch.tensor(rows, dtype=torch.float32)

    def view_numbers(self) -> torch.Tensor:
        """(N,) int64."""
        return torch.tensor([VIEWS.index(view) for view in self.views])


def gather(pool: ProcessPoolExecutor, seed: int, subjects: int) -> Clips:
    parts = list(pool.map(clips_of, [(seed, index) for index in range(subjects)], chunksize=4))
    return Clips(
        frames=np.concatenate([frames for _, _, frames in parts]),
        hearts=[heart for heart, views, _ in parts for _ in views],
        views=[view for _, views, _ in parts for view in views],
        subject=np.repeat(np.arange(subjects), [len(views) for _, views, _ in parts]),
    )


def clips_of(task: tuple[int, int]) -> tuple[Heart, list[View], U8]:
    """Some cines of one subject, as they look after the whole way to the teacher."""
    seed, index = task
    rng = stream(seed, index, "heart")
    heart = draw_heart(rng, enrich=True)
    train = seed == TRAIN_SEED
    if train and rng.random() < 0.6:
        heart = dataclasses.replace(heart, lvef=round(float(rng.uniform(15, 72)), 1))  # all numbers are seen equally often
    difficulty = float(rng.uniform(0.2, 0.8)) if train else 0.5
    views = [VIEWS[int(number)] for number in rng.permutation(len(VIEWS))[:VIEWS_PER_HEART]]
    clips = [
        seen(cine(heart, view, stream(seed, index, "echo", item), frames=16, difficulty=difficulty))
        for item, view in enumerate(views, start=1)
    ]
    return heart, views, np.stack(clips)


def seen(drawn: Cine) -> U8:
    """(T, S, S) after JPEG, mask and `prepare`."""
    # Every other frame: half the work, and hardly another mean.
    frames = np.stack([decode(code) for code in jpegs(drawn.frames[::2])])
    x0, y0, x1, y1 = drawn.shot.geometry.box
    clip = EchoClip(
        frames=frames,
        frame_time_ms=(drawn.shot.time_s[::2] * 1000).astype(np.float32),
        regions=(Region(x0=x0, y0=y0, x1=x1, y1=y1, spatial_format=1, data_type=1),),
        kind="b_mode",
        cm_per_px=drawn.shot.geometry.cm_per_px,
    )
    masked = blank(clip.frames, find_sector(clip), clip.kind)
    return demo.prepare(SPEC, masked, clip.frame_time_ms).values[:, 1]


def decode(code: bytes) -> U8:
    """JPEG -> (H, W, 3) RGB."""
    picture = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8)


def learn_words(clips: Clips) -> list[str]:
    """Every word of many reports, sorted; two places are kept for padding and the unknown word."""
    rng = np.random.Generator(np.random.Philox(TRAIN_SEED))
    words = {
        word
        for heart, view in zip(clips.hearts, clips.views, strict=True)
        for _ in range(6)
        for word in demo.split(echo_report(heart, view, rng))
    }
    return ["", "?", *sorted(words | {str(number) for number in range(10, 80)})]


def fit(train: Clips, held_out: Clips, vocabulary: list[str]) -> tuple[nn.Module, nn.Module]:
    """InfoNCE between the clips of a batch and their reports, both ways."""
    torch.manual_seed(TRAIN_SEED)
    rng = np.random.Generator(np.random.Philox(TRAIN_SEED + 7))
    lookup = {word: number for number, word in enumerate(vocabulary)}
    image, text = demo.image_tower(), demo.text_tower(len(vocabulary))
    reader, namer = nn.Linear(demo.DIM, TARGETS), nn.Linear(demo.DIM, len(VIEWS))
    image = image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scale = nn.Parameter(torch.tensor(2.3))
    parameters = [*image.parameters(), *text.parameters(), *reader.parameters(), *namer.parameters(), scale]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.02)
    steps = EPOCHS * (len(train.hearts) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.15)
    targets, names = train.targets(), train.view_numbers()
    for epoch in range(EPOCHS):
        order = rng.permutation(len(train.hearts))
        total = 0.0
        for first in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            stride = train.frames.shape[1] // FRAMES
            picked = np.arange(FRAMES) * stride + rng.integers(0, stride, (BATCH, 1))  # evenly over the beat
            values = train.frames[rows[:, None], picked]
            vectors = image(augment(values, rng)).view(len(rows), FRAMES, demo.DIM)
            mean = functional.normalize(vectors, dim=-1).mean(1)
            texts = [echo_report(train.hearts[row], train.views[row], rng) for row in rows]
            ids = demo.tokens(texts, lookup)
            ids = torch.where((torch.rand(ids.shape) < 0.04) & (ids > 0), demo.UNKNOWN, ids)
            loss = contrast(mean, text(ids), texts, scale)
            loss = loss + functional.mse_loss(reader(8 * mean), targets[rows])
            loss = loss + 0.3 * functional.cross_entropy(namer(8 * mean), names[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 2.0)
            optimiser.step()
            schedule.step()
            total += loss.item()
        figures = judge(image, text, vocabulary, held_out)
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / (len(order) // BATCH):.3f}, {figures}", flush=True)
    return image, text


def contrast(clip: torch.Tensor, sentence: torch.Tensor, texts: list[str], scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE; equal texts share the match."""
    logits = scale.clamp(max=4.0).exp() * functional.normalize(clip, dim=-1) @ functional.normalize(sentence, dim=-1).T
    same = torch.tensor([[float(a == b) for b in texts] for a in texts])
    same = same / same.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, same) + functional.cross_entropy(logits.T, same)) / 2


def augment(values: U8, rng: np.random.Generator) -> torch.Tensor:
    """(B, T, S, S) -> (B * T, 1, S, S) normalised; gain and gamma differ from clip to clip, the place from step to step."""
    levels = np.arange(256) / 255
    shift = tuple(int(part) for part in rng.integers(-3, 4, 2))
    out = np.empty(values.shape, np.float32)
    for clip, target in zip(values, out, strict=True):
        grey = np.clip(levels * rng.uniform(0.7, 1.35), 0, 1) ** rng.uniform(0.8, 1.25)
        table = ((grey - SPEC.mean[0]) / SPEC.std[0]).astype(np.float32)
        np.take(table, np.roll(clip, shift, axis=(1, 2)), out=target)
    return torch.from_numpy(out).flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def judge(image: nn.Module, text: nn.Module, vocabulary: list[str], clips: Clips) -> dict[str, float | None]:
    """Zero-shot LVEF < 40 by the mean over a subject's clips, overall and within terciles of end-diastolic volume; the view."""
    image.eval()
    text.eval()
    lookup = {word: number for number, word in enumerate(vocabulary)}
    means = []
    for clip in clips.frames:
        values = torch.from_numpy(clip)[:, None].expand(-1, 3, -1, -1)
        means.append(functional.normalize(image(demo.normalise(values, SPEC)), dim=-1).mean(0))
    vectors = functional.normalize(torch.stack(means), dim=-1)
    prompts = functional.normalize(text(demo.tokens([*LOW, *HIGH], lookup)), dim=-1)
    of_clip = (vectors @ (prompts[: len(LOW)].mean(0) - prompts[len(LOW) :].mean(0))).numpy()
    score = np.bincount(clips.subject, of_clip) / np.bincount(clips.subject)
    _, first = np.unique(clips.subject, return_index=True)
    hearts = [clips.hearts[i] for i in first]
    low = np.array([heart.lvef < 40 for heart in hearts])
    volume = np.array([heart.edv_ml for heart in hearts])
    tercile = np.searchsorted(np.quantile(volume, [1 / 3, 2 / 3]), volume)
    named = functional.normalize(text(demo.tokens([VIEW_NAMES[view] for view in VIEWS], lookup)), dim=-1)
    right = (vectors @ named.T).argmax(1) == clips.view_numbers()
    image.train()
    text.train()
    figures = {"auroc": stats.auroc(low, score)}
    figures |= {f"auroc_volume_tercile_{k + 1}": stats.auroc(low[tercile == k], score[tercile == k]) for k in range(3)}
    figures["view_accuracy"] = float(right.float().mean())
    figures["lvef_correlation"] = float(np.corrcoef(score, [heart.lvef for heart in hearts])[0, 1])
    return {name: None if value is None else round(value, 3) for name, value in figures.items()}


def write(path: Path, image: nn.Module, text: nn.Module, vocabulary: list[str], figures: dict[str, float | None]) -> None:
    """Weights in half precision, and a card with the vocabulary, the seeds and the figures."""
    state = {f"image.{name}": value for name, value in image.state_dict().items()}
    state |= {f"text.{name}": value for name, value in text.state_dict().items()}
    half = {name: value.half().contiguous() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    content = ordered(
        save(half, metadata={"trained_on_seeds": f"{TRAIN_SEED}", "judged_on_seeds": f"{HELD_OUT_SEED}", "licence": "Apache-2.0"})
    )
    path.write_bytes(content)
    card = {
        "what": "demo teacher, trained on simulated cines only; means nothing on real hearts",
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "trained_on_seeds": [TRAIN_SEED],
        "judged_on_seeds": [HELD_OUT_SEED],
        "figures": figures,
        "vocabulary": vocabulary,
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def ordered(content: bytes) -> bytes:
    """The same safetensors file with its metadata in the order of their names: the library's order differs from run to run."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    return content[:8] + text + content[8 + length :]


if __name__ == "__main__":
    main()
