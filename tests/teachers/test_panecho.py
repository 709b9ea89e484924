"""PanEcho as its text describes it: frames, colours, the reshape its weights were trained with, sizes, what of a file is used."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from ecgecho.teachers import panecho
from ecgecho.types import UserError

SPEC = panecho.spec(panecho.Config())


def ramp(num_frames: int, height: int = 64, width: int = 64) -> np.ndarray:
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(num_frames)[:, None, None]
    frames[..., 2] = 200
    return frames


def prepare(frames: np.ndarray, spec=SPEC) -> np.ndarray:
    return panecho.prepare(spec, frames, np.zeros(len(frames), np.float32)).values


def test_sixteen_frames_in_a_row_blue_first():
    values = prepare(ramp(40))
    assert values.shape == (1, 3, 16, 224, 224)
    assert values[0, 2, :, 0, 0].tolist() == list(range(16))
    assert (values[0, 0] == 200).all()


def test_a_short_cine_repeats_its_last_frame():
    assert prepare(ramp(5))[0, 2, :, 7, 7].tolist() == [0, 1, 2, 3] + [4] * 12


@pytest.mark.parametrize(("frames", "clips", "starts"), [(17, 4, [0, 1]), (46, 4, [0, 10, 20, 30]), (3, 4, [0]), (46, 1, [0])])
def test_clips_start_at_even_distances_and_never_twice(frames, clips, starts):
    spec = panecho.spec(panecho.Config(clips=clips))
    assert panecho.clip_index(frames, spec)[:, 0].tolist() == starts


def test_the_whole_picture_is_squashed_to_256_and_its_middle_224_seen():
    frames = ramp(1, 256, 512)
    frames[0, 16, 32:34] = 255
    frames[0, 239, 478:480] = 254
    frames[0, 15] = frames[0, :, 30] = 9
    values = prepare(frames)[0, :, 0]
    assert (values[:, 0, 0] == 255).all()
    assert (values[:, 223, 223] == 254).all()
    assert not (values == 9).any()


def test_images_of_the_network_are_planes_in_the_order_of_the_reference():
    """Plane (colour c, frame t) is numbered 16 c + t; the tokens named in the specification."""
    numbered = torch.arange(2 * 48).view(2, 3, 16, 1, 1)
    images = panecho.scramble(numbered)[:, :, 0, 0]
    assert images.shape == (32, 3)
    assert images[0].tolist() == [0, 1, 2]  # first colour of frames 0, 1, 2
    assert images[5].tolist() == [15, 16, 17]  # first colour of frame 15, second of frames 0 and 1
    assert images[15].tolist() == [45, 46, 47]  # third colour of frames 13, 14, 15
    assert images[16].tolist() == [48, 49, 50]


def test_the_time_code_is_sine_and_cosine_in_turn():
    code = panecho.time_code(16)
    expected = np.array([[f(t / 10000 ** (2 * i / 768)) for i in range(384) for f in (np.sin, np.cos)] for t in range(16)])
    np.testing.assert_allclose(code, expected, atol=2e-6)


def test_a_constant_cine_has_the_normalised_values_of_imagenet():
    values = panecho.normalise(torch.full((1, 3, 16, 2, 2), 255, dtype=torch.uint8), SPEC)
    torch.testing.assert_close(
        values[0, :, 0, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    )


def released(blocks: int) -> dict[str, torch.Tensor]:
    """What panecho.pt holds under "weights": the backbone twice wrapped, a time code, and heads with names no attribute has."""
    network = panecho.fill_random(panecho.empty(lambda: panecho.video_network(blocks)), 3)
    named = {f"encoder.{k.replace('images.', 'encoder.model.', 1)}": v for k, v in network.state_dict().items()}
    named["encoder.time_encoder.pe"] = panecho.time_code(16)[None]
    for task, classes in (("EF", 1), ("AVStenosis|(none-mild)", 3), ("pericardial-effusion", 1)):
        named[f"{task}_head.1.weight"], named[f"{task}_head.1.bias"] = torch.zeros(classes, 768), torch.zeros(classes)
    return named


def test_the_backbone_has_the_sizes_of_the_specification_and_a_file_fits_it_strictly(tmp_path):
    named = released(0)
    backbone = {k: v for k, v in named.items() if k.startswith("encoder.") and "time_encoder" not in k}
    assert sum(v.numel() for v in backbone.values()) == 42_006_624
    assert "encoder.encoder.model.classifier.0.weight" in backbone
    assert "encoder.transformer.layers.3.linear2.bias" in backbone
    path = tmp_path / "panecho.pt"
    torch.save({"weights": named}, path)
    teacher = panecho.build(panecho.Config(weights=str(path)))
    expected = panecho.fill_random(panecho.video_network(), 3).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in teacher._network.state_dict().items())
    torch.save({"weights": {**named, "encoder.extra": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match="unexpected extra"):
        panecho.build(panecho.Config(weights=str(path)))


def test_pooled_is_the_mean_of_tokens_that_are_no_frames_and_follows_its_formula():
    teacher = panecho.build(panecho.Config(weights="random:0:1"))
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 16, 224, 224), dtype=np.uint8))
    output = teacher.forward(values)
    assert (output.tokens_are_frames, teacher.spec.tokens_are_frames) == (False, False)
    torch.testing.assert_close(output.pooled, output.tokens.mean(1))
    network = teacher._network
    with torch.no_grad():
        planes = panecho.normalise(values, SPEC).reshape(48, 224, 224)
        images = torch.stack([planes[[3 * k, 3 * k + 1, 3 * k + 2]] for k in range(16)])
        hidden = network.images(images) + panecho.time_code(16)
        for layer in network.transformer.layers:
            attended, _ = layer.self_attn(hidden[None], hidden[None], hidden[None])
            hidden = layer.norm1(hidden + attended[0])
            hidden = layer.norm2(hidden + layer.linear2(layer.linear1(hidden).relu()))
    torch.testing.assert_close(output.pooled[0], hidden.mean(0), rtol=1e-4, atol=1e-4)


def test_forgotten_weights_are_asked_for():
    with pytest.raises(UserError, match="--weights"):
        panecho.build(panecho.Config())


def test_the_module_prepares_without_torch():
    code = (
        "import sys, numpy as np; from ecgecho.teachers import panecho as e; s = e.spec(e.Config());"
        "e.prepare(s, np.zeros((2, 30, 40, 3), np.uint8), np.zeros(2, np.float32)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
