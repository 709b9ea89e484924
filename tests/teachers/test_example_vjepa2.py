"""The example outside the package: a tiny checkpoint of V-JEPA 2, from a folder to a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ecgecho import plugins
from ecgecho.types import UserError

EXAMPLE = Path(__file__).parents[2] / "docs/examples/vjepa2.py"


@pytest.fixture(scope="module")
def module():
    return plugins.load("teachers", str(EXAMPLE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with random values: 32 pixels, two layers of width 48."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "crop_size": 32, "frames_per_clip": 16}
    sizes |= {"pred_hidden_size": 24, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1}
    out = tmp_path_factory.mktemp("vjepa2")
    VJEPA2Model(VJEPA2Config(**sizes)).save_pretrained(out)
    return out


def ramp(num_frames: int) -> np.ndarray:
    frames = np.zeros((num_frames, 48, 64, 3), np.uint8)
    frames[..., 0] = np.arange(num_frames)[:, None, None]
    return frames


def test_it_is_a_teacher_of_clips_as_wide_as_the_checkpoint(module, folder):
    teacher = module.build(module.Config(weights=str(folder), clips=2))
    clip = module.prepare(teacher.spec, ramp(40), np.zeros(40, np.float32))
    assert clip.values.shape == (2, 3, 16, 32, 32)
    assert clip.values[:, 0, :, 5, 5].tolist() == clip.frame_index.tolist() == [[*range(0, 32, 2)], [*range(9, 41, 2)]]
    values = torch.from_numpy(clip.values)
    together = teacher.forward(values).pooled
    assert (together.shape, together.dtype, together.requires_grad) == ((2, 48), torch.float32, False)
    assert torch.equal(teacher.forward(values).pooled, together)
    torch.testing.assert_close(teacher.forward(values[1:]).pooled, together[1:], rtol=1e-4, atol=1e-5)


def test_the_vector_is_the_mean_of_the_tokens_of_transformers_own_model(module, folder):
    from transformers import VJEPA2Model

    teacher = module.build(module.Config(weights=str(folder)))
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 16, 32, 32), dtype=np.uint8))
    clip = (values.float() / 255 - torch.tensor(module.MEAN).view(3, 1, 1, 1)) / torch.tensor(module.STD).view(3, 1, 1, 1)
    with torch.no_grad():
        tokens = VJEPA2Model.from_pretrained(folder).eval()(clip.permute(0, 2, 1, 3, 4), skip_predictor=True).last_hidden_state
    assert tokens.shape == (1, 8 * 2 * 2, 48)
    torch.testing.assert_close(teacher.forward(values).pooled, tokens.mean(1))


def test_a_short_cine_repeats_its_last_frame(module, folder):
    clip = module.prepare(module.spec(module.Config(weights=str(folder))), ramp(5), np.zeros(5, np.float32))
    assert clip.frame_index[0].tolist() == [0, 2] + [4] * 14


def test_what_is_no_whole_checkpoint_is_refused(module, folder, tmp_path):
    with pytest.raises(UserError, match="--weights FOLDER"):
        module.spec(module.Config())
    with pytest.raises(UserError, match="clips"):
        module.Config(clips=0)
    card = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(card | {"model_type": "vit"}))
    with pytest.raises(UserError, match="'vit'"):
        module.build(module.Config(weights=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(card | {"crop_size": 10**6}))
    with pytest.raises(UserError, match="crop_size 1000000"):
        module.spec(module.Config(weights=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="no .safetensors"):
        module.build(module.Config(weights=str(tmp_path)))
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.mlp.fc1.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing encoder.layer.1.mlp.fc1.weight"):
        module.build(module.Config(weights=str(tmp_path)))
