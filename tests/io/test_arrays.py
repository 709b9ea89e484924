"""Plain arrays: .npy, .csv, HDF5 and MATLAB, in the layouts that datasets ship, and in layouts that are refused."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgecho.io import arrays, mat, read_ecg
from ecgecho.io.scan import MEMORY_BYTES
from ecgecho.io.workers import Done, run_bounded
from ecgecho.types import STANDARD_LEADS, EcgRecord, EcgSource, ItemError

SAID = {"fs_hz": 500.0, "unit": "mv", "leads": STANDARD_LEADS}
ECHONEXT = {"fs_hz": 250.0, "unit": "zscore", "leads": STANDARD_LEADS}
CODE15 = {"fs_hz": 400.0, "unit": "mv", "leads": STANDARD_LEADS}


def series(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def code_of(path, source=None) -> str:
    with pytest.raises(ItemError) as caught:
        read_ecg(path, source)
    return caught.value.code


def save(folder: Path, array: np.ndarray, name: str = "a.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


# .npy


@pytest.mark.parametrize(
    ("shape", "of"), [((300, 12), 0), ((12, 300), 0), ((4, 1, 300, 12), 3), ((4, 300, 12), 2), ((4, 12, 300), 1)]
)
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "<i2", ">i2", ">f8"])
def test_every_layout_gives_the_same_leads(tmp_path, shape, of, dtype):
    values = (100 * series(*shape)).astype(dtype)
    one = values if values.ndim == 2 else values[of].reshape(values.shape[-2:])
    source = EcgSource(row=of if values.ndim > 2 else None, **SAID)
    made = read_ecg(save(tmp_path, values), source)
    np.testing.assert_array_equal(made.signal, (one.T if one.shape[1] == 12 else one).astype(np.float32))
    assert (made.leads, made.fs_hz, made.unit) == (STANDARD_LEADS, 500.0, "mv")


def test_an_array_of_echonext_is_z_scores(tmp_path):
    """EchoNext_train_waveforms.npy: (N, 1, 2500, 12) float64."""
    values = np.random.default_rng(0).normal(size=(3, 1, 2500, 12))
    made = read_ecg(save(tmp_path, values, "EchoNext_val_waveforms.npy"), EcgSource(row=2, **ECHONEXT))
    assert (made.unit, made.fs_hz) == ("zscore", 250.0)
    np.testing.assert_array_equal(made.signal, values[2, 0].T.astype(np.float32))


def test_microvolts_become_millivolts(tmp_path):
    values = series(300, 12) * 1000
    made = read_ecg(save(tmp_path, values), EcgSource(fs_hz=500.0, unit="uv", leads=STANDARD_LEADS))
    np.testing.assert_allclose(made.signal, values.T / 1000, rtol=1e-6)
    assert made.unit == "mv"


def test_one_row_of_a_file_larger_than_the_memory_of_a_worker_is_read(tmp_path):
    """EchoNext's train split, 17 GB; on the disk it is empty but for its last row. The bound is that of a scan, the lower one."""
    rows, path = 72_475, tmp_path / "EchoNext_train_waveforms.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (rows, 1, 2500, 12)})
        last = np.random.default_rng(0).normal(size=(2500, 12))
        file.seek(file.tell() + (rows - 1) * last.nbytes)
        file.write(last.tobytes())
    made = bounded(path, EcgSource(row=rows - 1, **ECHONEXT))
    np.testing.assert_array_equal(made.signal, last.T.astype(np.float32))


def test_an_excerpt_of_a_recording_larger_than_the_memory_of_a_worker_is_read(tmp_path):
    """2 GB of three leads, along either axis and in either order."""
    length = 1 << 26
    for k, (shape, fortran) in enumerate([((length, 3), False), ((3, length), False), ((length, 3), True), ((3, length), True)]):
        path = tmp_path / f"{k}.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": fortran, "shape": shape})
            file.truncate(file.tell() + 3 * length * 8)
        made = np.lib.format.open_memmap(path, mode="r+")
        lines = made if shape[0] == length else made.T
        lines[1_000_000:1_000_500] = series(500, 3)
        lines.flush()
        del made, lines
        source = EcgSource(start_s=2000.0, duration_s=1.0, fs_hz=500.0, unit="mv", leads=("X", "Y", "Z"))
        np.testing.assert_array_equal(bounded(path, source).signal, series(500, 3).T)


