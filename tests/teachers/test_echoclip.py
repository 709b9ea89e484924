"""EchoCLIP equals the reference: preprocessing, towers, tokens and prompt decoding (golden); and it refuses what does not fit."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from golden_rules import assert_matches, case, fill_values, filled_state, keys, series

from ecgecho.echo.frames import crop_zoom
from ecgecho.teachers import echoclip
from ecgecho.types import UserError

TOPIC = "echoclip"
FILES = [
    "case_dicom_preprocess.npz",
    "case_fork_echoingecg_transform.npz",
    "case_lvef_decode.npz",
    "case_openclip_convnext_base_fillB.npz",
    "case_prompt_tokens.npz",
]
PARITY = echoclip.spec(echoclip.Config(parity=True))
SQUASH = echoclip.spec(echoclip.Config(preprocessing="echoing_ecg", parity=True))


def test_every_golden_file_of_echoclip_is_there():
    assert sorted(path.name for path in (Path(__file__).parents[1] / "golden" / TOPIC).glob("*.npz")) == FILES


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The full-size teacher with the golden's fill, loaded from a file as a user's would be."""
    rules = keys(TOPIC)["open_clip_convnext_base"]
    assert len(rules) == 493
    path = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    save_file(filled_state(rules, "B"), path)
    built = echoclip.build(echoclip.Config(weights=str(path.parent)))
    assert {name: list(value.shape) for name, value in built._model.state_dict().items()} == {
        n: e["shape"] for n, e in rules.items()
    }
    path.unlink()
    return built


def test_both_towers_equal_the_reference(filled):
    reference = case(TOPIC, "openclip_convnext_base_fillB")
    model = filled._model
    assert sum(p.numel() for p in model.parameters()) == int(reference["n_params"])
    with torch.no_grad():
        trunk = model.visual.trunk(torch.from_numpy(series((2, 3, 224, 224))))
        image = model.visual.head(trunk)
        assert_matches(reference, "visual_trunk", trunk)
        assert_matches(reference, "image", image)
        assert_matches(reference, "image_norm", torch.nn.functional.normalize(image, dim=-1))
        assert_matches(reference, "text", model.encode_text(torch.from_numpy(reference["tok"])))


def test_a_frame_has_one_vector_alone_and_in_a_batch(filled):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8))
    both = filled.forward(frames)
    assert both.pooled.shape == (2, 512)
    assert both.pooled.dtype == torch.float32
    assert not both.pooled.requires_grad
    assert both.tokens_are_frames
    torch.testing.assert_close(filled.forward(frames[1:]).pooled, both.pooled[1:], rtol=1e-4, atol=1e-5)


def test_texts_become_unit_vectors(filled):
    vectors = filled.embed_text(["normal left ventricle", "dilated left ventricle"])
    assert vectors.shape == (2, 512)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))


def cine() -> np.ndarray:
    """The cine that pydicom ships, (30, 240, 320, 3) RGB, by whatever JPEG decoder is installed."""
    import pydicom
    from pydicom.data import get_testdata_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = pydicom.dcmread(get_testdata_file("examples_ybr_color.dcm", download=False)).pixel_array
    assert frames.shape == (30, 240, 320, 3)
    return frames


