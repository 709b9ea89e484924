"""CAMUS cines: NIfTI-1 of the new release, MetaImage of the old one, written here byte by byte as published."""

from __future__ import annotations

import contextlib
import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_cine import pictures

from ecgecho.io import nifti, read_echo, scan_echo
from ecgecho.types import ItemError

FRAMES = pictures(5, 40, 30)[..., 0]


def packed(frames, *, order="<", code=2, dims=None, pixdim=(0.154, 0.154, 1.0, 0.0), units=10, scale=(0.0, 0.0), magic=b"n+1\0"):
    """The bytes of a NIfTI-1 file of (T, H, W): 348 bytes of header, 4 of no extension, x first."""
    values = np.ascontiguousarray(frames)
    sizes = dims or (3, frames.shape[2], frames.shape[1], frames.shape[0])
    head = bytearray(348)
    struct.pack_into(f"{order}i", head, 0, 348)
    struct.pack_into(f"{order}8h", head, 40, *sizes, *[1] * (8 - len(sizes)))
    struct.pack_into(f"{order}2h", head, 70, code, 8 * values.itemsize)
    struct.pack_into(f"{order}8f", head, 76, 1.0, *pixdim, 0, 0, 0)
    struct.pack_into(f"{order}3f", head, 108, 352.0, *scale)
    head[123] = units
    head[344:348] = magic
    return bytes(head) + bytes(4) + values.astype(values.dtype.newbyteorder(order)).tobytes()


def half_sequence(folder, name="patient0001_4CH_half_sequence.nii.gz", frames=FRAMES, **words):
    data = packed(frames, **words)
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return path


def code_of(path, call=read_echo):
    with pytest.raises(ItemError) as caught:
        call(path)
    return caught.value.code


@pytest.mark.parametrize("name", ["patient0001_4CH_half_sequence.nii.gz", "patient0001_4CH_half_sequence.nii"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_half_sequence_gives_its_frames_upright_in_order_and_its_spacing(tmp_path, name, order):
    path = half_sequence(tmp_path, name, order=order)
    clip = read_echo(path)
    np.testing.assert_array_equal(clip.frames, np.repeat(FRAMES[..., None], 3, -1))
    assert clip.cm_per_px == pytest.approx(0.0154, rel=1e-6)
    assert (clip.kind, clip.regions, clip.defects) == ("b_mode", (), ("no_regions", "frame_time_assumed"))
    header = scan_echo(path)
    assert (header.kind, header.num_frames, header.rows, header.columns) == ("b_mode", 5, 40, 30)
    assert (header.transfer_syntax, header.frame_time_source, header.photometric) == ("nifti", "assumed", "")
    assert header.defects == clip.defects


def test_time_may_be_the_fourth_axis_and_then_have_a_step(tmp_path):
    for units, step in ((2 | 8, 0.02), (2 | 16, 20.0), (2 | 24, 20_000.0)):
        path = half_sequence(tmp_path, dims=(4, 30, 40, 1, 5), pixdim=(0.154, 0.154, 1.0, step), units=units)
        clip = read_echo(path)
        np.testing.assert_array_equal(clip.frames[..., 1], FRAMES)
        np.testing.assert_allclose(clip.frame_time_ms, 20 * np.arange(5), rtol=1e-5)
        assert "frame_time_assumed" not in clip.defects
        assert (scan_echo(path).frame_time_source, scan_echo(path).frame_time_ms) == ("header", pytest.approx(20.0))
    # The step of an axis of space is no time.
    assert "frame_time_assumed" in read_echo(half_sequence(tmp_path, pixdim=(0.154, 0.154, 20.0, 0.0))).defects


@pytest.mark.parametrize(("units", "cm"), [(2, 0.0154), (0, 0.0154), (1, 15.4), (3, 0.154e-4)])
def test_spacing_follows_its_unit(tmp_path, units, cm):
    assert read_echo(half_sequence(tmp_path, units=units)).cm_per_px == pytest.approx(cm, rel=1e-6)


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    clip = read_echo(half_sequence(tmp_path, pixdim=(0.308, 0.154, 1.53, 0.0)))
    assert clip.frames.shape == (5, 40, 60, 3)
    assert clip.cm_per_px == pytest.approx(0.0154, rel=1e-6)
    assert "pixels_made_square" in clip.defects
    assert np.abs(clip.frames[:, :, ::2, 0].astype(int) - FRAMES).mean() < 4
    assert scan_echo(tmp_path / "patient0001_4CH_half_sequence.nii.gz").columns == 60


def test_a_spacing_that_is_none_is_not_used(tmp_path):
    for pixdim in ((0.0, 0.0, 1.0, 0.0), (np.nan, 0.154, 1.0, 0.0), (np.inf, 0.1, 1.0, 0.0), (5.0, 0.1, 1.0, 0.0)):
        clip = read_echo(half_sequence(tmp_path, pixdim=pixdim))
        assert (clip.cm_per_px, clip.frames.shape) == (None, (5, 40, 30, 3))


@pytest.mark.parametrize(
    ("values", "code", "scale", "expected", "defect"),
    [
        (FRAMES.astype("i2"), 4, (0.0, 0.0), FRAMES, False),
        (FRAMES.astype("f4"), 16, (1.0, 0.0), FRAMES, False),
        (FRAMES.astype("f8") / 255, 64, (0.0, 0.0), np.rint(FRAMES / FRAMES.max() * 255), True),
        (FRAMES.astype("u2") * 16, 512, (0.0, 0.0), np.rint(FRAMES / FRAMES.max() * 255), True),
        (FRAMES.astype("u2") * 16, 512, (0.0625, 0.0), FRAMES, False),
        (np.zeros((5, 40, 30), "f4"), 16, (0.0, 0.0), np.zeros((5, 40, 30)), True),
    ],
)
def test_intensities_become_0_to_255(tmp_path, values, code, scale, expected, defect):
    clip = read_echo(half_sequence(tmp_path, frames=values, code=code, scale=scale))
    assert np.abs(clip.frames[..., 0].astype(int) - expected).max() <= 1
    assert ("intensity_rescaled" in clip.defects) == defect


def test_single_pictures_are_stills(tmp_path):
    for dims in ((2, 30, 40), (3, 30, 40, 1)):
        path = half_sequence(tmp_path, "patient0001_4CH_ED.nii.gz", FRAMES[:1], dims=dims)
        assert scan_echo(path).kind == "still"
        assert code_of(path) == "still"


def test_what_is_wrong_is_said(tmp_path):
    def made(**words):
        return half_sequence(tmp_path, "a.nii", **words)

    assert code_of(made(dims=(4, 30, 40, 2, 5))) == "unsupported_pixels"
    assert code_of(made(code=1792)) == "unsupported_pixels"
    assert code_of(made(magic=b"ni1\0")) == "unsupported_format"
    assert code_of(made(dims=(3, 30, 40, 6))) == "truncated"
    assert code_of(made(dims=(3, 32767, 32767, 32767))) == "too_large"
    assert scan_echo(made(dims=(3, 3000, 4000, 50))).num_frames == 50
    assert code_of(made(dims=(3, 30, -40, 5))) == "damaged_header"
    assert code_of(made(frames=np.full((5, 40, 30), np.nan, "f4"), code=16)) == "undecodable"
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"no volume at all" * 100))
    assert code_of(tmp_path / "b.nii.gz") == "unsupported_format"
    whole = half_sequence(tmp_path).read_bytes()
    (tmp_path / "c.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert code_of(tmp_path / "c.nii.gz") == "truncated"


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_promises(tmp_path):
    import resource

    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(packed(FRAMES) + bytes(150 << 20), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_echo(tmp_path / "a.nii.gz").frames) == 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 << 10


def old_release(folder, *, data_file="patient0001_4CH_sequence.raw", element="MET_UCHAR", dims="30 40 5", packed="False"):
    (folder / "patient0001_4CH_sequence.raw").write_bytes(FRAMES.tobytes())
    path = folder / "patient0001_4CH_sequence.mhd"
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {packed}\n"
        f"ElementSpacing = 0.154 0.154 1.53\nDimSize = {dims}\nElementType = {element}\nElementDataFile = {data_file}\n"
    )
    return path