def bounded(path: Path, source: EcgSource) -> EcgRecord:
    """A recording as a worker reads it."""
    read = functools.partial(read_ecg, path)
    ((_, result),) = run_bounded(read, [source], workers=1, timeout_s=60, memory_bytes=MEMORY_BYTES)
    assert isinstance(result, Done), result
    return result.value


@pytest.mark.parametrize(
    ("shape", "row", "code"),
    [
        ((12, 12), None, "shape_ambiguous"),
        ((4, 12, 12), 0, "shape_ambiguous"),
        ((300, 11), None, "shape_unknown"),
        ((300,), None, "shape_unknown"),
        ((4, 2, 300, 12), 0, "shape_unknown"),
        ((0, 12), None, "shape_unknown"),
        ((4, 300, 12), None, "row_unknown"),
        ((4, 300, 12), 4, "row_outside"),
        ((300, 12), 0, "row_outside"),
    ],
)
def test_a_shape_that_says_no_recording_is_refused(tmp_path, shape, row, code):
    assert code_of(save(tmp_path, np.zeros(shape)), EcgSource(row=row, **SAID)) == code


@pytest.mark.parametrize("silent", ["fs_hz", "unit", "leads"])
def test_what_nobody_says_is_never_assumed(tmp_path, silent):
    code = {"fs_hz": "rate_unknown", "unit": "unit_unknown", "leads": "leads_unknown"}[silent]
    path = save(tmp_path, series(300, 12))
    said = {key: value for key, value in SAID.items() if key != silent}
    assert code_of(path, EcgSource(**said)) == code
    (tmp_path / "a.json").write_text(json.dumps({silent: SAID[silent]}))
    assert read_ecg(path, EcgSource(**said)).signal.shape == (12, 300)


@pytest.mark.parametrize(
    "leads", [list(STANDARD_LEADS), "I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6", [n.upper() for n in STANDARD_LEADS]]
)
def test_a_file_beside_it_says_all_that_is_needed(tmp_path, leads):
    values = series(300, 12)
    path = save(tmp_path, values)
    (tmp_path / "a.json").write_text(json.dumps({"fs_hz": 257, "unit": "mV", "leads": leads}))
    made = read_ecg(path)
    np.testing.assert_array_equal(made.signal, values.T)
    assert (made.fs_hz, made.leads) == (257.0, STANDARD_LEADS)
    assert code_of(path, EcgSource(fs_hz=500.0)) == "sidecar_disagrees"
    assert read_ecg(path, EcgSource(fs_hz=257.0)).fs_hz == 257.0


@pytest.mark.parametrize(
    "words",
    [
        "",
        "[]",
        "{",
        '{"fs_hz": "500"}',
        '{"fs_hz": true}',
        '{"fs_hz": -1}',
        '{"unit": "V"}',
        '{"leads": [1]}',
        '{"fs_hz": NaN}',
        "[" * 9999,
    ],
)
def test_a_damaged_file_beside_it_is_refused(tmp_path, words):
    path = save(tmp_path, series(300, 12))
    (tmp_path / "a.json").write_text(words)
    assert code_of(path, EcgSource(**SAID)) in ("damaged_sidecar", "empty")


def test_a_lead_named_twice_is_refused(tmp_path):
    path = save(tmp_path, series(300, 2))
    assert code_of(path, EcgSource(fs_hz=500.0, unit="mv", leads=("II", "ii"))) == "lead_named_twice"