def test_the_crop_of_a_real_cine_equals_the_reference_within_a_grey_level():
    # The reference decoded the JPEGs with another library; single grey levels are its rounding.
    reference = case(TOPIC, "dicom_preprocess")
    images = crop_zoom(cine()[:16], 224)
    assert images.shape == tuple(reference["crop224__shape"])
    sample = reference["crop224__sample"].astype(int)
    index = np.arange(512) * (images.size - 1) // 511
    difference = np.abs(images.reshape(-1)[index].astype(int) - sample)
    assert difference.max() <= 1
    assert difference.mean() < 0.05
    assert images.mean() == pytest.approx(float(reference["crop224__mean"]), rel=2e-3)
    values = echoclip.normalise(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), PARITY).numpy()
    assert values.shape == tuple(reference["preproc__shape"])
    np.testing.assert_allclose(values.reshape(-1)[index], reference["preproc__sample"], atol=1.01 / 255 / 0.26)
    assert values.mean() == pytest.approx(float(reference["preproc__mean"]), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "array"),
    [("dicom_preprocess", "preproc"), ("fork_echoingecg_transform", "fork_transform_rgb_first4")],
)
def test_normalised_pixels_equal_the_reference(name, array):
    """The grey levels behind the reference's values are whole numbers, and give the same values again."""
    reference = case(TOPIC, name)
    shape = tuple(reference[f"{array}__shape"])
    sample = reference[f"{array}__sample"]
    index = np.arange(512) * (np.prod(shape) - 1) // 511
    channel = np.unravel_index(index, shape)[1]
    mean, std = np.array(echoclip.CLIP_MEAN), np.array(echoclip.CLIP_STD)
    grey = (sample.astype(np.float64) * std[channel] + mean[channel]) * 255
    assert np.abs(grey - grey.round()).max() < 1e-3
    levels = np.zeros(shape, np.uint8)
    levels.reshape(-1)[index] = grey.round()
    values = echoclip.normalise(torch.from_numpy(levels), SQUASH).numpy()
    np.testing.assert_allclose(values.reshape(-1)[index], sample, rtol=1e-5, atol=1e-5 * np.abs(sample).max())


def test_the_tokenizer_gives_the_tokens_of_the_reference():
    import open_clip

    reference = case(TOPIC, "prompt_tokens")["lvef_prompt_tokens_templates2_values_0_5_55_100"]
    tokenizer = open_clip.get_tokenizer(echoclip.ARCHITECTURE)
    texts = [tokenizer.decode([t for t in row if t not in (0, 49406, 49407)]) for row in reference.tolist()]
    assert len(set(texts)) == len(texts)
    assert np.array_equal(echoclip.tokenize(texts).numpy(), reference)


def rows(name: str, shape: tuple[int, int]) -> np.ndarray:
    values = fill_values(name, shape, "B").astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.mark.parametrize(("videos", "frames", "dim"), [(2, 4, 64), (1, 10, 64), (3, 6, 512)])
def test_prompt_decoding_equals_the_reference(videos, frames, dim):
    reference = case(TOPIC, "lvef_decode")
    name = f"hr_N{videos}_F{frames}_D{dim}"
    assert bool(reference[f"{name}/fp64_same"])
    video = rows(f"vid{videos}{frames}{dim}", (videos * frames, dim)).reshape(videos, frames, dim)
    similarity = video @ rows(f"prompt{videos}{frames}{dim}", (202, dim)).T
    assert_matches(reference, f"{name}/regression", echoclip.decode_value(similarity, np.tile(np.arange(101), 2)))
    np.testing.assert_allclose(echoclip.match_score(similarity[..., :2]), reference[f"{name}/binary2"], rtol=1e-4, atol=2e-7)


def test_decoding_a_clear_peak_equals_the_reference():
    reference = case(TOPIC, "lvef_decode")
    assert_matches(reference, "peaked/regression", echoclip.decode_value(reference["peaked/sim"], np.tile(np.arange(101), 2)))


def test_decoding_finds_the_value_that_all_frames_agree_on():
    values = np.arange(101)
    similarity = np.tile(-np.abs(values - 35.0), (2, 7, 1)) + np.random.default_rng(0).normal(size=(2, 7, 101)) * 1e-3
    np.testing.assert_allclose(echoclip.decode_value(similarity, values), 35, atol=1)


def ramp(num_frames: int = 50, height: int = 120, width: int = 160) -> np.ndarray:
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(num_frames)[:, None, None]
    frames[..., 2] = 200
    return frames


def test_the_reference_takes_every_second_of_forty_frames_and_swaps_red_and_blue():
    clip = echoclip.prepare(PARITY, ramp(), np.arange(50, dtype=np.float32))
    assert np.array_equal(clip.frame_index, np.arange(0, 40, 2))
    assert clip.values.shape == (20, 3, 224, 224)
    assert np.array_equal(clip.values[:, 2].mean((1, 2)), clip.frame_index)
    assert (clip.values[:, 0] == 200).all()
    assert PARITY.mask == "none"


