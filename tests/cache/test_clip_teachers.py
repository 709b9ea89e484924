"""A teacher of clips that tells views apart: its column of views, how its rows weigh in a study, and cines that are too short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import must
from safetensors.numpy import load_file

import embed_cache
from ecgecho import cache, catalog, plugins
from ecgecho.cache import EchoOptions
from ecgecho.data.tables import EchoTable, first_difference
from ecgecho.export import licence_of
from ecgecho.io import read_echo
from ecgecho.pipeline import BATCH_CLIPS, Forward, ForwardOptions, Teaching

CODE = '''
"""Three clips of four frames each; views by brightness."""
from dataclasses import dataclass
import numpy as np
from ecgecho.types import PreparedClip, TeacherOutput, TeacherSpec

@dataclass(frozen=True)
class Config:
    weights: str = ""
    stride: int = 2
    clips: int = 3
    views: bool = True

def spec(config):
    return TeacherSpec(name="clips", dim=2, size=4, unit="clip", resize="stride", interpolation="nearest", colour="rgb",
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), frame_norm="none", mask="none", tokens_are_frames=False,
        frame_stride=config.stride, licence="Apache-2.0", clip_frames=4, clips=config.clips, short="repeat_last",
        view_names=("dark", "grey", "light") if config.views else ())

def prepare(spec, frames, frame_time_ms):
    span = 3 * spec.frame_stride + 1
    starts = np.unique(np.linspace(0, max(len(frames) - span, 0), spec.clips).round().astype(int))
    index = np.minimum(starts[:, None] + np.arange(4) * spec.frame_stride, len(frames) - 1)
    rows = np.linspace(0, frames.shape[1] - 1, 4).astype(int)
    columns = np.linspace(frames.shape[2] // 3, frames.shape[2] // 2, 4).astype(int)
    return PreparedClip(values=frames[index][:, :, rows][:, :, :, columns].transpose(0, 4, 1, 2, 3).copy(), frame_index=index)

class Teacher:
    weights_sha256 = "0" * 64
    def __init__(self, config):
        self.spec = spec(config)
    def to(self, device):
        return self
    def forward(self, values):
        import torch
        each = values.float().mean((1, 3, 4)) / 255
        pooled = torch.stack([each.mean(1), each[:, -1] - each[:, 0]], 1)
        view = torch.stack([pooled[:, 0], pooled[:, 0] ** 2, torch.ones(len(each))], 1).softmax(1)
        return TeacherOutput(pooled=pooled, aux={"view": view})

def build(config):
    return Teacher(config)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "clips.py"
    path.write_text(CODE)
    return str(path)


@pytest.fixture(scope="module")
def make(listed, plugin, tmp_path_factory):
    """A store of the listed cines by the plug-in, with settings."""

    def made(**settings) -> Path:
        out = tmp_path_factory.mktemp("store") / "echo.zarr"
        config = plugins.load("teachers", plugin).Config(**settings)
        options = EchoOptions(workers=0, device="cpu")
        assert cache.echo_job(catalog.read(listed), plugin, config, out, options=options).run().exit_status == 0
        return out

    return made


@pytest.fixture(scope="module")
def store(make) -> Path:
    return make()


def taught(listed: Path, plugin: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(vectors, views) of each cine, made by hand."""
    module = plugins.load("teachers", plugin)
    teacher = module.build(module.Config())
    found = {}
    clips = catalog.read(listed)
    for item, path in zip(clips.clips["clip_id"].to_pylist(), clips.clips["path"].to_pylist(), strict=True):
        clip = read_echo(str(clips.root / path))
        output = teacher.forward(torch.from_numpy(module.prepare(teacher.spec, clip.frames, clip.frame_time_ms).values))
        found[item] = output.pooled.numpy(), output.aux["view"].numpy()
    return found


def test_a_row_has_the_mean_of_its_clips_views_and_the_number_of_its_vectors(store, listed, plugin):
    opened, expected = embed_cache.open(store), taught(listed, plugin)
    index = opened.index.to_pydict()
    view = opened.read("view", np.arange(len(opened)))
    moments = opened.read("moments", np.arange(len(opened)))
    assert view.dtype == np.float16
    for row, item in enumerate(index["id"]):
        vectors, probability = expected[item]
        assert index["num_vectors"][row] == len(vectors) == 3
        assert index["num_frames"][row] > 7
        np.testing.assert_allclose(view[row], probability.mean(0), atol=1e-3)
        np.testing.assert_allclose(moments[row], [vectors.mean(0), vectors.std(0)], atol=1e-3)


def test_one_clip_a_cine_has_no_spread_and_no_column_of_views_unless_there_are_views(make):
    opened = embed_cache.open(make(clips=1, views=False))
    assert set(opened.columns) == {"moments", "pooled"}
    assert not opened.read("moments", np.arange(len(opened)))[:, 1].any()


