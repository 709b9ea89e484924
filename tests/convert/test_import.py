"""Embeddings that a lab already has become rows; what cannot be used becomes a failed row with its reason."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from vector_files import DIM, ENDINGS, frames, live_rows, make_folder, save

import embed_cache
from ecgecho import convert, foreign
from ecgecho.data.tables import EchoTable
from ecgecho.io import vectors
from ecgecho.io.vectors import READERS, read_vectors
from ecgecho.io.workers import Done, run_bounded
from ecgecho.types import UsageError, UserError

LAB = {"teacher_name": "lab-vit", "part_rows": 4}


def run(source: Path, out: Path, **options) -> convert.ImportReport:
    return convert.import_embeddings(source, out, **LAB | options)


def rows(out: Path) -> dict[str, tuple[str, str]]:
    return {item: (row["status"], row["reason"]) for item, row in live_rows(out).items()}


def loop_moments(vectors: np.ndarray, norm: str) -> np.ndarray:
    values = [v / np.sqrt(sum(x * x for x in v)) if norm == "l2" else v for v in vectors.astype(np.float64)]
    mean = sum(values) / len(values)
    return np.stack([mean, np.sqrt(sum((v - mean) ** 2 for v in values) / len(values))])


@pytest.mark.parametrize("norm", ["l2", "none"])
def test_frame_vectors_become_moments_whatever_the_format(norm, tmp_path):
    make_folder(tmp_path / "in")
    report = run(tmp_path / "in", tmp_path / "s.zarr", frame_norm=norm)
    assert (report.by_status, report.exit_status) == ({"ok": 12}, 0)
    for item, row in live_rows(tmp_path / "s.zarr").items():
        number = int(item[-2:])
        expected = loop_moments(frames(number, num=3 + number % 4), norm)
        np.testing.assert_allclose(row["moments"], expected, atol=2e-3)
        assert row["pooled"] == row["moments"][0]
        assert (row["num_frames"], row["group"]) == (3 + number % 4, f"study{number // 3}")
    assert embed_cache.verify(tmp_path / "s.zarr").ok


def test_half_and_brain_floats_and_other_orders_are_read(tmp_path):
    values = frames(1)
    save_file({"x": torch.from_numpy(values).bfloat16()}, tmp_path / "a.safetensors")
    torch.save(torch.from_numpy(values).bfloat16(), tmp_path / "b.pt")
    np.save(tmp_path / "c.npy", np.asfortranarray(values.astype(">f8")))
    np.save(tmp_path / "d.npy", values.astype(np.float16))
    torch.save(torch.from_numpy(values), tmp_path / "e.pth", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_allclose(read_vectors(path)[0], values, atol=0.02)


def test_plain_vectors_become_a_pooled_column_alone(tmp_path):
    for k in range(5):
        save(tmp_path / f"in/{k}{ENDINGS[k]}", frames(k)[0])
    run(tmp_path / "in", tmp_path / "s.zarr")
    store = embed_cache.open(tmp_path / "s.zarr")
    assert list(store.columns) == ["pooled"]
    for k in range(5):
        np.testing.assert_allclose(store.read("pooled", store.rows([str(k)]))[0], frames(k)[0], atol=2e-3)


def code_in_a_pickle(path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("executed")),)

    torch.save({"embedding": Evil()}, path)


def objects_in_npy(path: Path) -> None:
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def linked_h5(path: Path) -> None:
    with h5py.File(path.with_suffix(".outside"), "w") as file:
        file["embedding"] = frames()
    with h5py.File(path, "w") as file:
        file["embedding"] = h5py.ExternalLink(path.with_suffix(".outside").name, "/embedding")


def soft_linked_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["embedding"] = h5py.SoftLink("/embedding")


def raw_outside_h5(path: Path) -> None:
    path.with_suffix(".raw").write_bytes(bytes(5 * DIM * 4))
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", (5, DIM), "f4", external=[(path.with_suffix(".raw").name, 0, 5 * DIM * 4)])


def virtual_h5(path: Path) -> None:
    layout = h5py.VirtualLayout((1 << 40, DIM), "f4")
    layout[:5] = h5py.VirtualSource("/etc/hostname", "x", (5, DIM))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("embedding", layout)


def huge_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("embedding", (1 << 36, DIM), "f4", chunks=(1 << 10, DIM), compression="gzip")


def huge_npy(path: Path) -> None:
    np.save(path, frames())
    data = path.read_bytes().replace(b"(5, 6), ", b"(5000000000000, 6), ")
    path.write_bytes(data)


def expanded_pt(path: Path) -> None:
    torch.save({"embedding": torch.zeros(1).expand(1 << 38, DIM)}, path)


def bomb_npz(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("embedding.npy", bytes(5 << 20))


def cut(path: Path) -> None:
    save(path, frames())
    path.write_bytes(path.read_bytes()[:-7])


def header_lies(path: Path) -> None:
    save(path, frames())
    data = bytearray(path.read_bytes())
    data[:8] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(bytes(data))


BAD = {
    "cut_npy.npy": (cut, "truncated"),
    "cut_npz.npz": (cut, "undecodable"),
    "cut_pt.pt": (cut, "undecodable"),
    "cut_h5.h5": (cut, "undecodable"),
    "cut_safetensors.safetensors": (cut, "undecodable"),
    "lies.safetensors": (header_lies, "undecodable"),
    "code.pt": (code_in_a_pickle, "holds_code"),
    "objects.npy": (objects_in_npy, "holds_code"),
    "linked.h5": (linked_h5, "outside_link"),
    "soft.h5": (soft_linked_h5, "outside_link"),
    "raw.h5": (raw_outside_h5, "outside_link"),
    "virtual.h5": (virtual_h5, "outside_link"),
    "claims.h5": (huge_h5, "too_large"),
    "huge.npy": (huge_npy, "truncated"),
    "expanded.pt": (expanded_pt, "too_large"),
    "bomb.npz": (bomb_npz, "too_large"),
    "empty.npy": (lambda path: path.touch(), "empty"),
    "dangling.npy": (lambda path: path.symlink_to("/nonexistent"), "missing_file"),
    "pipe.npy": (os.mkfifo, "not_a_file"),
    "nan.npy": (lambda path: save(path, np.full((4, DIM), np.nan, np.float32)), "not_finite"),
    "inf.pt": (lambda path: save(path, np.full((4, DIM), np.inf, np.float32)), "not_finite"),
    "beyond.npy": (lambda path: save(path, np.full((4, DIM), 1e6, np.float32)), "beyond_fp16"),
    "wide.npy": (lambda path: save(path, frames(dim=DIM + 1)), "shape_differs"),
    "flat.npy": (lambda path: save(path, frames()[0]), "shape_differs"),
    "cube.npy": (lambda path: save(path, frames()[None]), "not_vectors"),
    "none.npy": (lambda path: save(path, frames()[:0]), "not_vectors"),
    "whole.npy": (lambda path: np.save(path, np.zeros((4, DIM), np.int64)), "not_floats"),
    "several.npz": (lambda path: np.savez(path, a=frames(), b=frames()), "several_arrays"),
    "nothing.safetensors": (lambda path: save_file({"x": torch.zeros(3, dtype=torch.int64)}, path), "no_array"),
}  # fmt: skip


def test_a_bad_file_is_a_failed_row_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "MAX_BYTES", 1 << 22)  # a bomb of 1 GB takes 5 s to make
    make_folder(tmp_path / "in")
    (tmp_path / "in/bad").mkdir()
    for name, (make, _) in BAD.items():
        make(tmp_path / "in/bad" / name)
    report = run(tmp_path / "in", tmp_path / "s.zarr")
    found = rows(tmp_path / "s.zarr")
    wanted = {Path(name).stem: code for name, (_, code) in BAD.items()}
    assert {item: reason for item, (status, reason) in found.items() if status == "failed"} == wanted
    assert report.by_status["ok"] == 12
    assert report.exit_status == 3
    assert not (tmp_path / "in/bad/executed").exists()


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, or the end cut, or bytes put in."""
    kind = rng.integers(4)
    if kind == 0:
        return data[: rng.integers(len(data))]
    changed = bytearray(data)
    if kind == 1:
        changed[rng.integers(len(data)) : 0] = rng.bytes(4)
        return bytes(changed)
    region = len(data) if kind == 2 else min(len(data), 256)
    for place in rng.integers(0, region, rng.integers(1, 9)):
        changed[place] = rng.integers(256)
    return bytes(changed)


