"""Ways from a picture to a teacher's square."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ecgecho.echo.frames import crop_zoom, short_side, squash

WAYS = [squash, crop_zoom, short_side]


def picture(rows, columns, num_frames=2):
    return np.random.default_rng(rows).integers(0, 256, (num_frames, rows, columns, 3)).astype(np.uint8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (225, 224), (224, 225), (112, 112), (1, 7)])
def test_every_way_gives_the_square_and_treats_frames_alike(way, shape):
    frames = picture(*shape)
    out = way(frames, 112)
    assert out.shape == (2, 112, 112, 3)
    np.testing.assert_array_equal(way(frames[1:], 112)[0], out[1])


def test_each_way_shows_what_it_says():
    y, x = np.mgrid[:200, :400]
    frames = np.stack([x * 255 // 399, y * 255 // 199, 0 * x], -1)[None].astype(np.uint8)
    corners = {way: [int(v) for v in way(frames, 100)[0, 0, 0, :2]] for way in WAYS}
    # Share of the width and of the height at which the first pixel lies: 0, 0; then 100 of 400, 0; then 120 of 400, 20 of 200.
    np.testing.assert_allclose(corners[squash], [1, 1], atol=3)
    np.testing.assert_allclose(corners[short_side], [64, 1], atol=3)
    np.testing.assert_allclose(corners[crop_zoom], [77, 26], atol=3)


def test_a_picture_of_the_right_size_is_not_resampled():
    frames = picture(112, 112)
    np.testing.assert_array_equal(squash(frames, 112), frames)
    np.testing.assert_array_equal(short_side(frames, 112), frames)
    np.testing.assert_array_equal(crop_zoom(frames, 112, zoom=0.0), frames)


def test_the_interpolation_is_the_one_asked_for():
    frames = picture(300, 300)
    expected = cv2.resize(frames[0, 30:270, 30:270], (112, 112), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(crop_zoom(frames, 112)[0], expected)


def test_half_of_each_side_cannot_be_cut():
    with pytest.raises(ValueError, match="zoom"):
        crop_zoom(picture(30, 30), 16, zoom=0.5)