def test_by_default_the_sector_is_masked_and_colours_are_kept():
    default = echoclip.spec(echoclip.Config())
    clip = echoclip.prepare(default, ramp(5), np.arange(5, dtype=np.float32))
    assert np.array_equal(clip.frame_index, [0, 2, 4])
    assert (clip.values[:, 2] == 200).all()
    assert (default.mask, default.frame_norm) == ("sector", "l2")


def test_the_fork_squashes_all_frames():
    frames = ramp()
    frames[:, :, :80, 1] = 100
    clip = echoclip.prepare(SQUASH, frames, np.arange(50, dtype=np.float32))
    assert np.array_equal(clip.frame_index, np.arange(50))
    assert (clip.values[:, 1, :, :112] == 100).all()
    assert not clip.values[:, 1, :, 112:].any()
    assert (clip.values[:, 2] == 200).all()


@pytest.mark.parametrize("shape", [(225, 224), (224, 225), (300, 301), (301, 300), (224, 224), (600, 800), (9, 31)])
def test_the_crop_takes_images_of_any_aspect(shape):
    frames = np.full((1, *shape, 3), 77, np.uint8)
    assert (echoclip.prepare(PARITY, frames, np.zeros(1, np.float32)).values == 77).all()


def test_the_module_prepares_without_torch():
    code = (
        "import sys, numpy as np; from ecgecho.teachers import echoclip as e; s = e.spec(e.Config());"
        "e.prepare(s, np.zeros((2, 30, 40, 3), np.uint8), np.zeros(2, np.float32)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_random_weights_are_named_as_such():
    assert echoclip.spec(echoclip.Config(weights="random:7")).licence.startswith("RANDOM WEIGHTS (seed 7)")
    assert "academic" in echoclip.spec(echoclip.Config(weights="org/name")).licence


def test_random_towers_follow_from_their_seed_alone(monkeypatch):
    import open_clip

    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: torch.nn.Linear(3, 3))
    state = torch.get_rng_state()
    first, second, other = (echoclip.build(echoclip.Config(weights=f"random:{s}")) for s in (1, 1, 2))
    assert first.weights_sha256 == second.weights_sha256 != other.weights_sha256
    assert torch.equal(torch.get_rng_state(), state)


def test_a_checkpoint_of_another_model_is_refused_by_name(monkeypatch, tmp_path):
    import open_clip

    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: torch.nn.Linear(3, 2))
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": {"module.weight": torch.ones(2, 3), "module.bias": torch.ones(2)}}, path)
    assert (echoclip.build(echoclip.Config(weights=str(path)))._model.weight == 1).all()
    torch.save({"weight": torch.zeros(5, 3), "text.vocab": torch.zeros(1)}, path)
    with pytest.raises(UserError) as caught:
        echoclip.build(echoclip.Config(weights=str(path)))
    for words in (str(path), "missing bias", "unexpected text.vocab", "weight is (5, 3), not (2, 3)", "EchoCLIP-R"):
        assert words in str(caught.value)


def test_forgotten_weights_are_asked_for():
    with pytest.raises(UserError, match="--weights"):
        echoclip.build(echoclip.Config())


@pytest.mark.parametrize("weights", ["nowhere/weights.pt", "a/b/c/d", "nowhere"])
def test_a_path_without_weights_is_refused_at_once(weights):
    with pytest.raises(UserError, match="no weights at"):
        echoclip.build(echoclip.Config(weights=weights))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds none of"):
        echoclip.build(echoclip.Config(weights=str(tmp_path)))


def test_a_hub_that_cannot_be_reached_names_the_local_way(monkeypatch, tmp_path):
    import huggingface_hub

    class Offline:
        def head(self, url, timeout):
            raise ConnectionError("name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_session", Offline)
    with pytest.raises(UserError, match="pass the file's path as --weights"):
        echoclip._local("hf-hub:nobody-here/no-such-model-for-this-test@main")


def test_a_file_that_holds_no_weights_is_refused_before_a_model_is_made(tmp_path):
    path = tmp_path / "weights.pt"
    for content in ({"model": Path("x")}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(UserError, match="state_dict"):
            echoclip.build(echoclip.Config(weights=str(path)))
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="looks like text"):
        echoclip.build(echoclip.Config(weights=str(path)))