def test_python_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert code_of(tmp_path / "a.npy", EcgSource(**SAID)) == "holds_code"
    np.save(tmp_path / "b.npy", np.zeros((300, 12), "c16"))
    assert code_of(tmp_path / "b.npy", EcgSource(**SAID)) == "unsupported_format"


def test_a_file_of_another_length_than_its_header_says_is_refused(tmp_path):
    path = save(tmp_path, series(300, 12))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert code_of(path, EcgSource(**SAID)) == "truncated"
    path.write_bytes(whole + b"1234")
    assert code_of(path, EcgSource(**SAID)) == "truncated"


def test_recordings_in_fortran_order_are_refused_and_one_alone_is_read(tmp_path):
    values = series(300, 12)
    np.testing.assert_array_equal(read_ecg(save(tmp_path, np.asfortranarray(values)), EcgSource(**SAID)).signal, values.T)
    many = save(tmp_path, np.asfortranarray(series(4, 300, 12)), "b.npy")
    assert code_of(many, EcgSource(row=0, **SAID)) == "unsupported_format"


def test_a_value_that_is_not_finite_makes_its_lead_invalid(tmp_path):
    values = series(300, 12)
    values[5, 2], values[6, 3] = np.nan, np.inf
    made = read_ecg(save(tmp_path, values), EcgSource(**SAID))
    assert [name for name, ok in zip(made.leads, made.lead_valid, strict=True) if not ok] == ["III", "aVR"]
    assert np.isnan(made.signal).sum() == 2


@settings(max_examples=40, deadline=None)
@given(start_s=st.floats(0, 1), duration_s=st.floats(0.01, 1), shape=st.sampled_from([(300, 12), (12, 300), (3, 300, 12)]))
def test_an_excerpt_of_an_array_is_a_slice_of_the_whole(tmp_path_factory, start_s, duration_s, shape):
    path = save(tmp_path_factory.mktemp("x"), series(*shape))
    row = 1 if len(shape) == 3 else None
    whole = read_ecg(path, EcgSource(row=row, **SAID)).signal
    source = EcgSource(row=row, start_s=start_s, duration_s=duration_s, **SAID)
    first, last = round(start_s * 500), round((start_s + duration_s) * 500)
    if first >= 300 or last <= first:
        assert code_of(path, source) == "excerpt_outside"
    else:
        np.testing.assert_array_equal(read_ecg(path, source).signal, whole[:, first:last])


