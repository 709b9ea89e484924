"""Laws of the simulated cine: what is drawn is what is labelled, and six views show one heart."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ecgecho.simulate.anatomy import LEVELS, PROFILE, Anatomy
from ecgecho.simulate.annotate import LAYOUTS, SWEEP_S, trace_start_s
from ecgecho.simulate.ecg import draw_body, draw_electro
from ecgecho.simulate.echo import VIEWS, Cine, View, biplane_volume_ml, cine, disc_volume_ml, draw, shoot
from ecgecho.simulate.heart import Heart, draw_heart, stream
from ecgecho.simulate.measurements import read
from ecgecho.simulate.views import SHORT_AXIS_SHARE, cavity

APICAL: tuple[View, ...] = ("a4c", "a2c", "a3c")
Study = tuple[Heart, dict[View, Cine]]


def study(heart: Heart, item: int, views: tuple[View, ...] = VIEWS, **more: object) -> dict[View, Cine]:
    options = {"frames": 18, "annotate": False} | more
    return {view: cine(heart, view, stream(11, item, "echo", VIEWS.index(view)), **options) for view in views}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    """Six hearts as they come, all views."""
    hearts = [draw_heart(stream(11, i, "heart"), enrich=True) for i in range(6)]
    return [(heart, study(heart, i)) for i, heart in enumerate(hearts)]


@pytest.fixture(scope="module")
def infarcts() -> list[Study]:
    plain = draw_heart(stream(11, 3, "heart"), enrich=True)
    hearts = [
        dataclasses.replace(plain, lvef=lvef, edv_ml=150.0, infarct=site, infarct_size=size, rhythm="sinus", conduction="normal")
        for site, size, lvef in (("anterior", 1.0, 30.0), ("inferior", 0.8, 42.0), ("lateral", 0.9, 38.0))
    ]
    return [(heart, study(heart, 50 + i, ("a4c", "a2c", "psax"))) for i, heart in enumerate(hearts)]


def volumes(drawn: Cine) -> np.ndarray:
    return np.array([disc_volume_ml(mask, drawn.shot.axis_px, drawn.shot.geometry.cm_per_px) for mask in drawn.masks])


def biplane(clips: dict[View, Cine], pick: str) -> float:
    found: list[object] = []
    for view in ("a4c", "a2c"):
        drawn = clips[view]
        found += [drawn.masks[getattr(drawn.shot.volume_ml, pick)()], drawn.shot.axis_px, drawn.shot.geometry.cm_per_px]
    return biplane_volume_ml(*found)  # type: ignore[arg-type]


def test_biplane_discs_give_the_labelled_lvef_within_two_points_with_and_without_infarct(
    studies: list[Study], infarcts: list[Study]
) -> None:
    for heart, clips in studies + infarcts:
        large, small = biplane(clips, "argmax"), biplane(clips, "argmin")
        assert abs(100 * (1 - small / large) - heart.lvef) < 2.0
        assert abs(large / heart.edv_ml - 1) < 0.08
        assert abs(small / heart.esv_ml - 1) < 0.08


def even(heart: Heart) -> bool:
    """All walls move alike at all times, so that a single plane stands for the whole."""
    return heart.infarct == "none" and heart.rhythm != "paced" and heart.conduction != "lbbb"


def test_single_plane_discs_give_lvef_and_every_frames_volume_where_all_walls_move_alike(studies: list[Study]) -> None:
    seen = 0
    for heart, clips in studies:
        for view in APICAL:
            if not even(heart):
                continue
            seen += 1
            volume = volumes(clips[view])
            assert abs(100 * (1 - min(volume) / max(volume)) - heart.lvef) < 2.0
            np.testing.assert_allclose(volume, clips[view].shot.volume_ml, rtol=0.08)
    assert seen >= 9


def test_discs_of_the_body_itself_keep_the_volume_at_every_time_whatever_moves() -> None:
    plain = draw_heart(stream(11, 3, "heart"), enrich=True)
    time, beats = np.linspace(0, 1, 40), np.arange(-1, 4) * 0.8
    for change in ({}, {"infarct": "anterior", "infarct_size": 1.0, "lvef": 25.0}, {"conduction": "lbbb"}, {"rhythm": "paced"}):
        heart = dataclasses.replace(plain, **change)  # type: ignore[arg-type]
        volume = np.linspace(heart.edv_ml, heart.esv_ml, 40)
        for now in Anatomy(heart).moments(volume, time, beats):
            area = np.pi / 4 * (now.radii[0] + now.radii[2]) * (now.radii[1] + now.radii[3])
            assert abs(np.trapezoid(area, LEVELS * now.length) / now.volume_ml - 1) < 1e-6
            assert (now.radii >= 0).all()


def test_views_agree_the_short_axis_area_is_the_product_of_two_apical_diameters_there(studies: list[Study]) -> None:
    for heart, clips in studies:
        anatomy = Anatomy(heart)
        shot = clips["psax"].shot
        for i in (0, 6, 12):
            now = anatomy.moments(shot.volume_ml, shot.time_s, shot.beats_s)[i]
            height = SHORT_AXIS_SHARE * anatomy.length_ed
            wide = []
            for view in ("a4c", "a2c"):
                outline = cavity(anatomy, now, view)
                half = len(outline) // 2
                wide.append(
                    np.interp(height, outline[half:, 0], outline[half:, 1])
                    - np.interp(height, outline[half::-1, 0], outline[half::-1, 1])
                )
            area = clips["psax"].masks[i].sum() * shot.geometry.cm_per_px**2
            assert abs(area / (np.pi / 4 * wide[0] * wide[1]) - 1) < 0.06


def test_the_long_axis_views_show_the_end_diastolic_diameter(studies: list[Study]) -> None:
    for heart, clips in studies:
        if not even(heart):
            continue
        for view in ("a4c", "plax"):
            drawn = clips[view]
            mask = drawn.masks[drawn.shot.volume_ml.argmax()]
            y, x = np.nonzero(mask)
            pose, geometry = drawn.shot.pose, drawn.shot.geometry
            xy = np.stack([x - geometry.apex_x, y - geometry.apex_y], 1) * geometry.cm_per_px - pose.apex
            u, v = xy @ pose.along, xy @ pose.across
            widest = np.abs(u - LEVELS[PROFILE.argmax()] * drawn.shot.length_ed_cm) < 0.25
            assert abs(np.ptp(v[widest]) * 10 / heart.lvedd_mm - 1) < 0.06


def test_a_wall_with_an_infarct_moves_less_than_the_one_opposite(infarcts: list[Study]) -> None:
    for heart, clips in infarcts:
        drawn = clips["psax"]
        pose, geometry = drawn.shot.pose, drawn.shot.geometry
        reach = []
        for i in (drawn.shot.volume_ml.argmax(), drawn.shot.volume_ml.argmin()):
            y, x = np.nonzero(drawn.masks[i])
            xy = np.stack([x - geometry.apex_x, y - geometry.apex_y], 1) * geometry.cm_per_px - pose.apex
            u, v = xy @ pose.along, xy @ pose.across
            reach.append({"lateral": u.max(), "septal": -u.min(), "anterior": v.max(), "inferior": -v.min()})
        moved = {wall: reach[0][wall] - reach[1][wall] for wall in reach[0]}
        opposite = {"anterior": "inferior", "inferior": "anterior", "lateral": "septal"}[heart.infarct]
        assert moved[heart.infarct] < 0.6 * moved[opposite]


def test_the_cavity_lies_in_the_sector_and_is_darker_than_its_wall(studies: list[Study]) -> None:
    darker = []
    for _, clips in studies:
        for view, drawn in clips.items():
            geometry = drawn.shot.geometry
            y, x = np.nonzero(drawn.masks.any(axis=0))
            dx, dy = (x - geometry.apex_x), (y - geometry.apex_y)
            inside = (np.hypot(dx, dy) <= geometry.radius_px + 1) & (np.abs(np.arctan2(dx, dy)) <= geometry.half_angle + 0.02)
            # The apex is beyond the flank of a parasternal and of many a subcostal picture, as in people.
            assert inside.mean() > (0.75 if view in ("plax", "subcostal") else 0.97)
            first = drawn.masks[0].astype(np.uint8)
            core = cv2.erode(first, np.ones((9, 9))) > 0
            ring = (cv2.dilate(first, np.ones((11, 11))) > 0) & (cv2.dilate(first, np.ones((3, 3))) == 0)
            sector = np.zeros(first.shape, np.uint8)
            cv2.fillPoly(sector, [geometry.polygon().round().astype(np.int32)], 1)
            lit = sector > 0
            darker.append(drawn.frames[0][core & lit].mean() / drawn.frames[0][ring & lit].mean())
    assert np.mean(np.array(darker) < 0.7) > 0.8
    assert max(darker) < 1.0


def test_frames_as_machines_make_them_show_both_extremes_at_their_rates() -> None:
    for i in range(40):
        heart = draw_heart(stream(13, i, "heart"), enrich=True)
        shot = shoot(heart, VIEWS[i % 6], stream(13, i, "echo"))
        assert 20 <= len(shot.volume_ml) <= 150
        assert 12.4 <= shot.frame_time_ms <= 50.1
        assert abs(100 * (1 - shot.volume_ml.min() / shot.volume_ml.max()) - heart.lvef) < 0.75


@pytest.mark.parametrize("frames", [0, 16])
def test_where_a_clip_starts_in_its_beat_does_not_tell_the_rhythm(frames: int) -> None:
    for rhythm in ("sinus", "af", "paced"):
        for i in range(40):
            heart = dataclasses.replace(draw_heart(stream(14, i, "heart"), enrich=True), rhythm=rhythm)  # type: ignore[arg-type]
            shot = shoot(heart, "a4c", stream(14, i, "echo"), frames=frames)
            assert -0.02 <= shot.beats_s[shot.beats_s <= 0].max() <= 0
            assert abs(100 * (1 - shot.volume_ml.min() / shot.volume_ml.max()) - heart.lvef) < 1.0


def test_the_atrium_beats_in_all_views_of_a_heart_or_in_none() -> None:
    plain = dataclasses.replace(draw_heart(stream(14, 0, "heart"), enrich=True), rhythm="paced", hr_bpm=60.0)
    body = draw_body(stream(14, 0, "text"))
    for index, beats in ((25.0, True), (60.0, False)):
        heart = dataclasses.replace(plain, la_ml=index * plain.bsa_m2)
        shot = shoot(heart, "a4c", stream(14, 0, "echo"), frames=60)
        rr = shot.beats_s[1] - shot.beats_s[0]
        late = (shot.time_s > shot.beats_s[0] + 0.70 * rr) & (shot.time_s < shot.beats_s[1] - 0.01)
        electro = draw_electro(heart, body, stream(14, 0, "measurement"), difficulty=0.5)
        fills = bool(np.ptp(shot.volume_ml[late]) > 0.1 * (heart.edv_ml - heart.esv_ml))
        reading = read(heart, stream(14, 0, "measurement"))
        assert [heart.atrium_beats, shot.atrium_beats, fills, electro.pr_ms > 0, reading.a_m_s > 0] == [beats] * 5


@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_the_trace_peaks_where_the_beats_are_and_its_cursor_is_in_step(layout: int) -> None:
    for i in range(3):
        heart = draw_heart(stream(12, i, "heart"), enrich=True)
        rng = stream(12, i, "echo", layout)
        shot = replace(shoot(heart, "a4c", rng, frames=16), layout=layout)
        drawn = draw(heart, shot, rng)
        place = LAYOUTS[layout]
        width = shot.size[1]
        px_per_s = (place.right - place.left) * width / SWEEP_S
        colour = np.array(place.colour, int)
        alike = (np.abs(drawn.frames[0].astype(int) - colour) < 70).all(axis=2) & (np.ptp(drawn.frames[0], axis=2) > 60)
        top = np.where(alike.any(axis=0), alike.argmax(axis=0), 10**6)
        base = int(np.median(top[top < 10**6]))
        peaks = np.flatnonzero(top < base - 0.5 * place.tall * shot.size[0])
        starts = peaks[np.insert(np.diff(peaks) > 4, 0, True)]
        start = trace_start_s(shot)
        expected = place.left * width + (shot.beats_s[shot.beats_s >= start] - start) * px_per_s
        expected = expected[expected < (place.right - 0.02) * width]
        one_frame = shot.frame_time_ms / 1000 * px_per_s
        assert len(starts) >= len(expected)
        for x in expected:
            assert np.abs(starts - x).min() <= one_frame + 1.5
        for frame, now in ((0, 0.0), (12, shot.time_s[12])):
            cursor = (np.abs(drawn.frames[frame].astype(int) - np.array(place.cursor)) < 40).all(axis=2)
            x = np.nonzero(cursor)[1].mean()
            assert abs(x - (place.left * width + (now - start) * px_per_s)) < 2.5


def test_annotations_are_outside_the_sector_but_for_the_r_waves_and_partly_inside_the_region() -> None:
    for layout in range(len(LAYOUTS)):
        heart = draw_heart(stream(12, 4, "heart"), enrich=True)
        rng = stream(12, 4, "echo")
        shot = replace(shoot(heart, "a4c", rng, frames=2), layout=layout)
        drawn = draw(heart, shot, rng)
        x0, y0, x1, y1 = shot.geometry.box
        coloured = np.ptp(drawn.frames[0].astype(int), axis=2) > 60
        assert coloured[y0 : y1 + 1, x0 : x1 + 1].any()
        assert coloured[y1 + 1 :].sum() > 3 * coloured[: y1 + 1].sum()


def test_the_same_stream_draws_the_same_bytes_whatever_the_threads() -> None:
    heart = draw_heart(stream(12, 0, "heart"), enrich=False)
    threads = cv2.getNumThreads()
    try:
        found = []
        for number in (0, 4):
            cv2.setNumThreads(number)
            found.append([cine(heart, view, stream(12, 0, "echo", 1), frames=3, size=(300, 400)).frames for view in VIEWS])
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
