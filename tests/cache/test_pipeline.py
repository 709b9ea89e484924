"""Laws of the stages: order, what a clip that hangs may hold up, batches, one more try, errors of the writing thread."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from decoders import fail_once, wait_for_it
from hypothesis import given, settings
from hypothesis import strategies as st

import embed_cache
from ecgecho.io.workers import Done, ItemFailure, Pool
from ecgecho.pipeline import BATCH_UNITS, HELD, Decoding, Forward, ForwardOptions, Teaching, Writing
from ecgecho.types import TeacherOutput, UserError


def pool(function, workers: int) -> Pool:
    return Pool(function, workers=workers, timeout_s=60, memory_bytes=0)


def test_a_clip_that_hangs_holds_up_its_part_only_and_a_bounded_number_of_clips(tmp_path):
    names = ("slow" if n == 0 else str(n) for n in itertools.count())
    parts = ((number, list(itertools.islice(names, 5))) for number in range(1000))
    seen = []
    with pool(wait_for_it, 2) as workers:
        for part, item, _ in Decoding(workers, lambda name: f"{tmp_path} {name}", parts):
            seen.append((part.number, item))
            assert len(list(tmp_path.glob("begun*"))) - len([s for s in seen if s[1]]) <= HELD * 2
            if len(seen) == 30:
                (tmp_path / "go").touch()
            if (0, "") in seen:
                break
    assert seen.index((0, "slow")) >= 30
    for number in {number for number, item in seen if not item}:
        assert [item for n, item in seen if n == number] == [
            *(str(n) if n else "slow" for n in range(5 * number, 5 * number + 5)),
            "",
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_passing_failure_is_tried_once_more(tmp_path, workers):
    items = [str(tmp_path / name) for name in ("a", "fails", "always", "b")]
    with pool(fail_once, workers) as processes:
        events = list(Decoding(processes, str, iter([(7, items)])))
    assert [item for _, item, _ in events] == [*items, ""]
    results = {Path(item).name: result for _, item, result in events if item}
    assert isinstance(results["always"], ItemFailure)
    assert [name for name, result in results.items() if isinstance(result, Done)] == ["a", "fails", "b"]
    assert len(events[0][0].retried) == 2


def test_parts_without_items_come_with_their_end_alone():
    with pool(fail_once, 0) as workers:
        events = [(part.number, item) for part, item, _ in Decoding(workers, str, iter([(1, []), (0, ["x"]), (2, [])]))]
    assert sorted(events) == [(0, ""), (0, "x"), (1, ""), (2, "")]


@dataclass
class Summing:
    """Gives each unit its own sum, and remembers how many there were in each batch."""

    batches: list

    def __call__(self, values):
        self.batches.append(len(values))
        return lambda: values.reshape(len(values), 1, -1).sum(-1, dtype=np.float32)[:, None]


@given(st.lists(st.integers(1, 3 * BATCH_UNITS), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_batches_cross_clips_and_every_vector_comes_back_to_its_clip(lengths):
    clips = [np.full((n, 3), at, np.uint8) for at, n in enumerate(lengths)]
    forward = Summing([])
    stage = Teaching(forward)
    done = []
    for at, values in enumerate(clips):
        done += stage.add(str(at), SimpleNamespace(prepared=SimpleNamespace(values=values), facts=at))
    done += stage.finish()
    assert [item for item, _ in done] == [str(at) for at in range(len(clips))]
    for (_, taught), values in zip(done, clips):
        np.testing.assert_array_equal(taught.vectors[:, 0], values.sum(-1))
    whole, rest = divmod(sum(lengths), BATCH_UNITS)
    assert forward.batches == [BATCH_UNITS] * whole + [rest] * (rest > 0)


class Linear:
    """A teacher whose network sees pictures."""

    spec = SimpleNamespace(tokens_are_frames=False, unit="frame", view_names=())

    def __init__(self):
        self.net = torch.nn.Conv2d(3, 8, 16)

    def forward(self, values):
        with torch.no_grad():
            return TeacherOutput(pooled=self.net(values.float() / 255).mean((2, 3)))

    def to(self, device):
        self.net.to(device)
        return self


def test_the_order_of_channels_of_pictures_is_refused_for_a_network_of_videos():
    teacher = Linear()
    teacher.net = torch.nn.Conv3d(3, 8, 2)
    teacher.spec = SimpleNamespace(name="videos", unit="clip")
    how = SimpleNamespace(device="cpu", precision="fp32", channels_last=True, compile=False)
    with pytest.raises(UserError, match="videos"):
        Forward(teacher, how)


def test_half_precision_and_the_order_of_channels_change_a_vector_little():
    torch.manual_seed(0)
    teacher, frames = Linear(), np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32)).astype(np.uint8)
    plain = Forward(teacher, ForwardOptions())(frames)()
    how = SimpleNamespace(device="cpu", precision="bf16", channels_last=True, compile=False)
    half = Forward(teacher, how)(frames)()
    assert half.shape == plain.shape == (5, 1, 8)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.02


def test_what_is_for_a_gpu_is_refused_without_one():
    with pytest.raises(UserError, match="CUDA"):
        ForwardOptions(device="cpu", precision="bf16")


class Broken:
    """A writer whose disk is full."""

    def commit(self, part, rows, provenance):
        raise OSError(28, "No space left on device")


def test_an_error_of_the_writing_thread_ends_the_job():
    row = embed_cache.Row(status="failed", reason="x")

    def write():
        with Writing(Broken(), lambda item, value: row) as writing:
            writing.put(0, "a", None)
            writing.put(0, "", {})

    with pytest.raises(OSError, match="No space"):
        write()