@settings(max_examples=250, deadline=2000)
@given(
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=8),
    kind=st.sampled_from(["npy", "csv", "csv.gz", "h5", "mat4", "mat5"]),
)
def test_damaged_files_give_a_record_or_an_item_error(damaged, cut, flips, kind):
    path = damaged / f"a.{kind[:3] if kind.startswith('mat') else kind}"
    data = bytearray((damaged / f"{kind}.sound").read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    path.write_bytes(data[: max(1, round(len(data) * min(1.0, cut + 0.3)))])
    with contextlib.suppress(ItemError):
        read_ecg(path, EcgSource(**SAID))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Small sound files of every kind, to be damaged."""
    folder, values = tmp_path_factory.mktemp("damaged"), series(30, 12)
    np.save(folder / "a.npy", values)
    table = "\n".join([",".join(STANDARD_LEADS), *(",".join(map(str, line)) for line in values)])
    (folder / "a.csv").write_text(table)
    (folder / "a.csv.gz").write_bytes(gzip.compress(table.encode()))
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("tracings", data=values[None], compression="gzip")
    for number in (4, 5):
        scipy.io.savemat(folder / "a.mat", {"val": values.T}, format=str(number), do_compression=number == 5)
        (folder / "a.mat").rename(folder / f"mat{number}.sound")
    for kind in ("npy", "csv", "csv.gz", "h5"):
        (folder / f"a.{kind}").rename(folder / f"{kind}.sound")
    return folder


# .csv


def table(values: np.ndarray, names, separator=",", decimal=".", time=None, eol="\n") -> str:
    head = [*([time[0]] if time else []), *names]
    lines = [separator.join(head)]
    for k, line in enumerate(values):
        words = [*([time[1](k)] if time else []), *(repr(float(v)).replace(".", decimal) for v in line)]
        lines.append(separator.join(words))
    return eol.join(lines) + eol


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ","), (";", "."), ("\t", ","), ("\t", ".")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_table_of_leads_is_exact_in_every_spelling(tmp_path, separator, decimal, eol, encoding):
    values = series(50, 12)
    words = table(
        values, [f"{n.upper()} (\u00b5V)" if encoding == "latin-1" else n for n in STANDARD_LEADS], separator, decimal, eol=eol
    )
    path = tmp_path / "a.csv"
    path.write_bytes(words.encode(encoding))
    made = read_ecg(path, EcgSource(fs_hz=500.0, unit="uv"))
    assert made.leads == STANDARD_LEADS
    np.testing.assert_array_equal(made.signal, values.T * np.float32(1e-3))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(words.encode(encoding)))
    np.testing.assert_array_equal(read_ecg(tmp_path / "b.csv.gz", EcgSource(fs_hz=500.0, unit="uv")).signal, made.signal)


def test_columns_are_leads_by_their_names_and_nothing_else_is_kept(tmp_path):
    values = series(50, 4)
    (tmp_path / "a.csv").write_text(table(values, ["V1", "patient", "aVL", "Lead I"], time=("time", str)))
    made = read_ecg(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv"))
    assert (made.leads, made.defects) == (("V1", "aVL", "I"), ("columns_ignored",))
    np.testing.assert_array_equal(made.signal, values.T[[0, 2, 3]])
    assert code_of(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv", leads=("V1", "V2"))) == "leads_unknown"


@pytest.mark.parametrize(("title", "step"), [("time_s", 0.002), ("Time (ms)", 2), ("t [s]", 0.002), ("seconds", 0.002)])
def test_a_time_column_must_agree_with_the_rate(tmp_path, title, step):
    (tmp_path / "a.csv").write_text(table(series(50, 2), ["I", "II"], time=(title, lambda k: f"{k * step:.6g}")))
    assert read_ecg(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv")).defects == ()
    assert code_of(tmp_path / "a.csv", EcgSource(fs_hz=250.0, unit="mv")) == "rate_disagrees"


def test_columns_without_names_need_names_from_elsewhere(tmp_path):
    values = series(50, 12)
    (tmp_path / "a.csv").write_text(table(values, STANDARD_LEADS).partition("\n")[2])
    assert code_of(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv")) == "leads_unknown"
    np.testing.assert_array_equal(read_ecg(tmp_path / "a.csv", EcgSource(**SAID)).signal, values.T)
    assert code_of(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv", leads=("I", "II"))) == "leads_unknown"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("spelt", ["{}", "{}.0", '"{}"'])
def test_a_line_that_numbers_the_columns_is_no_sample(tmp_path, first, spelt):
    """`pandas.DataFrame(signal).to_csv(path, index=False)` writes "0,1,...,11"."""
    values = series(50, 12)
    (tmp_path / "a.csv").write_text(table(values, [spelt.format(first + k) for k in range(12)]))
    made = read_ecg(tmp_path / "a.csv", EcgSource(**SAID))
    np.testing.assert_array_equal(made.signal, values.T)
    assert made.defects == ("header_of_numbers",)


@pytest.mark.parametrize("line", ["0,0", "0,2", "1,0", "2,3", "0.5,1.5"])
def test_a_first_line_that_numbers_no_columns_is_a_sample(tmp_path, line):
    (tmp_path / "a.csv").write_text(f"{line}\n3,4\n")
    made = read_ecg(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv", leads=("I", "II")))
    assert (made.signal.shape, made.defects) == ((2, 2), ())
    (tmp_path / "b.csv").write_text("0\n3\n")
    assert read_ecg(tmp_path / "b.csv", EcgSource(fs_hz=500.0, unit="mv", leads=("I",))).signal.tolist() == [[0, 3]]


def test_an_empty_cell_makes_its_lead_invalid(tmp_path):
    (tmp_path / "a.csv").write_text("I,II,V1\n1,2,3\n1,,3\n1,nan,3\n")
    made = read_ecg(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv"))
    assert made.lead_valid.tolist() == [True, False, True]
    np.testing.assert_array_equal(made.signal[1], [2, np.nan, np.nan])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("I,II\n1,2\n3\n", "undecodable"),
        ("I,II\n1,Mustermann\n", "undecodable"),
        ("I;II\n1.5;2,5\n", "undecodable"),
        ("I;II\n1.234,5;2,5\n", "undecodable"),
        ("I,II\n", "empty"),
        ("I,i\n1,2\n", "lead_named_twice"),
        ("a,b\n1,2\n", "leads_unknown"),
        ("PK\x03\x04", "leads_unknown"),
    ],
)
def test_what_is_no_table_of_leads_is_refused_without_its_words(tmp_path, words, code):
    (tmp_path / "a.csv").write_text(words)
    with pytest.raises(ItemError) as caught:
        read_ecg(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv"))
    assert caught.value.code == code
    assert "Mustermann" not in str(caught.value)


def test_a_table_that_the_memory_does_not_hold_is_not_called_damaged(tmp_path, monkeypatch):
    def full(*_, **__):
        raise pa.ArrowMemoryError("malloc of size 123 failed")

    (tmp_path / "a.csv").write_text("I,II\n1,2\n")
    monkeypatch.setattr("pyarrow.csv.read_csv", full)
    with pytest.raises(MemoryError):
        read_ecg(tmp_path / "a.csv", EcgSource(fs_hz=500.0, unit="mv"))


def test_a_packed_table_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_CSV_BYTES", 1 << 16)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"I,II\n" + b"1,2\n" * (1 << 16)))
    assert code_of(tmp_path / "a.csv.gz", EcgSource(fs_hz=500.0, unit="mv")) == "too_large"


# HDF5


def code15(folder: Path, num: int = 4, **options) -> tuple[Path, np.ndarray]:
    """exams_part0.hdf5: exam_id (N,) and tracings (N, 4096, 12) float32, zeros before and after; the last row is all zeros."""
    tracings = np.zeros((num, 4096, 12), np.float32)
    for k in range(num - 1):
        tracings[k, 48 + k : 4096 - 500] = series(4096 - 548 - k, 12, seed=k)
    with h5py.File(folder / "exams_part0.hdf5", "w") as file:
        file.create_dataset("exam_id", data=np.arange(1, num + 1))
        file.create_dataset("tracings", data=tracings, **options)
    return folder / "exams_part0.hdf5", tracings


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (1, 4096, 12)}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}]
)
def test_a_row_of_code_15_is_exact_without_its_padding(tmp_path, options):
    path, tracings = code15(tmp_path, **options)
    made = read_ecg(path, EcgSource(row=2, **CODE15))
    np.testing.assert_array_equal(made.signal, tracings[2, 50:3596].T)
    assert (made.fs_hz, made.leads, made.defects) == (400.0, STANDARD_LEADS, ("zero_padding_trimmed",))
    part = read_ecg(path, EcgSource(row=2, start_s=1.0, duration_s=2.0, **CODE15))
    np.testing.assert_array_equal(part.signal, made.signal[:, 400:1200])


def test_the_row_of_zeros_of_code_15_is_refused(tmp_path):
    path, _ = code15(tmp_path)
    assert code_of(path, EcgSource(row=3, **CODE15)) == "only_padding"
    assert code_of(path, EcgSource(row=4, **CODE15)) == "row_outside"
    assert code_of(path, EcgSource(**CODE15)) == "row_unknown"


def test_an_array_of_another_name_is_named_beside_the_file(tmp_path):
    values = series(12, 300)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/ecg"] = values
        file["y"] = values
        file["z"] = values
    assert code_of(tmp_path / "a.h5", EcgSource(**SAID)) == "several_arrays"
    (tmp_path / "a.json").write_text(json.dumps({"dataset": "x/ecg"}))
    np.testing.assert_array_equal(read_ecg(tmp_path / "a.h5", EcgSource(**SAID)).signal, values)
    (tmp_path / "a.json").write_text(json.dumps({"dataset": "x/none"}))
    assert code_of(tmp_path / "a.h5", EcgSource(**SAID)) == "no_such_array"
    (tmp_path / "a.json").write_text(json.dumps({"dataset": "x"}))
    assert code_of(tmp_path / "a.h5", EcgSource(**SAID)) == "no_such_array"


def test_links_out_of_a_file_are_never_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["tracings"] = series(300, 12)
    for name, link in (("soft", h5py.SoftLink("/hidden/x")), ("external", h5py.ExternalLink("secret.h5", "tracings"))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["hidden/x"] = series(300, 12)
            file["tracings"] = link
        assert code_of(tmp_path / f"{name}.h5", EcgSource(**SAID)) == "outside_link"
    (tmp_path / "raw").write_bytes(series(300, 12).tobytes())
    with h5py.File(tmp_path / "stored.h5", "w") as file:
        file.create_dataset("tracings", (300, 12), "f4", external=[(str(tmp_path / "raw"), 0, 300 * 12 * 4)])
    assert code_of(tmp_path / "stored.h5", EcgSource(**SAID)) == "outside_link"
    layout = h5py.VirtualLayout((300, 12), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "tracings", (300, 12))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("tracings", layout)
    assert code_of(tmp_path / "virtual.h5", EcgSource(**SAID)) == "outside_link"


def test_a_filter_that_would_be_loaded_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((100, 12))
        plist.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL)  # blosc, which HDF5 looks for in its folder of plug-ins
        space = h5py.h5s.create_simple((300, 12))
        h5py.h5d.create(file.id, b"tracings", h5py.h5t.NATIVE_FLOAT, space, plist)
    assert code_of(tmp_path / "a.h5", EcgSource(**SAID)) == "unsupported_format"


def test_a_chunk_that_unpacks_to_too_much_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("tracings", (1 << 20, 300, 12), "f4", chunks=(1 << 16, 300, 12), compression="gzip")
    assert code_of(tmp_path / "a.h5", EcgSource(row=0, **SAID)) == "too_large"


def test_of_a_chunk_that_is_not_packed_only_the_row_is_read(tmp_path):
    """2 GB, twice the memory of the worker; empty on the disk but for one row."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((10_000, 4096, 12))
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((40_000, 4096, 12))
        h5py.h5d.create(file.id, b"tracings", h5py.h5t.IEEE_F32LE, space, plist)
        file["tracings"][5] = series(4096, 12)
    np.testing.assert_array_equal(bounded(tmp_path / "a.h5", EcgSource(row=5, **CODE15)).signal, series(4096, 12).T)


# MATLAB


def test_a_struct_of_cpsc2018_is_exact_and_its_other_fields_stay_unread(tmp_path):
    """A0001.mat of the original challenge: struct ECG with sex, age and data (12, L) in mV."""
    values = np.random.default_rng(0).normal(size=(12, 7500))
    for compressed in (True, False):
        scipy.io.savemat(tmp_path / "A0001.mat", {"ECG": {"sex": "Male", "age": 74, "data": values}}, do_compression=compressed)
        assert code_of(tmp_path / "A0001.mat") == "leads_unknown"
        made = read_ecg(tmp_path / "A0001.mat", EcgSource(**SAID))
        np.testing.assert_array_equal(made.signal, values.astype(np.float32))
        assert "Male" not in repr(made)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "i4", "u2", "u1"])
