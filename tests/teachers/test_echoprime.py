"""EchoPrime equals the reference: mask, crop, normalisation, padding, both networks (golden); repairs; refusals."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from golden_rules import assert_matches, case, filled_state, keys, series

from ecgecho.echo import echoprime_mask
from ecgecho.echo.frames import crop_zoom
from ecgecho.io import read_echo
from ecgecho.teachers import echoprime
from ecgecho.types import ItemError, UserError
from ecgecho.weights import fit

TOPIC = "echoprime_preprocess"
DICOM = echoprime.spec(echoprime.Config(colour="dicom", parity=True))
RGB = echoprime.spec(echoprime.Config())


def sample(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1)[np.arange(512) * (array.size - 1) // 511].astype(np.float64)


@pytest.fixture(scope="module")
def shipped() -> tuple[Path, np.ndarray]:
    """The cine that pydicom ships, and its frames as stored, luma and two chromas."""
    from pydicom.data import get_testdata_file
    from pydicom.pixels import pixel_array

    path = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return path, pixel_array(path, raw=True)


def prepared(ybr: np.ndarray) -> np.ndarray:
    """The reference's DICOM route over raw frames, (1, 3, 16, 224, 224) normalised."""
    inside = echoprime_mask.echoprime_sector(ybr)
    bgr = echoprime_mask.ybr_to_bgr(ybr) * inside[:, :, None]
    images = crop_zoom(bgr, 224)
    chosen = echoprime.clip_index(len(images), DICOM)[0]
    values = np.zeros((1, 3, 17, 224, 224), np.uint8)
    real = chosen[chosen >= 0]
    values[0, :, : len(real)] = images[real].transpose(3, 0, 1, 2)
    values[0, 0, 16, 0, 0] = len(real)
    return echoprime.normalise(torch.from_numpy(values), DICOM).numpy()


def test_mask_and_colours_of_raw_frames_equal_the_reference(shipped):
    # The reference decoded the JPEGs with another library. Here pillow's frames differ from its by one grey level in 2 % of the
    # values, the outline by three pixels; a level of chroma is up to two of blue.
    path, raw = shipped
    reference = case(TOPIC, "dcm_raw_ybr")
    assert np.abs(sample(raw) - reference["input__sample"]).max() <= 1
    inside = echoprime_mask.echoprime_sector(raw)
    masked = echoprime_mask.ybr_to_bgr(raw) * inside[:, :, None]
    lit = masked.any((0, 3))
    assert np.abs(lit.sum(1) - reference["mask_any_frame_rowsum"]).max() <= 3
    assert np.abs(lit.sum(0) - reference["mask_any_frame_colsum"]).max() <= 3
    assert np.abs(sample(masked) - reference["masked__sample"]).max() <= 2
    np.testing.assert_allclose(masked.reshape(-1, 3).mean(0), reference["masked__per_channel_mean"], rtol=3e-3)


def test_the_prepared_clip_equals_the_reference_and_its_last_frame_is_padding(shipped):
    # Two grey levels of 255, over the least standard deviation, is the decoder's share.
    path, raw = shipped
    reference = case(TOPIC, "dcm_raw_ybr")
    clip = prepared(raw)
    assert clip.shape[1:] == tuple(reference["final__shape"])
    assert np.abs(sample(clip) - reference["final__sample"]).max() <= 2 / 46
    np.testing.assert_allclose(clip[0].mean((1, 2, 3)), reference["final_per_channel_mean"], atol=2e-3)
    assert (clip[0, :, 15] == 0).all()
    assert clip[0, :, 14].any()


def test_from_the_file_the_parity_switch_gives_the_same_clip_within_the_chroma_of_one_way_and_back(shipped):
    # Our reader gives RGB, whose way back to luma and chroma rounds: 0.02 levels in the mean.
    path, raw = shipped
    clip = read_echo(path)
    masked = echoprime_mask.mask_as_echoprime(clip.frames)
    made = echoprime.prepare(DICOM, masked, clip.frame_time_ms)
    values = echoprime.normalise(torch.from_numpy(made.values), DICOM).numpy()
    assert np.abs(values - prepared(raw)).mean() < 0.02
    assert made.values[0, 0, 16, 0, 0] == 15
    assert made.frame_index[0].tolist() == [*range(0, 30, 2), -1]


def test_normalised_pixels_equal_the_reference():
    """The grey levels behind the reference's values are whole numbers, and give the same values again."""
    reference = case(TOPIC, "dcm_raw_ybr")
    shape = tuple(reference["final__shape"])
    index = np.arange(512) * (np.prod(shape) - 1) // 511
    colour, frame = np.unravel_index(index, shape)[:2]
    grey = reference["final__sample"].astype(np.float64) * np.array(echoprime.STD)[colour] + np.array(echoprime.MEAN)[colour]
    real = frame < 15
    assert np.abs(grey - grey.round())[real].max() < 1e-4
    levels = np.zeros((1, 3, 17, 224, 224), np.uint8)
    plain = np.zeros(shape, np.uint8)
    plain.reshape(-1)[index[real]] = grey[real].round()
    levels[0, :, :16] = plain
    levels[0, 0, 16, 0, 0] = 15
    values = echoprime.normalise(torch.from_numpy(levels), DICOM).numpy().reshape(-1)[index]
    np.testing.assert_allclose(values, reference["final__sample"], rtol=1e-5, atol=1e-5 * 4.7)


