"""AVI and MP4: RGB, times from the frame rate, and what is no video."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from make_cine import pictures

from ecgecho.io import read_echo, scan_echo
from ecgecho.io.workers import ItemFailure, run_bounded
from ecgecho.types import ItemError


def write(path, frames, *, rate=50.0, code="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, (frames.shape[2], frames.shape[1]))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def code_of(path):
    with pytest.raises(ItemError) as caught:
        read_echo(path)
    return caught.value.code


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_a_video_gives_its_frames_in_rgb_and_order(tmp_path, name, code):
    frames = pictures(12, 96, 128)
    clip = read_echo(write(tmp_path / name, frames, code=code))
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).mean() < 4
    # Each frame is nearest to itself: none is repeated, lost or moved.
    error = np.abs(clip.frames[:, None].astype(int) - frames[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(error.argmin(axis=1), np.arange(12))
    np.testing.assert_allclose(clip.frame_time_ms, np.arange(12) * 20.0, rtol=1e-4)
    assert clip.kind == "b_mode"


def test_the_header_of_a_video_agrees_with_its_frames(tmp_path):
    path = write(tmp_path / "a.avi", pictures(12, 96, 128))
    header = scan_echo(path)
    assert (header.num_frames, header.rows, header.columns, header.transfer_syntax) == (12, 96, 128, "avi")
    assert header.frame_time_ms == pytest.approx(20.0)


def test_the_bytes_decide_not_the_name(tmp_path):
    path = write(tmp_path / "a.avi", pictures(12, 96, 128))
    assert len(read_echo(path.rename(tmp_path / "a.dcm")).frames) == 12
    (tmp_path / "text.avi").write_text("no video\n" * 100)
    assert code_of(tmp_path / "text.avi") == "not_video"


def test_a_video_of_one_frame_is_a_still(tmp_path):
    path = write(tmp_path / "a.avi", pictures(1, 96, 128))
    assert code_of(path) == "still"
    assert scan_echo(path).kind == "still"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_cut_video_is_never_a_shorter_cine(tmp_path, share):
    for name, code in (("a.avi", "MJPG"), ("c.avi", "XVID"), ("b.mp4", "mp4v")):
        data = write(tmp_path / name, pictures(12, 96, 128), code=code).read_bytes()
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes(data[: int(share * len(data))])
        try:
            assert len(read_echo(cut).frames) == 12  # an MP4 may lose its last bytes and no frame
        except ItemError as err:
            assert err.code in ("truncated", "undecodable")  # noqa: PT017


def test_an_avi_that_promises_more_frames_is_refused(tmp_path):
    path = write(tmp_path / "a.avi", pictures(12, 96, 128))
    data = bytearray(path.read_bytes())
    at = data.index(b"avih") + 24
    assert int.from_bytes(data[at : at + 4], "little") == 12
    data[at : at + 4] = (13).to_bytes(4, "little")
    path.write_bytes(data)
    assert code_of(path) == "frame_count_differs"


def test_damaged_video_costs_its_own_item_at_most(tmp_path):
    data = write(tmp_path / "a.avi", pictures(4, 32, 32)).read_bytes()
    random = np.random.default_rng(5)
    paths = []
    for number in range(40):
        damaged = bytearray(data)
        for _ in range(random.integers(0, 8)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        paths.append(tmp_path / f"{number}.avi")
        paths[-1].write_bytes(damaged[: random.integers(len(data) // 20, len(data) + 1)])
    results = dict(run_bounded(read_echo, paths, workers=2, timeout_s=10, memory_bytes=2 << 30))
    assert sorted(results) == list(range(40))
    codes = {result.code for result in results.values() if isinstance(result, ItemFailure)}
    assert "unexpected_error" not in codes
    assert codes