@pytest.mark.parametrize("form", ["4", "5"])
def test_a_matrix_val_is_read_in_the_unit_that_is_said(tmp_path, dtype, form):
    values = (50 + 10 * series(12, 400)).astype(dtype)
    scipy.io.savemat(tmp_path / "a.mat", {"other": np.ones((3, 3)), "val": values}, format=form)
    made = read_ecg(tmp_path / "a.mat", EcgSource(**SAID))
    np.testing.assert_array_equal(made.signal, values.astype(np.float32))
    part = read_ecg(tmp_path / "a.mat", EcgSource(start_s=0.1, duration_s=0.2, **SAID))
    np.testing.assert_array_equal(part.signal, made.signal[:, 50:150])


def test_a_big_endian_matrix_of_level_4_is_read(tmp_path):
    values = series(12, 40).astype(">f8")
    (tmp_path / "a.mat").write_bytes(struct.pack(">5i", 1000, 12, 40, 0, 4) + b"val\0" + values.tobytes(order="F"))
    np.testing.assert_array_equal(read_ecg(tmp_path / "a.mat", EcgSource(**SAID)).signal, values.astype(np.float32))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"x": np.ones((12, 40))}, "no_such_array"),
        ({"ECG": {"sex": "Male"}}, "no_such_array"),
        ({"val": "text"}, "no_such_array"),
        ({"val": np.ones((12, 40), complex)}, "no_such_array"),
        ({"val": np.array([[1, "a"]], object)}, "no_such_array"),
        ({"val": np.ones((12, 12))}, "shape_ambiguous"),
        ({"val": np.ones((11, 40))}, "shape_unknown"),
    ],
)
def test_a_matlab_file_without_an_ecg_is_refused(tmp_path, content, code):
    scipy.io.savemat(tmp_path / "a.mat", content)
    assert code_of(tmp_path / "a.mat", EcgSource(**SAID)) == code