CROPS = [name.removesuffix("__sample") for name in case(TOPIC, "crop_and_scale_sizes") if name.endswith("__sample")]


@pytest.mark.parametrize("name", CROPS)
def test_crops_equal_the_reference(name):
    height, width = (int(x) for x in name.split("_")[0].split("x"))
    image = np.clip(127 + 120 * series((height, width, 3), 0, 0.6), 0, 255).astype(np.uint8)
    cropped = crop_zoom(image[None], 112, zoom=0.0)[0] if "zoom0" in name else crop_zoom(image[None], 224)[0]
    assert_matches(case(TOPIC, "crop_and_scale_sizes"), name, cropped)


@pytest.mark.parametrize("shape", [(300, 301), (301, 300), (10, 31), (64, 64)])
def test_pictures_of_any_aspect_are_taken(shape):
    frames = np.full((1, *shape, 3), 77, np.uint8)
    assert (echoprime.prepare(RGB, frames, np.zeros(1, np.float32)).values[:, :, 0] == 77).all()


def test_a_picture_without_a_tenth_is_refused_by_a_code():
    with pytest.raises(ItemError) as caught:
        echoprime.prepare(RGB, np.zeros((3, 9, 40, 3), np.uint8), np.zeros(3, np.float32))
    assert caught.value.code == "picture_too_small"


def cine(num_frames: int) -> np.ndarray:
    """A textured disc that moves, always lit; YBR."""
    y, x = np.mgrid[:100, :120]
    disc = np.hypot(y - 50, x - 60) < 35
    ybr = np.full((num_frames, 100, 120, 3), 128, np.uint8)
    ybr[..., 0] = 0
    for frame, shift in zip(ybr, np.linspace(0, 3, num_frames), strict=True):
        frame[disc, 0] = (150 + 60 * np.sin(0.7 * x + shift) * np.cos(0.5 * y))[disc]
    return ybr


def test_the_references_counter_forgets_a_cine_of_255_frames():
    clips = {count: cine(count) for count in (254, 255, 256)}
    kept = {count: echoprime_mask.echoprime_sector(clip).mean() for count, clip in clips.items()}
    assert kept[255] == 0 < kept[254] == kept[256]


def test_a_cine_of_which_the_mask_keeps_nothing_is_a_row_with_a_reason():
    still = np.repeat(cv2.cvtColor(cine(1)[0], cv2.COLOR_YUV2RGB)[None], 4, axis=0)
    with pytest.raises(ItemError) as caught:
        echoprime_mask.mask_as_echoprime(still)
    assert caught.value.code == "mask_empty"