def test_a_view_classifier_makes_another_store_and_no_other_moments(listed, tmp_path):
    module = plugins.load("teachers", "echoprime")
    options = EchoOptions(workers=0, device="cpu")

    def identity(weights: str, classifier: str) -> dict:
        config = module.Config(weights=weights, view_classifier=classifier)
        job = cache.echo_job(catalog.read(listed), "echoprime", config, tmp_path / "e.zarr", options=options)
        return json.loads(json.dumps(job.target.identity))

    alone, told, other = (identity("random:0:1", classifier) for classifier in ("", "random:0:1", "random:1:1"))
    assert "view_weights_sha256" not in alone
    assert told["view_weights_sha256"] != other["view_weights_sha256"]
    for one, two in ((told, alone), (alone, told), (told, other)):
        assert first_difference(one, two, views=False) is None
    assert first_difference(identity("random:1:1", ""), alone, views=False)
    assert "; views: RANDOM" in licence_of(told)
    assert "views" not in licence_of(alone)


def test_a_study_is_merged_by_vectors_not_by_frames(store, listed, plugin):
    opened, expected = embed_cache.open(store), taught(listed, plugin)
    table = EchoTable([opened], [str(store)], torch.device("cpu"))
    ids = opened.index["id"].to_pylist()
    rows = np.arange(4)
    whole = np.concatenate([expected[ids[row]][0] for row in rows])
    np.testing.assert_allclose(table.merged([rows])[0], [whole.mean(0), whole.std(0)], atol=1e-3)
    frames = opened.index["num_frames"].to_numpy()
    assert table.num_vectors.tolist() == [3] * len(ids) != frames.tolist()
    assert table.view_names == ("dark", "grey", "light")
    assert (table.view == opened.read("view", np.arange(len(opened))).argmax(1)).all()


@pytest.mark.parametrize(("start", "stop", "stride", "expected"), [(0, 40, 2, 10), (0, 0, 1, 20), (3, 0, 4, 5), (0, 7, 1, 7)])
def test_frames_that_a_teacher_leaves_out_have_no_weight(start, stop, stride, expected):
    from types import SimpleNamespace

    import pyarrow as pa

    from ecgecho.data.tables import _num_vectors

    stored = SimpleNamespace(index=pa.table({"num_frames": [20, 1]}))
    spec = {"frame_start": start, "frame_stop": stop, "frame_stride": stride}
    assert _num_vectors(stored, spec).tolist() == [expected, len(range(1)[start : stop or None : stride])]
    assert len(range(20)[start : stop or None : stride]) == expected
    assert _num_vectors(stored, None).tolist() == [20, 1]


def test_cines_shorter_than_a_clip_say_so_and_are_used(make):
    index = embed_cache.open(make(stride=100)).index
    assert set(index["status"].to_pylist()) == {"ok"}
    assert all("shorter_than_a_clip" in reason for reason in index["reason"].to_pylist())
    assert set(index["num_vectors"].to_pylist()) == {1}


def test_batches_of_clips_are_smaller_than_those_of_frames(plugin):
    module = plugins.load("teachers", plugin)
    forward = Forward(module.build(module.Config()), ForwardOptions())
    assert forward.batch == BATCH_CLIPS
    sizes = []
    stage = Teaching(lambda values: sizes.append(len(values)) or forward(values), forward.batch)
    decoded = type("D", (), {"facts": 1, "prepared": type("P", (), {"values": np.zeros((19, 3, 4, 4, 4), np.uint8)})})
    done = [*stage.add("a", decoded), *stage.finish()]
    assert sizes == [8, 8, 3]
    assert done[0][1].vectors.shape == (19, 5)


def test_the_commands_for_stores_know_the_column(store, tmp_path):
    told = json.loads(must("store", "info", store, "--json"))
    assert "view" in json.dumps(told)
    must("store", "verify", store)
    must("store", "export", store, "--out", tmp_path / "e.safetensors")
    exported = load_file(tmp_path / "e.safetensors")
    opened = embed_cache.open(store)
    name = next(key for key in exported if key.endswith("view"))
    assert exported[name].shape == (len(opened), 3)
    must("store", "diff", store, store)


def test_a_teacher_that_promises_views_and_gives_none_is_named(plugin):
    module = plugins.load("teachers", plugin)
    teacher = module.build(module.Config())
    plain = teacher.forward
    teacher.forward = lambda values: type(plain(values))(pooled=plain(values).pooled)
    with pytest.raises(ValueError, match="clips"):
        Forward(teacher, ForwardOptions())(np.zeros((1, 3, 4, 4, 4), np.uint8))


def test_the_command_takes_a_teacher_by_its_path_and_its_settings(listed, plugin, tmp_path):
    must("cache-echo", listed, "--teacher", plugin, "--set", "clips=2", "--workers", 1, "--out", tmp_path / "e.zarr")
    assert set(embed_cache.open(tmp_path / "e.zarr").index["num_vectors"].to_pylist()) == {2}