def test_what_a_compressed_element_unpacks_to_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(mat, "MAX_UNPACKED", 1 << 16)
    scipy.io.savemat(tmp_path / "a.mat", {"val": np.zeros((12, 100_000))}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 1 << 16
    assert code_of(tmp_path / "a.mat", EcgSource(**SAID)) == "too_large"


def test_a_matrix_that_says_more_than_it_holds_is_refused(tmp_path):
    (tmp_path / "a.mat").write_bytes(struct.pack("<5i", 0, 12, 1 << 30, 0, 4) + b"val\0" + bytes(1000))
    assert code_of(tmp_path / "a.mat", EcgSource(**SAID)) == "truncated"
    inner = struct.pack("<IIIIII", 6, 8, 6, 0, 5, 8) + struct.pack("<ii", 12, 1 << 30) + struct.pack("<HH4s", 1, 3, b"val\0")
    inner += struct.pack("<II", 9, 1 << 31) + bytes(64)
    packed = zlib.compress(struct.pack("<II", 14, len(inner)) + inner)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    (tmp_path / "a.mat").write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    assert code_of(tmp_path / "a.mat", EcgSource(**SAID)) == "truncated"


def test_an_excerpt_of_a_large_matrix_is_read_and_a_large_file_of_level_5_is_refused(tmp_path):
    length, path = 1 << 26, tmp_path / "a.mat"
    with path.open("wb") as file:
        file.write(struct.pack("<5i", 0, 3, length, 0, 4) + b"val\0")
        at = file.tell()
        file.truncate(at + 3 * length * 8)
        file.seek(at + 1_000_000 * 3 * 8)
        file.write(series(500, 3).astype("<f8").tobytes())
    source = EcgSource(start_s=2000.0, duration_s=1.0, fs_hz=500.0, unit="mv", leads=("X", "Y", "Z"))
    np.testing.assert_array_equal(bounded(path, source).signal, series(500, 3).T)
    with path.open("wb") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM"))
        file.truncate(1 << 31)
    assert code_of(path, source) == "too_large"


def test_a_matlab_7_3_file_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(ItemError, match="-v7"):
        read_ecg(tmp_path / "a.mat", EcgSource(**SAID))