def read_shape(path: str) -> tuple[int, ...]:
    """Runs in a worker, which a crash of the HDF5 library would end."""
    values, _ = read_vectors(Path(path))
    assert np.isfinite(values).all()
    assert values.ndim in (1, 2)
    return values.shape


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".h5", ".safetensors"])
def test_whatever_bytes_a_file_has_it_is_read_or_refused(ending, tmp_path):
    good = save(tmp_path / f"good{ending}", frames()).read_bytes()
    rng = np.random.default_rng(ENDINGS.index(ending))
    paths = []
    for k in range(60):
        paths.append(str(tmp_path / f"{k}{ending}"))
        Path(paths[-1]).write_bytes(mutated(good, rng))
    workers = 1 if ending == ".h5" else 0
    results = [result for _, result in run_bounded(read_shape, paths, workers=workers, timeout_s=20, memory_bytes=4 << 30)]
    assert len(results) == 60
    for result in results:
        assert isinstance(result, Done) or result.code not in ("unexpected_error",), result
    assert any(not isinstance(result, Done) for result in results)


def stop_at(count: int):
    def progress(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_an_import_that_was_stopped_goes_on_to_the_same_store(tmp_path):
    make_folder(tmp_path / "in", num=24)
    run(tmp_path / "in", tmp_path / "whole.zarr")
    for count in (1, 6, 10):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "in", tmp_path / "s.zarr", progress=stop_at(count))
    report = run(tmp_path / "in", tmp_path / "s.zarr")
    assert report.num_computed == 24 - 4 - 8
    assert embed_cache.open(tmp_path / "s.zarr").content_hash() == embed_cache.open(tmp_path / "whole.zarr").content_hash()