def test_the_old_release_is_read_too_and_only_beside_its_header(tmp_path):
    path = old_release(tmp_path)
    clip = read_echo(path)
    np.testing.assert_array_equal(clip.frames[..., 2], FRAMES)
    assert clip.cm_per_px == pytest.approx(0.0154)
    assert scan_echo(path).transfer_syntax == "metaimage"
    assert code_of(old_release(tmp_path, dims="30 40 6")) == "truncated"
    assert code_of(old_release(tmp_path, dims="thirty 40 6")) == "damaged_header"
    assert code_of(old_release(tmp_path, data_file="../secret.raw")) == "unsafe_file_name"
    assert code_of(old_release(tmp_path, data_file="/etc/passwd")) == "unsafe_file_name"
    assert code_of(old_release(tmp_path, data_file="none.raw")) == "missing_file"
    assert code_of(old_release(tmp_path, data_file="LOCAL")) == "unsupported_format"
    assert code_of(old_release(tmp_path, element="MET_LONG")) == "unsupported_pixels"
    assert code_of(old_release(tmp_path, packed="True")) == "unsupported_format"


@settings(max_examples=150, deadline=2000)
@given(
    which=st.integers(0, 2),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6),
    early=st.booleans(),
)
def test_damaged_bytes_give_a_clip_or_an_item_error(tmp_path_factory, which, cut, flips, early):
    folder = tmp_path_factory.getbasetemp()
    data = bytearray([packed(FRAMES), gzip.compress(packed(FRAMES)), old_release(folder).read_bytes()][which])
    for position, value in flips:
        data[position % (min(len(data), 360) if early else len(data))] = value
    path = folder / "damaged.nii"
    path.write_bytes(data[: max(1, round(len(data) * min(1.0, cut + 0.5)))])
    for call in (read_echo, scan_echo):
        with contextlib.suppress(ItemError):
            call(path)


def test_only_what_begins_as_one_is_taken_for_a_volume():
    assert nifti.is_volume(packed(FRAMES)[:348])
    assert nifti.is_volume(b"\x1f\x8b\x08")
    assert not nifti.is_volume(b"")
    assert not nifti.is_volume(b"These are notes on the ObjectType of an image.\n" * 8)
