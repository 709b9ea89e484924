"""Laws of the simulated cine: what is drawn is what is labelled."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ecgecho.simulate import VIEWS, Cine, cine, disc_volume_ml, draw_heart, stream
from ecgecho.simulate.echo import TRACE_RGB


def clips(count: int) -> list[tuple[float, Cine]]:
    found = []
    for i in range(count):
        heart = draw_heart(stream(11, i, "heart"), enrich=True)
        found += [(heart.lvef, cine(heart, view, stream(11, i, "echo", item))) for item, view in enumerate(VIEWS)]
    return found


@pytest.fixture(scope="module")
def some_clips() -> list[tuple[float, Cine]]:
    return clips(8)


def test_discs_of_the_drawn_masks_give_the_labelled_lvef_within_two_points(some_clips: list[tuple[float, Cine]]) -> None:
    for lvef, drawn in some_clips:
        volume = [disc_volume_ml(mask, drawn.shot.axis_px, drawn.shot.geometry.cm_per_px) for mask in drawn.masks]
        assert abs(100 * (1 - min(volume) / max(volume)) - lvef) < 2.0


def test_discs_of_the_drawn_masks_give_the_volume_of_every_frame(some_clips: list[tuple[float, Cine]]) -> None:
    for _, drawn in some_clips:
        volume = np.array([disc_volume_ml(mask, drawn.shot.axis_px, drawn.shot.geometry.cm_per_px) for mask in drawn.masks])
        np.testing.assert_allclose(volume, drawn.shot.volume_ml, rtol=0.08)


def test_the_whole_cavity_lies_in_the_sector_and_is_darker_than_its_wall(some_clips: list[tuple[float, Cine]]) -> None:
    for _, drawn in some_clips:
        geometry = drawn.shot.geometry
        y, x = np.nonzero(drawn.masks.any(axis=0))
        dx, dy = (x - geometry.apex_x), (y - geometry.apex_y)
        inside = (np.hypot(dx, dy) <= geometry.radius_px) & (np.abs(np.arctan2(dx, dy)) <= np.radians(38.5))
        assert inside.mean() > 0.97
        first = drawn.masks[0].astype(np.uint8)
        core = cv2.erode(first, np.ones((7, 7))) > 0
        ring = (cv2.dilate(first, np.ones((9, 9))) > 0) & (cv2.dilate(first, np.ones((3, 3))) == 0)
        assert drawn.frames[0][core].mean() < 0.6 * drawn.frames[0][ring].mean()


def test_annotations_are_outside_the_sector_but_for_the_r_waves_and_partly_inside_the_region(
    some_clips: list[tuple[float, Cine]],
) -> None:
    _, drawn = some_clips[0]
    x0, y0, x1, y1 = drawn.shot.geometry.box
    coloured = np.ptp(drawn.frames[0].astype(int), axis=2) > 60
    assert coloured.any()
    assert coloured[y0 : y1 + 1, x0 : x1 + 1].any()
    assert coloured[y1 + 1 :].sum() > 5 * coloured[: y1 + 1].sum()


def test_the_green_trace_peaks_where_the_beats_are(some_clips: list[tuple[float, Cine]]) -> None:
    for _, drawn in some_clips:
        frame = drawn.frames[0].astype(int)
        green = (frame[..., 1] - frame[..., 0] > 40) & (frame[..., 1] - frame[..., 2] > 40)
        top = np.where(green.any(axis=0), green.argmax(axis=0), 10**6)
        base = int(np.median(top[top < 10**6]))
        peaks = np.flatnonzero(top < base - 25)
        starts = peaks[np.insert(np.diff(peaks) > 8, 0, True)] if len(peaks) else peaks
        px_per_s = (0.95 - 0.07) * frame.shape[1] / 3.0
        beats = drawn.shot.beats_s
        first = beats[beats <= 0][-1]
        expected = 0.07 * frame.shape[1] + (beats[beats >= first] - first + 0.1) * px_per_s
        expected = expected[expected < 0.93 * frame.shape[1]]
        assert len(starts) >= len(expected)
        for x in expected:
            assert np.abs(starts - x).min() <= 4  # a frame is at least 12 ms, 1.4 pixels


def test_a_cine_shows_end_diastole_and_end_systole(some_clips: list[tuple[float, Cine]]) -> None:
    for lvef, drawn in some_clips:
        volume = drawn.shot.volume_ml
        assert abs(100 * (1 - volume.min() / volume.max()) - lvef) < 0.75


def test_the_same_stream_draws_the_same_bytes_and_trace_colours_are_coloured() -> None:
    heart = draw_heart(stream(12, 0, "heart"), enrich=False)
    a, b = (cine(heart, "a4c", stream(12, 0, "echo", 1), frames=4, size=(150, 200)) for _ in range(2))
    assert np.array_equal(a.frames, b.frames)
    assert max(TRACE_RGB) - min(TRACE_RGB) > 100
