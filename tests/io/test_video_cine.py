"""AVI and MP4: RGB, times from the frame rate, and what is no video."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from make_cine import pictures

from ecgecho.io import read_echo, scan_echo, video
from ecgecho.io.workers import ItemFailure, run_bounded
from ecgecho.types import ItemError


def write(path, frames, *, rate=50.0, code="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, (frames.shape[2], frames.shape[1]))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_h264(path, frames, times_ms):
    """With B frames, which are stored in another order than they are shown."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=50, options={"bf": "2", "crf": "10"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(frames, times_ms, strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = int(time), Fraction(1, 1000)
            target.mux(stream.encode(picture))
        target.mux(stream.encode(None))
    return path


@pytest.fixture(params=["av", "decord"])
def decoder(request, monkeypatch):
    """Both readers keep the same laws; decord takes over where PyAV is missing."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(video, "decoder", lambda: request.param)
    return request.param


def code_of(path):
    with pytest.raises(ItemError) as caught:
        read_echo(path)
    return caught.value.code


@pytest.mark.parametrize(("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_a_video_gives_its_frames_in_rgb_and_order(tmp_path, name, code, decoder):
    frames = pictures(12, 96, 128)
    clip = read_echo(write(tmp_path / name, frames, code=code))
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).mean() < 4
    # Each frame is nearest to itself: none is repeated, lost or moved.
    error = np.abs(clip.frames[:, None].astype(int) - frames[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(error.argmin(axis=1), np.arange(12))
    np.testing.assert_allclose(clip.frame_time_ms, np.arange(12) * 20.0, rtol=1e-4)
    assert clip.kind == "b_mode"


def test_the_header_of_a_video_agrees_with_its_frames(tmp_path, decoder):
    path = write(tmp_path / "a.avi", pictures(12, 96, 128))
    header = scan_echo(path)
    assert (header.num_frames, header.rows, header.columns, header.transfer_syntax) == (12, 96, 128, "avi")
    assert header.frame_time_ms == pytest.approx(20.0)


def test_the_bytes_decide_not_the_name(tmp_path):
    path = write(tmp_path / "a.avi", pictures(12, 96, 128))
    assert len(read_echo(path.rename(tmp_path / "a.dcm")).frames) == 12
    (tmp_path / "text.avi").write_text("no video\n" * 100)
    assert code_of(tmp_path / "text.avi") == "not_video"


def test_a_video_of_one_frame_is_a_still(tmp_path, decoder):
    path = write(tmp_path / "a.avi", pictures(1, 96, 128))
    assert code_of(path) == "still"
    assert scan_echo(path).kind == "still"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_cut_video_is_never_a_shorter_cine(tmp_path, share, decoder):
    for name, code in (("a.avi", "MJPG"), ("c.avi", "XVID"), ("b.mp4", "mp4v")):
        data = write(tmp_path / name, pictures(12, 96, 128), code=code).read_bytes()
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes(data[: int(share * len(data))])
        try:
            assert len(read_echo(cut).frames) == 12  # an MP4 may lose its last bytes and no frame
        except ItemError as err:
            assert err.code in ("truncated", "undecodable")  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "code", "begin"), [("a.avi", "MJPG", 700), ("c.avi", "XVID", 200), ("b.mp4", "mp4v", 200), ("h.mp4", "h264", 800)]
)
def test_frames_that_a_decoder_would_mend_are_refused(tmp_path, name, code, begin):
    frames, path = pictures(12, 96, 128), tmp_path / name
    if code == "h264":
        write_h264(path, frames, 20 * np.arange(12))
    else:
        write(path, frames, code=code)
    data = bytearray(path.read_bytes())
    begin += data.index(b"movi" if name.endswith("avi") else b"mdat")
    data[begin : begin + 40] = b"\xff" * 40  # inside the first frame
    path.write_bytes(data)
    assert code_of(path) == "undecodable"
    assert scan_echo(path).num_frames == 12


def test_frames_have_the_times_that_the_container_gives_each_of_them(tmp_path):
    frames, times = pictures(12, 96, 128), np.cumsum([0, 20, 33, 47, 20, 33, 47, 20, 33, 47, 20, 33])
    clip = read_echo(write_h264(tmp_path / "a.mp4", frames, times))
    np.testing.assert_allclose(clip.frame_time_ms, times, atol=0.1)
    error = np.abs(clip.frames[:, None].astype(int) - frames[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(error.argmin(axis=1), np.arange(12))


def test_times_that_no_cine_has_give_way_to_the_frame_rate(tmp_path):
    clip = read_echo(write_h264(tmp_path / "a.mp4", pictures(3, 96, 128), [0, 20, 5000]))
    steps = np.diff(clip.frame_time_ms)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps[0])


def test_an_mp4_whose_tables_promise_more_frames_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", pictures(12, 96, 128), code="mp4v")
    data = bytearray(path.read_bytes())
    for name in (b"stsz", b"stts"):
        at = data.index(name) + 12
        assert int.from_bytes(data[at : at + 4], "big") == 12
        data[at : at + 4] = (13).to_bytes(4, "big")
    path.write_bytes(data)
    assert code_of(path) in ("frame_count_differs", "undecodable")


@pytest.mark.parametrize("name", ["http:a.avi", "concat:a|b.avi", "frame%03d.avi"])
def test_a_file_name_is_never_an_address_or_a_pattern(tmp_path, monkeypatch, name):
    write(tmp_path / "whole.avi", pictures(4, 32, 32)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_echo(name).frames) == 4


def test_messages_name_the_file_and_no_folder(tmp_path):
    path = write(tmp_path / "a.mp4", pictures(12, 96, 128), code="mp4v")
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ItemError, match=r"^a\.mp4") as caught:
        read_echo(path)
    assert str(tmp_path) not in str(caught.value)


def test_an_avi_that_promises_more_frames_is_refused(tmp_path, decoder):
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
