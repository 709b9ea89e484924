"""The sector mask on a real cine, on simulated ones, and where the evidence is poor."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from ecgecho.echo.sector import Sector, blank, coloured_boxes, find_sector
from ecgecho.io import read_echo
from ecgecho.simulate import write
from ecgecho.simulate.annotate import annotate_frames
from ecgecho.simulate.echo import cine
from ecgecho.simulate.heart import draw_heart, stream
from ecgecho.types import EchoClip, Region


def clip_of(frames, *, regions=(), kind="b_mode", defects=()):
    times = np.arange(len(frames), dtype=np.float32) * 30
    return EchoClip(frames=frames, frame_time_ms=times, regions=regions, kind=kind, cm_per_px=None, defects=defects)


def fan(rows=150, columns=200):
    """(H, W) a sector with its apex at the top, and its bounding region."""
    mask = np.zeros((rows, columns), np.uint8)
    cv2.ellipse(mask, (columns // 2, 8), (110, 110), 0, 50, 130, 1, -1)
    y, x = np.nonzero(mask)
    box = Region(x0=int(x.min()), y0=int(y.min()), x1=int(x.max()), y1=int(y.max()), spatial_format=1, data_type=1)
    return mask.astype(bool), box


def speckle(mask, num_frames=16, *, moving=True, seed=0):
    random = np.random.default_rng(seed)
    frames = np.zeros((num_frames, *mask.shape, 3), np.uint8)
    for frame in frames:
        noise = cv2.GaussianBlur(random.integers(0, 160, mask.shape).astype(np.float32), (3, 3), 0.8)
        frame[...] = (noise * mask)[..., None]
    return frames if moving else np.repeat(frames[:1], num_frames, axis=0)


def agreement(found, true):
    return (found & true).sum() / (found | true).sum()


@pytest.fixture(scope="module")
def real():
    clip = read_echo(get_testdata_file("examples_ybr_color.dcm", download=False))
    return clip, find_sector(clip)


def test_the_apex_of_a_real_cine_is_kept_and_the_text_in_its_corners_is_not(real):
    clip, sector = real
    assert sector.source == "region+motion"
    assert sector.defects == ()
    assert "region_rescaled" in clip.defects
    assert sector.mask[20, 177]
    for rows, columns in (
        (slice(0, 32), slice(0, 45)),
        (slice(0, 90), slice(292, 320)),
        (slice(190, 212), slice(280, 320)),
        (slice(222, 240), slice(0, 320)),
    ):
        assert clip.frames[:, rows, columns].max() > 60
        assert not sector.mask[rows, columns].any()
    # The flanks that are nearly black belong to it as well.
    assert sector.mask[146, 52]
    assert sector.mask[146, 288]


def test_a_real_cine_loses_no_tissue_and_keeps_no_drawing(real):
    clip, sector = real
    seen = blank(clip.frames, sector, clip.kind)
    np.testing.assert_array_equal(seen[:, 70:190, 130:210], clip.frames[:, 70:190, 130:210])
    assert (np.ptp(seen, axis=3)).max() <= 48
    assert not seen[:, ~sector.mask].any()


def test_a_region_in_guessed_coordinates_that_motion_denies_is_not_used(real):
    clip, sector = real
    wrong = replace(clip, regions=(replace(clip.regions[0], x0=0, y0=0, x1=120, y1=90),))
    found = find_sector(wrong)
    assert (found.source, found.defects) == ("motion", ("region_disagrees",))
    assert agreement(found.mask, sector.mask) > 0.95


@pytest.fixture(scope="module", params=["a4c", "plax"])
def simulated(request, tmp_path_factory):
    heart = draw_heart(stream(3, 1, "heart"), enrich=False)
    made = cine(heart, request.param, stream(3, 1, "echo"), frames=16)
    path = tmp_path_factory.mktemp("cine") / "a.dcm"
    write.dicom(path, made, subject_id=1, study_id=1, instance=1, time=datetime(2150, 1, 1))
    true = np.zeros(made.frames.shape[1:3], np.uint8)
    cv2.fillPoly(true, [made.shot.geometry.polygon().round().astype(np.int32)], 1)
    return read_echo(path), true.astype(bool), made.shot


def test_the_sector_of_a_simulated_cine_is_found_with_and_without_its_region(simulated):
    clip, true, _ = simulated
    for given_clip, source in ((clip, "region+motion"), (replace(clip, regions=()), "motion")):
        sector = find_sector(given_clip)
        assert (sector.source, sector.defects) == (source, ())
        assert agreement(sector.mask, true) > 0.97


def test_text_and_trace_of_a_simulated_cine_are_gone(simulated):
    clip, true, _ = simulated
    seen = blank(clip.frames, find_sector(clip), clip.kind)
    far = cv2.dilate(true.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0
    assert clip.frames[:, far].max() > 150
    assert seen[:, far].max() == 0
    assert np.ptp(seen, axis=3).max() <= 48
    assert (seen.any(axis=(0, 3)) & true).sum() > 0.9 * true.sum()


def test_what_is_blanked_does_not_depend_on_when_the_heart_beats(simulated):
    clip, _, shot = simulated
    sector = find_sector(clip)
    plain = blank(clip.frames, sector, clip.kind)
    masks = []
    for beats in (np.arange(-1, 8) * 0.8, np.arange(-1, 12) * 0.55, np.array([-0.2, 0.4, 1.2, 1.8, 2.9, 4.0, 9.0])):
        frames = plain.copy()
        annotate_frames(frames, replace(shot, beats_s=beats, hr_bpm=70.0))
        masks.append(coloured_boxes(frames, sector.mask))
    assert masks[0].any()
    for other in masks[1:]:
        assert (masks[0] ^ other).sum() <= 0.004 * sector.mask.sum()


@pytest.mark.parametrize("how", ["sweep", "scroll"])
def test_a_white_trace_below_the_sector_is_left_out(how):
    mask, _ = fan()
    frames = speckle(mask, 24)
    x = np.arange(200)
    for t, frame in enumerate(frames):
        shift = 7 * t if how == "scroll" else 0
        y = 135 - 12 * (((x + shift) % 60) == 0) - 3 * np.sin((x + shift) / 9.0)
        shown = x < 8 * t if how == "sweep" else x >= 0
        frame[y[shown].round().astype(int), x[shown]] = 230
    assert agreement(find_sector(clip_of(frames)).mask, mask) > 0.9


def test_a_green_trace_inside_the_sector_is_blanked_on_grey_and_on_tinted_maps():
    mask, box = fan()
    for tint in ([1, 1, 1], [1.0, 0.8, 0.55], [0.7, 0.85, 1.0]):
        frames = (speckle(mask) * np.array(tint)).astype(np.uint8)
        drawn = frames.copy()
        drawn[:, 100, 60:140] = [60, 230, 80]
        sector = find_sector(clip_of(drawn, regions=(box,)))
        seen = blank(drawn, sector, "b_mode")
        assert not seen[:, 98:103, 60:140].any()
        np.testing.assert_array_equal(seen[:, 30:90], drawn[:, 30:90] * sector.mask[30:90, :, None])


def test_colour_flow_is_kept_in_a_colour_clip():
    mask, box = fan()
    frames = speckle(mask)
    frames[:, 60:80, 90:110] = [200, 30, 20]
    seen = blank(frames, find_sector(clip_of(frames, regions=(box,), kind="colour")), "colour")
    np.testing.assert_array_equal(seen[:, 60:80, 90:110], frames[:, 60:80, 90:110])


def test_a_region_of_an_ecg_trace_is_cut_out():
    mask, box = fan()
    trace = Region(x0=0, y0=105, x1=199, y1=149, spatial_format=4, data_type=10)
    sector = find_sector(clip_of(speckle(mask), regions=(box, trace)))
    assert not sector.mask[105:].any()
    assert sector.mask[60:105].any()


def test_a_still_heart_falls_back_to_its_region_then_to_brightness_then_to_the_image_and_says_so():
    mask, box = fan()
    frames = speckle(mask, moving=False)
    lit = find_sector(clip_of(frames, regions=(box,)))
    assert (lit.source, lit.defects) == ("region+brightness", ("motion_unclear",))
    assert agreement(lit.mask, mask) > 0.9
    with_region = find_sector(clip_of(np.zeros_like(frames), regions=(box,)))
    assert (with_region.source, with_region.defects) == ("region", ("motion_unclear",))
    assert with_region.mask.sum() == (box.x1 - box.x0 + 1) * (box.y1 - box.y0 + 1)
    bright = find_sector(clip_of(frames))
    assert (bright.source, bright.defects) == ("brightness", ("motion_unclear",))
    assert agreement(bright.mask, mask) > 0.9
    nothing = find_sector(clip_of(np.zeros_like(frames)))
    assert (nothing.source, nothing.defects) == ("image", ("motion_unclear", "sector_not_found"))


def test_a_clip_cropped_to_its_sector_keeps_all_of_it():
    mask, box = fan()
    frames = speckle(mask)[:, box.y0 : box.y1 + 1, box.x0 : box.x1 + 1]
    sector = find_sector(clip_of(frames))
    assert agreement(sector.mask, mask[box.y0 : box.y1 + 1, box.x0 : box.x1 + 1]) > 0.9


def test_what_moves_denies_a_region_of_the_file_that_holds_little_of_it():
    mask, _ = fan()
    frames = speckle(mask)
    wrong = Region(x0=0, y0=0, x1=60, y1=149, spatial_format=1, data_type=1)
    found = find_sector(clip_of(frames, regions=(wrong,)))
    assert (found.source, found.defects) == ("motion", ("region_disagrees",))
    assert agreement(found.mask, mask) > 0.9
    # Two sectors side by side, each with its region: the larger one is taken, and neither denied.
    both = np.concatenate([frames, frames[:, :, 20:180]], axis=2)
    wide = np.concatenate([mask, mask[:, 20:180]], axis=1)
    regions = tuple(Region(x0=a, y0=0, x1=b, y1=149, spatial_format=1, data_type=1) for a, b in ((0, 199), (200, 359)))
    sector = find_sector(clip_of(both, regions=regions))
    assert (sector.source, sector.defects) == ("region+motion", ())
    assert agreement(sector.mask[:, :200], wide[:, :200]) > 0.9
    assert not sector.mask[:, 200:].any()


def test_a_sector_that_fills_a_corner_of_the_picture_is_found_without_a_region():
    mask, _ = fan()
    frames = np.zeros((16, 400, 560, 3), np.uint8)
    frames[:, 30:180, 40:240] = speckle(mask)
    whole = np.zeros((400, 560), bool)
    whole[30:180, 40:240] = mask
    sector = find_sector(clip_of(frames))
    assert (sector.source, sector.defects) == ("motion", ())
    assert agreement(sector.mask, whole) > 0.9


def test_a_sector_that_stands_on_its_tip_is_not_given_another():
    mask, _ = fan()
    frames = speckle(mask)[:, ::-1]
    assert agreement(find_sector(clip_of(np.ascontiguousarray(frames))).mask, mask[::-1]) > 0.93


def scrolled(frames, *, top, base):
    """A white trace over the whole width that moves by 9 pixels a frame; its R waves reach from `base` up to `top`."""
    drawn, x = frames.copy(), np.arange(frames.shape[2])
    for t, frame in enumerate(drawn):
        wave = np.exp(-0.5 * (((x + 9 * t) % 60 - 30) / 2.0) ** 2)
        y = base - (base - top) * wave
        points = np.stack([x, y], 1).round().astype(np.int32)[:, None]
        cv2.polylines(frame, [points], False, (235, 235, 235), 1, cv2.LINE_AA)
    return drawn


def test_a_white_trace_that_reaches_into_the_sector_is_blanked_there_by_its_rows():
    mask, box = fan()
    clean = speckle(mask, 20)
    drawn = scrolled(clean, top=104, base=140)
    for regions in ((box,), ()):
        sector = find_sector(clip_of(drawn, regions=regions))
        seen = blank(drawn, sector, "b_mode")
        ink = np.abs(drawn.astype(int) - clean).max(axis=3) > 60
        assert ink[:, mask].any()
        assert (ink & seen.any(axis=3)).sum() <= 0.02 * ink.sum()
        np.testing.assert_array_equal(seen[:, 30:95], drawn[:, 30:95] * sector.mask[30:95, :, None])
    # In a colour clip, whose drawing is not blanked, only what lies outside goes.
    assert blank(drawn, sector, "colour")[:, 104:118].any()


def test_short_or_tall_drawing_outside_blanks_nothing_inside():
    mask, box = fan()
    frames = speckle(mask)
    plain = frames.copy()
    frames[:, 20:140, 196:198] = 235
    frames[:, 130:136, 2:50] = 235
    frames[:, :, 0] = frames[:, :, -1] = frames[:, 0] = frames[:, -1] = 255
    sector = find_sector(clip_of(frames, regions=(box,)))
    np.testing.assert_array_equal(blank(frames, sector, "b_mode"), plain * sector.mask[..., None])


@settings(max_examples=60, deadline=None)
@given(
    num_frames=st.integers(1, 4),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["b_mode", "colour"]),
    corners=st.tuples(*[st.integers(0, 50)] * 4),
)
def test_any_clip_has_a_sector_and_blanking_only_removes(num_frames, rows, columns, seed, kind, corners):
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, rows, columns, 3)).astype(np.uint8)
    x0, y0, x1, y1 = corners
    regions = (Region(x0=x0, y0=y0, x1=x1, y1=y1, spatial_format=1, data_type=1),)
    sector = find_sector(clip_of(frames, regions=regions, kind=kind))
    assert sector.mask.shape == (rows, columns)
    seen = blank(frames, sector, kind)
    changed = (seen != frames).any(axis=3)
    assert not seen[:, ~sector.mask].any()
    assert not seen[changed].any()
    np.testing.assert_array_equal(blank(seen, sector, "colour"), seen)


def test_a_sector_of_another_size_is_refused():
    sector = Sector(mask=np.ones((4, 5), bool), source="image", defects=())
    with pytest.raises(ValueError, match="sector"):
        blank(np.zeros((1, 5, 4, 3), np.uint8), sector, "b_mode")
