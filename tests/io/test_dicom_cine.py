"""DICOM cines: RGB once and only once, times, regions, kinds, and every bad input with its outcome."""

from __future__ import annotations

import contextlib
import struct
from functools import partial

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_cine import dataset, jpeg, jpeg_cine, pictures, region, save
from pydicom.data import get_testdata_file
from pydicom.pixels import convert_color_space

from ecgecho.io import read_echo, scan_echo
from ecgecho.io.files import MAX_BYTES
from ecgecho.io.jpeg import first_damaged, scale_for
from ecgecho.types import ItemError

REAL = get_testdata_file("examples_ybr_color.dcm", download=False)


def outcome(call, *args) -> tuple[str, str, bool]:
    with pytest.raises(ItemError) as caught:
        call(*args)
    return caught.value.code, caught.value.outcome, caught.value.permanent


def test_the_fast_path_equals_pydicom_on_a_real_cine():
    clip = read_echo(REAL)
    np.testing.assert_array_equal(clip.frames, pydicom.dcmread(REAL).pixel_array)
    assert clip.kind == "b_mode"
    np.testing.assert_allclose(clip.frame_time_ms, np.arange(30) * 33.333, rtol=1e-6)


def test_regions_of_a_real_cine_in_other_coordinates_are_halved_and_its_scale_doubled():
    clip = read_echo(REAL)
    found = clip.regions[0]
    assert (found.x0, found.y0, found.x1, found.y1) == (42, 15, 297, 207)
    assert clip.cm_per_px == pytest.approx(2 * 0.05104970559)
    assert clip.defects == ("region_rescaled",)


@pytest.mark.parametrize("marker", ["jfif", "adobe", "none"])
@pytest.mark.parametrize("stored", ["ybr", "rgb"])
@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
def test_colours_are_right_whatever_tag_and_marker_say(tmp_path, stored, marker, photometric):
    frames = pictures()
    clip = read_echo(jpeg_cine(tmp_path / "a.dcm", frames, stored=stored, marker=marker, photometric=photometric))
    assert np.abs(clip.frames.astype(int) - frames).mean() < 1.5
    wrong = (photometric == "RGB") != (stored == "rgb")
    assert ("colour_tag_wrong" in clip.defects) == wrong


def test_a_right_tag_without_marker_decodes_as_pydicom_does(tmp_path):
    path = jpeg_cine(tmp_path / "a.dcm", marker="none", photometric="YBR_FULL")
    np.testing.assert_array_equal(read_echo(path).frames, pydicom.dcmread(path).pixel_array)


def test_a_frame_may_lie_in_several_fragments(tmp_path):
    frames = pictures()
    ds = dataset(len(frames), *frames.shape[1:3])
    whole = [jpeg(frame) for frame in frames]
    cut = [piece for data in whole for piece in (data[:200], data[200:])]
    split = read_echo(save(tmp_path / "split.dcm", ds, cut))
    np.testing.assert_array_equal(split.frames, read_echo(jpeg_cine(tmp_path / "whole.dcm", frames)).frames)


def test_grey_jpeg_is_repeated_in_three_channels(tmp_path):
    from io import BytesIO

    from PIL import Image

    frames = pictures()[..., 0]
    data = []
    for frame in frames:
        target = BytesIO()
        Image.fromarray(frame).save(target, "JPEG", quality=97)
        data.append(target.getvalue())
    ds = dataset(len(frames), *frames.shape[1:3], photometric="MONOCHROME2", samples=1)
    clip = read_echo(save(tmp_path / "a.dcm", ds, data))
    assert np.abs(clip.frames.astype(int) - frames[..., None]).max() <= 12


def test_native_rgb_is_exact_in_both_planar_configurations(tmp_path):
    frames = pictures()
    one = save(tmp_path / "a.dcm", dataset(4, 48, 64, photometric="RGB"), frames.tobytes())
    planes = np.moveaxis(frames, -1, 1).tobytes()
    other = save(tmp_path / "b.dcm", dataset(4, 48, 64, photometric="RGB", PlanarConfiguration=1), planes)
    np.testing.assert_array_equal(read_echo(one).frames, frames)
    np.testing.assert_array_equal(read_echo(other).frames, frames)