@pytest.mark.parametrize(("frames", "clips", "starts"), [(31, 3, [0]), (33, 3, [0, 1, 2]), (91, 3, [0, 30, 60]), (7, 2, [0])])
def test_clips_start_at_even_distances_and_never_twice(frames, clips, starts):
    spec = echoprime.spec(echoprime.Config(clips=clips))
    index = echoprime.clip_index(frames, spec)
    assert index[:, 0].tolist() == starts
    assert (index < frames).all()
    assert (np.diff(index[:, : min(16, (frames + 1) // 2)]) == 2).all()


def ramp(num_frames: int) -> np.ndarray:
    frames = np.zeros((num_frames, 40, 40, 3), np.uint8)
    frames[..., 0] = 10 + np.arange(num_frames)[:, None, None]
    frames[..., 2] = 200
    return frames


def test_frames_come_in_order_and_colours_as_read():
    clip = echoprime.prepare(RGB, ramp(50), np.zeros(50, np.float32)).values[0]
    assert clip[0, :16, 0, 0].tolist() == list(range(10, 42, 2))
    assert (clip[2, :16] == 200).all()


@pytest.mark.parametrize(("padding", "expected"), [("zero_post", 0.0), ("zero_pre", -29.110628 / 47.989223)])
def test_short_cines_end_in_mean_grey_or_in_black(padding, expected):
    spec = echoprime.spec(echoprime.Config(padding=padding))
    made = echoprime.prepare(spec, ramp(11), np.zeros(11, np.float32))
    values = echoprime.normalise(torch.from_numpy(made.values), spec)
    assert values.shape == (1, 3, 16, 224, 224)
    torch.testing.assert_close(values[0, 0, 6:], torch.full((10, 224, 224), expected))
    torch.testing.assert_close(values[0, 0, 5], torch.full((224, 224), (20 - 29.110628) / 47.989223))


def test_a_frame_that_is_really_black_is_no_padding():
    frames = ramp(40)
    frames[20:] = 0
    made = echoprime.prepare(RGB, frames, np.zeros(40, np.float32))
    assert (echoprime.normalise(torch.from_numpy(made.values), RGB)[0, 0, 15] < -0.6).all()


def test_a_grey_cine_is_the_same_by_both_colour_routes_within_a_level():
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 1), dtype=np.uint8), 3, axis=-1)
    dicom = echoprime.spec(echoprime.Config(colour="dicom"))
    made = [echoprime.prepare(spec, grey, np.zeros(3, np.float32)).values.astype(int) for spec in (RGB, dicom)]
    assert np.abs(made[0] - made[1]).max() <= 1


def test_the_switches_are_in_the_spec():
    assert (RGB.mask, RGB.colour, RGB.view_names) == ("sector", "rgb", ())
    assert (DICOM.mask, DICOM.colour) == ("echoprime", "bgr")
    assert echoprime.spec(echoprime.Config(parity=True)).mask == "none"
    assert len(echoprime.spec(echoprime.Config(view_classifier="random:0")).view_names) == 11
    assert "academic" in echoprime.spec(echoprime.Config(weights="a.pt")).licence
    with_views = echoprime.spec(echoprime.Config(weights="a.pt", view_classifier="random:0"))
    assert "academic" in with_views.licence
    assert "RANDOM" in with_views.view_licence
    assert "first 2 blocks" in echoprime.spec(echoprime.Config(weights="random:1:2")).licence


def test_the_video_network_from_a_users_file_equals_the_reference(tmp_path):
    rules = keys(TOPIC)["mvit_v2_s_head512"]
    assert len(rules) == 397
    path = tmp_path / "echo_prime_encoder.pt"
    torch.save(filled_state(rules, "B"), path)
    network = echoprime.build(echoprime.Config(weights=str(path)))._network
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == {n: e["shape"] for n, e in rules.items()}
    reference = case(TOPIC, "mvit_v2_s_head512_fillB")
    assert sum(p.numel() for p in network.parameters()) == int(reference["n_params"]) == 34_623_872
    with torch.no_grad():
        assert_matches(reference, "out_series", network(torch.from_numpy(series((1, 3, 16, 224, 224)))))


def test_the_view_classifier_equals_the_reference():
    (rules,) = (rules for name, rules in keys(TOPIC).items() if "view" in name)
    network = echoprime.empty(echoprime.view_network)
    fit(network, filled_state(rules, "B"), "the golden's fill")
    reference = case(TOPIC, "view_classifier_convnext_base_fillB")
    assert sum(p.numel() for p in network.parameters()) == int(reference["n_params"]) == 87_577_739
    with torch.no_grad():
        assert_matches(reference, "out_series", network.eval()(torch.from_numpy(series((1, 3, 224, 224)))))


@cache
def small() -> echoprime.EchoPrimeTeacher:
    return echoprime.build(echoprime.Config(weights="random:0:1", view_classifier="random:0:1"))


def test_views_are_probabilities_of_the_first_frame_of_each_clip():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    other = frames.copy()
    other[1:] = 0
    values = [echoprime.prepare(small().spec, x, np.zeros(20, np.float32)).values for x in (frames, other)]
    output = small().forward(torch.from_numpy(np.concatenate(values)))
    assert output.aux["view"].shape == (2, 11)
    torch.testing.assert_close(output.aux["view"].sum(1), torch.ones(2))
    torch.testing.assert_close(output.aux["view"][0], output.aux["view"][1])
    assert not torch.equal(output.pooled[0], output.pooled[1])


def test_each_network_has_a_hash_of_its_own():
    alone = echoprime.build(echoprime.Config(weights="random:0:1"))
    assert (alone.weights_sha256, alone.views_sha256) == (small().weights_sha256, "")
    assert len(small().views_sha256) == 64
    assert echoprime.build(echoprime.Config(weights="random:1:1")).weights_sha256 != alone.weights_sha256


def test_files_that_are_missing_or_of_another_network_are_refused(tmp_path):
    with pytest.raises(UserError, match="--weights"):
        echoprime.build(echoprime.Config())
    with pytest.raises(UserError, match="no file"):
        echoprime.build(echoprime.Config(weights="nowhere.pt"))
    with pytest.raises(UserError, match="clips"):
        echoprime.Config(clips=0)
    path = tmp_path / "kinetics.pt"
    torch.save({"conv_proj.bias": torch.zeros(96), "head.1.weight": torch.zeros(400, 768)}, path)
    with pytest.raises(UserError, match=r"head.1.weight is \(400, 768\), not \(512, 768\)"):
        echoprime.build(echoprime.Config(weights=str(path)))


def test_the_module_prepares_without_torch():
    code = (
        "import sys, numpy as np; from ecgecho.teachers import echoprime as e; s = e.spec(e.Config());"
        "e.prepare(s, np.zeros((2, 30, 40, 3), np.uint8), np.zeros(2, np.float32)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