def test_an_import_that_was_killed_goes_on_to_the_same_store(tmp_path):
    make_folder(tmp_path / "in", num=24)
    run(tmp_path / "in", tmp_path / "whole.zarr")
    code = """
        import os, sys
        from pathlib import Path
        from ecgecho import convert
        def progress(done, total):
            if done == 14:
                os.kill(os.getpid(), 9)
        convert.import_embeddings(Path(sys.argv[1]), Path(sys.argv[2]), teacher_name="lab-vit", part_rows=4, progress=progress)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "in", tmp_path / "s.zarr"]
    assert subprocess.run(words, capture_output=True).returncode == -9
    assert run(tmp_path / "in", tmp_path / "s.zarr").num_computed == 24 - 12
    assert embed_cache.open(tmp_path / "s.zarr").content_hash() == embed_cache.open(tmp_path / "whole.zarr").content_hash()


@pytest.mark.parametrize("begun", [1, 5, 24])
def test_an_import_beside_another_makes_the_same_store_and_does_not_repeat_it(begun, tmp_path):
    make_folder(tmp_path / "in", num=24)
    run(tmp_path / "in", tmp_path / "whole.zarr")
    others = []

    def meanwhile(done, total):
        assert done <= total
        if done == begun and not others:
            others.append(run(tmp_path / "in", tmp_path / "s.zarr").num_computed)

    own = run(tmp_path / "in", tmp_path / "s.zarr", progress=meanwhile).num_computed
    whole_parts = (begun - 1) // 4 * 4
    assert others == [24 - whole_parts]
    assert own <= whole_parts + 8  # the part that was begun, and at most the one behind it
    assert embed_cache.open(tmp_path / "s.zarr").content_hash() == embed_cache.open(tmp_path / "whole.zarr").content_hash()


def test_the_same_import_again_adds_what_is_new_and_heals_what_was_mended(tmp_path):
    make_folder(tmp_path / "in")
    good = save(tmp_path / "in/study0/clip90.npy", frames(90)).read_bytes()
    (tmp_path / "in/study0/clip90.npy").write_bytes(good[:-3])
    assert run(tmp_path / "in", tmp_path / "s.zarr").by_status == {"ok": 12, "failed": 1}
    assert run(tmp_path / "in", tmp_path / "s.zarr").already_done
    (tmp_path / "in/study0/clip90.npy").write_bytes(good)
    save(tmp_path / "in/study9/clip91.npy", frames(91))
    report = run(tmp_path / "in", tmp_path / "s.zarr")
    assert (report.by_status, report.num_computed, report.already_done) == ({"ok": 14}, 2, False)
    assert run(tmp_path / "in", tmp_path / "s.zarr").already_done


def test_another_teacher_or_norm_is_refused_and_the_field_named(tmp_path):
    make_folder(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "s.zarr")
    for change, named in (
        ({"teacher_name": "other"}, "other"),
        ({"frame_norm": "l2"}, "l2"),
        ({"weights_sha256": "ab"}, "weights"),
    ):
        with pytest.raises(embed_cache.StaleStore, match=named):
            run(tmp_path / "in", tmp_path / "s.zarr", **change)


def test_an_import_says_so_whatever_teacher_it_names(tmp_path):
    make_folder(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "s.zarr", teacher_name="demo", licence="ours")
    manifest = embed_cache.open(tmp_path / "s.zarr").manifest
    assert manifest.identity["origin"] == "imported"
    assert manifest.identity["teacher"] == {"name": "demo", "dim": DIM, "frame_norm": "none", "licence": "ours"}
    assert str(tmp_path) not in (tmp_path / "s.zarr/head.json").read_text()


def test_ids_and_studies_follow_the_folder_a_separator_or_a_table(tmp_path):
    for name in ("s1_a.npy", "s1_b.npy", "deep/s2/c.npy", "notes.txt"):
        save(tmp_path / "in" / name, frames()) if name.endswith("npy") else (tmp_path / "in" / name).write_text("x")
    listed = foreign.list_items(tmp_path / "in")
    assert [(i.id, i.study) for i in listed] == [("s1_a", "s1_a"), ("s1_b", "s1_b"), ("c", "s2")]
    assert [i.study for i in foreign.list_items(tmp_path / "in", separator="_")] == ["s1", "s1", "s2"]
    table = tmp_path / "t.csv"
    table.write_text("study,id,path,more\nx,one,s1_a.npy,1\nx,two,deep/s2/c.npy,2\ny,three,gone.npy,3\n", encoding="utf-8-sig")
    run(tmp_path / "in", tmp_path / "s.zarr", items=foreign.list_items(tmp_path / "in", table))
    assert rows(tmp_path / "s.zarr") == {"one": ("ok", ""), "two": ("ok", ""), "three": ("failed", "missing_file")}
    for text, named in (
        ("id,path\na,b\n", "study"),
        ("id,study,path\na,b,/etc/passwd\n", "line 2"),
        ("id,study,path\na,b,x/../../y\n", "line 2"),
        ("id,study,path\na,b,c\na,b,d\n", "twice"),
        ("id,study,path\na,,d\n", "line 2"),
    ):
        table.write_text(text)
        with pytest.raises(UserError, match=named):
            foreign.list_items(tmp_path / "in", table)
    save(tmp_path / "in/other/c.pt", frames())
    with pytest.raises(UserError, match="--table"):
        foreign.list_items(tmp_path / "in")


def test_most_of_the_files_decide_and_a_key_chooses(tmp_path):
    for k in range(9):
        np.savez(tmp_path / f"{k}.npz", a=frames(k), b=frames(k, dim=3 if k else 4))
    with pytest.raises(UserError, match="--array"):
        run(tmp_path, tmp_path / "s.zarr")
    run(tmp_path, tmp_path / "s.zarr", key="b")
    assert [i for i, row in rows(tmp_path / "s.zarr").items() if row[0] == "failed"] == ["0"]
    assert embed_cache.open(tmp_path / "s.zarr").columns["pooled"].shape == (3,)


def test_nothing_to_import_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    for source, options, kind in (
        (tmp_path / "in", {}, UserError),
        (tmp_path / "nowhere", {}, UserError),
        (tmp_path / "in", {"teacher_name": ""}, UsageError),
    ):
        with pytest.raises(kind):
            run(source, tmp_path / "s.zarr", **options)
    (tmp_path / "in/a.npy").write_text("junk")
    with pytest.raises(UserError, match="a.npy"):
        run(tmp_path / "in", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_training_reads_imported_moments(tmp_path):
    make_folder(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "s.zarr")
    table = EchoTable([embed_cache.open(tmp_path / "s.zarr")], ["s.zarr"], torch.device("cpu"))
    clips = ["clip03", "clip04", "clip05"]
    merged = table.merged([np.array([table.rows[clip] for clip in clips])])[0]
    together = np.concatenate([frames(int(clip[-2:]), num=3 + int(clip[-2:]) % 4) for clip in clips])
    np.testing.assert_allclose(merged, loop_moments(together, "none"), atol=2e-3)


def test_readers_of_all_endings_are_tested():
    assert set(ENDINGS) == set(READERS)
