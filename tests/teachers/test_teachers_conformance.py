"""What every teacher obeys: shapes, determinism, batch invariance, a pure `prepare` without torch, a hashed spec."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch

from ecgecho import config, plugins
from ecgecho.types import PreparedClip, TeacherSpec, UserError

NAMES = plugins.names("teachers")
UNTRAINED = {
    "echoclip": {"weights": "random:0"},
    "echoprime": {"weights": "random:0:1", "view_classifier": "random:0:1"},
    "panecho": {"weights": "random:0:1"},
}
"""Settings of teachers that ship without weights. "random:SEED:BLOCKS" keeps the depth out of the time that the laws take."""
WITHOUT_TEXTS = {"echoprime", "panecho"}


@cache
def built(name: str):
    module = plugins.load("teachers", name)
    return module.build(module.Config(**UNTRAINED.get(name, {})))


def frames(count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    picture = np.zeros((count, 60, 80, 3), np.uint8)
    picture[:, 10:50, 20:60] = rng.integers(20, 200, (count, 40, 40, 1), dtype=np.uint8)
    return picture


def prepared(name: str) -> PreparedClip:
    module = plugins.load("teachers", name)
    return module.prepare(built(name).spec, frames(), np.arange(3, dtype=np.float32) * 33)


@pytest.mark.parametrize("name", NAMES)
def test_spec_is_hashable_json_and_names_its_licence(name):
    spec = built(name).spec
    assert isinstance(spec, TeacherSpec)
    assert spec.name == name
    assert spec.licence
    assert len(config.digest(config.to_json(spec))) == 64
    assert len(built(name).weights_sha256) == 64


@pytest.mark.parametrize("name", NAMES)
def test_prepare_is_pure_and_shaped_as_the_spec_says(name):
    spec, source = built(name).spec, frames()
    before = source.copy()
    first, second = prepared(name), prepared(name)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(source, before)
    assert first.values.dtype == np.uint8
    assert first.values.shape[1] == 3
    assert first.values.shape[-2:] == (spec.size, spec.size)
    assert len(first.frame_index) == len(first.values) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_prepare_takes_one_frame_and_a_single_pixel_of_content(name):
    module, spec = plugins.load("teachers", name), built(name).spec
    lonely = np.zeros((1, 30, 30, 3), np.uint8)
    assert len(module.prepare(spec, lonely, np.zeros(1, np.float32)).values) == 1
    lonely[0, 0, 29] = 255
    assert len(module.prepare(spec, lonely, np.zeros(1, np.float32)).values) == 1


@pytest.mark.parametrize("name", NAMES)
def test_prepare_needs_no_torch(name):
    code = f"import sys; from ecgecho import plugins; plugins.load('teachers', {name!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_deterministic_batch_invariant_and_without_gradient(name):
    teacher, values = built(name), torch.from_numpy(prepared(name).values)
    output = teacher.forward(values)
    together = output.pooled
    assert together.shape == (len(values), teacher.spec.dim)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    torch.testing.assert_close(teacher.forward(values).pooled, together, atol=0, rtol=0)
    alone = torch.cat([teacher.forward(values[i : i + 1]).pooled for i in range(len(values))])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-3)
    if names := teacher.spec.view_names:
        assert output.aux["view"].shape == (len(values), len(names))
        torch.testing.assert_close(output.aux["view"].sum(1), torch.ones(len(values)))


@pytest.mark.parametrize("name", sorted(WITHOUT_TEXTS))
def test_a_teacher_without_a_text_tower_says_so(name):
    with pytest.raises(UserError, match=name):
        built(name).embed_text(["normal ejection fraction"])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_TEXTS])
def test_embed_text_gives_unit_vectors(name):
    vectors = built(name).embed_text(["normal ejection fraction", "severely reduced ejection fraction"])
    assert vectors.shape == (2, built(name).spec.dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2), atol=1e-4, rtol=0)