def test_native_ybr_is_converted_once(tmp_path):
    frames = pictures()
    ybr = np.stack([convert_color_space(frame, "RGB", "YBR_FULL") for frame in frames])
    full = save(tmp_path / "a.dcm", dataset(4, 48, 64, photometric="YBR_FULL"), ybr.tobytes())
    assert np.abs(read_echo(full).frames.astype(int) - frames).max() <= 2
    pairs = ybr.reshape(4, 48, 32, 2, 3).astype(int)
    chroma = pairs[..., 1:].mean(3).astype(np.uint8)
    half = np.concatenate([pairs[..., 0].astype(np.uint8), chroma], axis=-1)
    path = save(tmp_path / "b.dcm", dataset(4, 48, 64, photometric="YBR_FULL_422"), half.tobytes())
    assert np.abs(read_echo(path).frames.astype(int) - frames).mean() < 1.5


def test_native_grey_is_repeated_and_monochrome1_is_inverted(tmp_path):
    grey = pictures()[..., 0]
    two = save(tmp_path / "a.dcm", dataset(4, 48, 64, photometric="MONOCHROME2", samples=1), grey.tobytes())
    one = save(tmp_path / "b.dcm", dataset(4, 48, 64, photometric="MONOCHROME1", samples=1), (255 - grey).tobytes())
    np.testing.assert_array_equal(read_echo(two).frames, np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(read_echo(one).frames, np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize("entry_bits", [8, 16])
def test_a_palette_is_looked_up(tmp_path, entry_bits):
    index = pictures()[..., 0]
    ds = dataset(4, 48, 64, photometric="PALETTE COLOR", samples=1)
    table = {"Red": np.arange(256), "Green": 255 - np.arange(256), "Blue": np.arange(256) // 2}
    for name, values in table.items():
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, entry_bits])
        words = values.astype(np.uint8) if entry_bits == 8 else (values * 257).astype("<u2")
        setattr(ds, f"{name}PaletteColorLookupTableData", words.tobytes())
    clip = read_echo(save(tmp_path / "a.dcm", ds, index.tobytes()))
    np.testing.assert_array_equal(clip.frames, np.stack([table[name][index] for name in ("Red", "Green", "Blue")], -1))


def test_run_length_frames_are_exact(tmp_path):
    frames = pictures()
    ds = dataset(4, 48, 64, photometric="RGB")
    path = save(tmp_path / "a.dcm", ds, frames.tobytes())
    packed = pydicom.dcmread(path)
    packed.compress(pydicom.uid.RLELossless)
    packed.save_as(path)
    np.testing.assert_array_equal(read_echo(path).frames, frames)


# --- smaller pictures straight from the JPEG decoder


def small(path, least=24):
    return read_echo(path, decode="dct", least=least)


@given(rows=st.integers(1, 2000), columns=st.integers(1, 2000), least=st.integers(1, 2000))
def test_the_scale_is_the_largest_that_leaves_enough_lines(rows, columns, least):
    scale = scale_for(rows, columns, least)
    fits = [s for s in (1, 2, 4, 8) if min(-(-rows // s), -(-columns // s)) >= least]
    assert scale == max(fits, default=1)


@pytest.mark.parametrize(("rows", "columns"), [(96, 128), (97, 131), (103, 121)])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_smaller_picture_is_the_area_mean_of_the_full_one(tmp_path, rows, columns, scale):
    path = jpeg_cine(tmp_path / "a.dcm", pictures(3, rows, columns))
    full, found = read_echo(path), small(path, least=-(-rows // scale))
    assert found.frames.shape == (3, -(-rows // scale), -(-columns // scale), 3)
    whole = full.frames[:, : rows // scale * scale, : columns // scale * scale].astype(float)
    blocks = whole.reshape(3, rows // scale, scale, columns // scale, scale, 3).mean(axis=(2, 4))
    error = np.abs(found.frames[:, : rows // scale, : columns // scale] - blocks)
    assert error.mean() < 1
    assert error.max() < 16
    # Shifted by one pixel it would fit worse: the two grids lie on each other.
    assert np.abs(found.frames[:, :, 1 : columns // scale][:, : rows // scale] - blocks[:, :, :-1]).mean() > 2 * error.mean()
    np.testing.assert_array_equal(found.frame_time_ms, full.frame_time_ms)
    assert (found.kind, found.defects) == (full.kind, full.defects)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
@pytest.mark.parametrize("marker", ["jfif", "adobe", "none"])
@pytest.mark.parametrize("stored", ["ybr", "rgb"])
def test_a_smaller_picture_has_the_colours_of_the_full_one(tmp_path, stored, marker, photometric):
    path = jpeg_cine(tmp_path / "a.dcm", stored=stored, marker=marker, photometric=photometric)
    full, found = read_echo(path), small(path)
    blocks = full.frames.astype(float).reshape(4, 24, 2, 32, 2, 3).mean(axis=(2, 4))
    assert found.defects == full.defects
    assert np.abs(found.frames - blocks).mean() < 1.5


def test_regions_and_scale_are_those_of_the_smaller_picture(tmp_path):
    path = jpeg_cine(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=[region(3, 4, 63, 46, cm=0.03)])
    found = small(path)
    assert (found.regions[0].x0, found.regions[0].y0, found.regions[0].x1, found.regions[0].y1) == (1, 2, 31, 23)
    assert found.cm_per_px == pytest.approx(0.06)
    real = read_echo(REAL, decode="dct", least=112)
    assert real.frames.shape == (30, 120, 160, 3)
    assert (real.regions[0].x1, real.regions[0].y1, real.cm_per_px) == (148, 103, pytest.approx(4 * 0.05104970559))


def test_a_picture_that_is_small_enough_is_the_full_one(tmp_path):
    path = jpeg_cine(tmp_path / "a.dcm")
    for least in (25, 48, 224):
        np.testing.assert_array_equal(small(path, least=least).frames, read_echo(path, decode="full").frames)


def test_what_is_no_jpeg_is_decoded_in_full(tmp_path):
    frames, items = pictures(), [region(3, 4, 63, 46, cm=0.03)]
    ds = dataset(4, 48, 64, photometric="RGB", SequenceOfUltrasoundRegions=items)
    found = small(save(tmp_path / "a.dcm", ds, frames.tobytes()))
    np.testing.assert_array_equal(found.frames, frames)
    assert (found.regions[0].x1, found.cm_per_px) == (63, pytest.approx(0.03))


def test_full_is_what_nobody_asks_for(tmp_path):
    path = jpeg_cine(tmp_path / "a.dcm", pictures(2, 700, 900))
    np.testing.assert_array_equal(read_echo(path).frames, pydicom.dcmread(path).pixel_array)


# --- times, regions, kinds


def source_of(tmp_path, **tags):
    return scan_echo(jpeg_cine(tmp_path / "t.dcm", **tags)).frame_time_source


def test_the_header_says_which_source_of_time_was_used(tmp_path):
    vector = [0.0, 20.0, 25.0, 30.0]
    assert source_of(tmp_path, CineRate=30) == "FrameTime"
    assert source_of(tmp_path, FrameTime="0", FrameTimeVector=vector) == "FrameTimeVector"
    assert source_of(tmp_path, FrameTimeVector=vector, FrameIncrementPointer=0x00181065) == "FrameTimeVector"
    assert source_of(tmp_path, FrameTime=None, CineRate=40, RecommendedDisplayFrameRate=30) == "CineRate"
    assert source_of(tmp_path, FrameTime=None, RecommendedDisplayFrameRate=30) == "RecommendedDisplayFrameRate"
    assert source_of(tmp_path, FrameTime=None, ActualFrameDuration=33) == "ActualFrameDuration"
    assert source_of(tmp_path, FrameTime=None) == "assumed"
    assert scan_echo(jpeg_cine(tmp_path / "s.dcm", pictures(1))).frame_time_source == ""


@pytest.mark.parametrize(
    ("image_type", "regions", "defects"),
    [
        (["ORIGINAL", "PRIMARY", "", "0001"], [(1, 1)], []),
        (["DERIVED", "PRIMARY", "", "0001"], [(1, 1)], []),
        (["ORIGINAL", "PRIMARY", "", "0011"], [(1, 1), (1, 2)], []),
        (["ORIGINAL", "PRIMARY", "", "0011"], [(1, 1)], ["image_type_differs"]),
        (["ORIGINAL", "PRIMARY", "", "0005"], [(1, 1)], ["image_type_differs"]),
        (["ORIGINAL", "PRIMARY", "", "0041"], [(1, 1)], ["image_type_3d"]),
        (["ORIGINAL", "PRIMARY", "STRESS", "0001"], [(1, 1)], ["stress_stage"]),
        (["ORIGINAL", "PRIMARY", "TTE", "VOLUME"], [(1, 1)], ["image_type_unusual"]),
        (["ORIGINAL", "PRIMARY"], [(1, 1)], []),
        (None, [(1, 1)], []),
    ],
)
def test_odd_image_types_are_noted_and_exclude_nothing(tmp_path, image_type, regions, defects):
    items = [region(0, 0, 40, 40, spatial_format=a, data_type=b) for a, b in regions]
    tags = {"ImageType": image_type} if image_type else {}
    clip = read_echo(jpeg_cine(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=items, **tags))
    assert list(clip.defects) == defects
    staged = jpeg_cine(tmp_path / "b.dcm", SequenceOfUltrasoundRegions=items, StageName="REST", **tags)
    assert "stress_stage" in scan_echo(staged).defects


def times_of(tmp_path, **tags):
    clip = read_echo(jpeg_cine(tmp_path / "t.dcm", **tags))
    return clip.frame_time_ms.tolist(), [defect for defect in clip.defects if defect.startswith("frame_time")]


def test_frame_time_comes_first_then_the_vector_then_rates(tmp_path):
    vector = [0.0, 20.0, 25.0, 30.0]
    assert times_of(tmp_path, FrameTime="25.0", CineRate=40) == ([0, 25, 50, 75], [])
    assert times_of(tmp_path, FrameTime=None, FrameTimeVector=vector, CineRate=40) == ([0, 20, 45, 75], [])
    assert times_of(tmp_path, FrameTime=None, CineRate=50) == ([0, 20, 40, 60], [])
    assert times_of(tmp_path, FrameTime=None, RecommendedDisplayFrameRate=50) == ([0, 20, 40, 60], [])
    assert times_of(tmp_path, FrameTime=None, ActualFrameDuration=10) == ([0, 10, 20, 30], [])


def test_a_pointer_to_a_valid_vector_puts_it_first(tmp_path):
    vector = [0.0, 20.0, 25.0, 30.0]
    pointed = {"FrameTimeVector": vector, "FrameIncrementPointer": 0x00181065}
    assert times_of(tmp_path, FrameTime="25.0", **pointed) == ([0, 20, 45, 75], [])


@pytest.mark.parametrize("vector", [[0.0, 20.0], [5.0, 20.0, 20.0, 20.0], [0.0, 20.0, 0.0, 20.0], [0.0, 20.0, -1.0, 20.0]])
def test_an_invalid_vector_is_not_used(tmp_path, vector):
    pointed = {"FrameTimeVector": vector, "FrameIncrementPointer": 0x00181065}
    assert times_of(tmp_path, FrameTime="25.0", **pointed) == ([0, 25, 50, 75], [])


def test_sources_that_differ_by_more_than_5_percent_are_a_defect(tmp_path):
    assert times_of(tmp_path, FrameTime="25.0", CineRate=30) == ([0, 25, 50, 75], ["frame_time_differs"])
    assert times_of(tmp_path, FrameTime="25.0", CineRate=41)[1] == []


@pytest.mark.parametrize("value", [None, "0", "-5", "1e9"])
def test_without_any_time_30_frames_a_second_are_assumed_and_said(tmp_path, value):
    times, defects = times_of(tmp_path, FrameTime=value)
    np.testing.assert_allclose(times, np.arange(4) * 1000 / 30, rtol=1e-6)
    assert defects == ["frame_time_assumed"]


def test_regions_are_kept_inclusive_and_their_scale_is_positive(tmp_path):
    clip = read_echo(jpeg_cine(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=[region(2, 3, 63, 47, cm=0.03)]))
    found = clip.regions[0]
    assert (found.x0, found.y0, found.x1, found.y1) == (2, 3, 63, 47)
    assert clip.cm_per_px == pytest.approx(0.03)
    assert clip.defects == ()


def test_a_region_that_counts_from_one_is_clamped_and_one_far_outside_is_dropped(tmp_path):
    near = read_echo(jpeg_cine(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=[region(0, 0, 64, 48)]))
    assert (near.regions[0].x1, near.regions[0].y1, near.defects) == (63, 47, ("region_clamped",))
    far = read_echo(jpeg_cine(tmp_path / "b.dcm", SequenceOfUltrasoundRegions=[region(0, 0, 9000, 48)]))
    assert (far.regions, far.defects) == ((), ("region_outside_image",))


@pytest.mark.parametrize(
    ("regions", "tags", "kind"),
    [
        ([(1, 1)], {}, "b_mode"),
        ([], {}, "b_mode"),
        ([(1, 1), (1, 2)], {}, "colour"),
        ([(1, 1)], {"UltrasoundColorDataPresent": 1}, "colour"),
        ([(1, 1), (3, 4)], {}, "spectral"),
        ([(1, 1), (2, 1)], {}, "m_mode"),
        ([(1, 1), (4, 10)], {}, "b_mode"),
    ],
)
def test_kind_follows_from_the_tags(tmp_path, regions, tags, kind):
    items = [region(0, 0, 40, 40, spatial_format=a, data_type=b) for a, b in regions]
    path = jpeg_cine(tmp_path / "a.dcm", **tags, **({"SequenceOfUltrasoundRegions": items} if items else {}))
    assert scan_echo(path).kind == kind
    if kind in ("spectral", "m_mode"):
        assert outcome(read_echo, path) == (kind, "excluded", True)
    else:
        assert read_echo(path).kind == kind


def test_the_header_alone_tells_what_the_pixels_will_be(tmp_path):
    path = jpeg_cine(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=[region(2, 3, 60, 40)])
    header, clip = scan_echo(path), read_echo(path)
    assert (header.num_frames, header.rows, header.columns) == clip.frames.shape[:3]
    assert (header.kind, header.regions, header.defects) == (clip.kind, clip.regions, clip.defects)
    assert header.frame_time_ms == pytest.approx(25.0)
    assert header.transfer_syntax == "1.2.840.10008.1.2.4.50"


# --- bad input


def test_a_still_is_excluded_and_scanned_as_one(tmp_path):
    path = jpeg_cine(tmp_path / "a.dcm", pictures(1))
    assert scan_echo(path).kind == "still"
    assert outcome(read_echo, path) == ("still", "excluded", True)


def test_text_named_dcm_is_no_dicom(tmp_path):
    (tmp_path / "a.dcm").write_text("These are notes, not an image.\n" * 20)
    assert outcome(read_echo, tmp_path / "a.dcm") == ("not_dicom", "failed", True)
    assert outcome(scan_echo, tmp_path / "a.dcm") == ("not_dicom", "failed", True)


def test_what_is_no_file_is_said(tmp_path):
    import os

    (tmp_path / "empty.dcm").touch()
    os.mkfifo(tmp_path / "pipe.dcm")
    assert outcome(read_echo, tmp_path / "empty.dcm") == ("empty", "failed", True)
    assert outcome(read_echo, tmp_path / "none.dcm") == ("missing_file", "failed", True)
    assert outcome(read_echo, tmp_path) == ("not_a_file", "failed", True)
    assert outcome(read_echo, tmp_path / "pipe.dcm") == ("not_a_file", "failed", True)


def test_a_file_cut_inside_its_pixels_is_truncated(tmp_path):
    data = jpeg_cine(tmp_path / "a.dcm").read_bytes()
    native = save(tmp_path / "n.dcm", dataset(4, 48, 64, photometric="RGB"), pictures().tobytes()).read_bytes()
    for whole, cuts in ((data, (4, 9, 100, 1500)), (native, (1, 100, 20000))):
        for cut in cuts:
            (tmp_path / "cut.dcm").write_bytes(whole[:-cut])
            assert outcome(read_echo, tmp_path / "cut.dcm") == ("truncated", "failed", True)


def test_a_file_cut_before_its_pixels_is_truncated(tmp_path):
    whole = jpeg_cine(tmp_path / "a.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: whole.index(struct.pack("<HH", 0x7FE0, 0x0010))])
    assert outcome(read_echo, tmp_path / "cut.dcm") == ("truncated", "failed", True)


@pytest.mark.parametrize("promised", [3, 5, 1000])
def test_a_header_with_another_number_of_frames_is_refused(tmp_path, promised):
    path = jpeg_cine(tmp_path / "a.dcm", NumberOfFrames=promised)
    assert outcome(read_echo, path) == ("frame_count_differs", "failed", True)


def test_a_native_header_that_promises_more_frames_is_refused(tmp_path):
    path = save(tmp_path / "a.dcm", dataset(5, 48, 64, photometric="RGB"), pictures().tobytes())
    assert outcome(read_echo, path) == ("frame_count_differs", "failed", True)


def test_a_promise_beyond_memory_is_refused_before_anything_is_allocated(tmp_path):
    promised = MAX_BYTES // (48 * 64 * 3) + 1
    path = jpeg_cine(tmp_path / "a.dcm", NumberOfFrames=promised)
    assert outcome(read_echo, path) == ("too_large", "failed", True)
    assert scan_echo(path).num_frames == promised


def test_other_dicom_files_are_excluded(tmp_path):
    assert outcome(read_echo, get_testdata_file("CT_small.dcm", download=False))[:2] == ("not_ultrasound", "excluded")
    assert outcome(read_echo, get_testdata_file("empty_charset_LEI.dcm", download=False))[:2] == ("no_pixels", "excluded")


def test_a_syntax_without_decoder_is_named(tmp_path):
    ds = dataset(2, 48, 64, photometric="RGB")
    path = save(tmp_path / "a.dcm", ds, [bytes(200)] * 2, syntax=pydicom.uid.JPIPHTJ2KReferenced)
    assert outcome(read_echo, path) == ("unsupported_transfer_syntax", "failed", True)


def test_a_damaged_jpeg_or_one_of_another_size_is_undecodable(tmp_path):
    frames = [jpeg(frame) for frame in pictures()]
    ds = dataset(4, 48, 64)
    broken = save(tmp_path / "a.dcm", ds, [frames[0], frames[1][: len(frames[1]) // 2], *frames[2:]])
    assert outcome(read_echo, broken) == ("undecodable", "failed", True)
    larger = save(tmp_path / "b.dcm", ds, [*frames[:3], jpeg(pictures(1, 64, 64)[0])])
    assert outcome(read_echo, larger) == ("undecodable", "failed", True)
    for path in (broken, larger):
        assert outcome(small, path) == ("undecodable", "failed", True)


@pytest.mark.parametrize("filler", [b"\x00", b"\x55", b"\xaa", b"\xff"])
def test_a_frame_whose_code_is_damaged_inside_is_refused_not_mended(tmp_path, filler):
    pytest.importorskip("av")
    frames = [jpeg(frame) for frame in pictures(4, 96, 128)]
    broken = bytearray(frames[2])
    begin = broken.index(b"\xff\xda") + 300
    broken[begin : begin + 60] = filler * 60
    path = save(tmp_path / "a.dcm", dataset(4, 96, 128), [*frames[:2], bytes(broken), frames[3]])
    for read in (read_echo, small):
        assert outcome(read, path) == ("undecodable", "failed", True)


def test_whole_frames_are_not_called_damaged_nor_those_that_the_judge_cannot_read(tmp_path):
    for quality in (5, 50, 97):
        for stored, marker in (("ybr", "none"), ("rgb", "adobe"), ("rgb", "none")):
            assert first_damaged([jpeg(frame, stored=stored, marker=marker, quality=quality) for frame in pictures(3)]) is None
    assert first_damaged([b"\xff\xd8 another kind"] * 3) is None


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    frames = pictures(2, 16, 16)
    items = [region(0, 0, 15, 15, cm=0.1)]
    encapsulated = jpeg_cine(folder / "e.dcm", frames, SequenceOfUltrasoundRegions=items, FrameTimeVector=[0, 20])
    native = save(folder / "n.dcm", dataset(2, 16, 16, photometric="RGB"), frames.tobytes())
    return folder, [encapsulated.read_bytes(), native.read_bytes()]


@settings(max_examples=250, deadline=2000)
@given(
    which=st.integers(0, 1),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=12),
)
def test_damaged_bytes_give_a_clip_or_an_item_error(small_files, which, cut, flips):
    folder, files = small_files
    data = bytearray(files[which])
    for position, value in flips:
        data[position % len(data)] = value
    path = folder / "damaged.dcm"
    path.write_bytes(data[: max(1, round(len(data) * min(1.0, cut + 0.5)))])
    for call in (read_echo, scan_echo, partial(small, least=4)):
        with contextlib.suppress(ItemError):
            call(path)
