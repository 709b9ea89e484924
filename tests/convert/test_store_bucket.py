"""Import, info, diff, verify and erase of a store in a bucket: against a real S3 server on loopback."""

from command_line import ecgecho, must
from vector_files import live_rows, make_folder

from ecgecho import convert


def test_the_commands_take_a_bucket(bucket, tmp_path):
    lab = make_folder(tmp_path / "lab", endings=(".npy",))
    words = ("--teacher-name", "lab-vit", "--part-rows", 4)
    convert.import_embeddings(lab, tmp_path / "s.zarr", teacher_name="lab-vit", part_rows=4)
    said = must("store", "import", lab, "--out", f"{bucket}/deep/s.zarr", *words, cwd=tmp_path)
    assert "ok 12" in said
    assert f"MB, in {bucket}/deep/s.zarr\nnext: ecgecho store info {bucket}/deep/s.zarr\n" in said
    assert {p.name for p in tmp_path.iterdir()} == {"lab", "s.zarr"}  # no report of what is not here
    again = must("store", "import", lab, "--out", f"{bucket}/deep/s.zarr", *words, cwd=tmp_path)
    assert again.startswith(f"{bucket}/deep/s.zarr is done")
    assert "the same content" in must("store", "diff", tmp_path / "s.zarr", f"{bucket}/deep/s.zarr")
    assert "whole" in must("store", "verify", f"{bucket}/deep/s.zarr", cwd=tmp_path)
    assert "lab-vit" in must("store", "info", f"{bucket}/deep/s.zarr")
    repaired = must("store", "repair", f"{bucket}/deep/s.zarr", cwd=tmp_path)
    assert f"next: ecgecho store verify {bucket}/deep/s.zarr" in repaired
    refused = ecgecho("store", "import", lab, "--out", f"{bucket}/deep/s.zarr", *words[2:], "--teacher-name", "other")
    assert f"{bucket}/deep/s.zarr" in refused.stderr
    assert "s3:/lab" not in "".join((said, again, repaired, refused.stderr))
    must("store", "export", f"{bucket}/deep/s.zarr", "--out", tmp_path / "x.h5")
    convert.import_embeddings(tmp_path / "x.h5", tmp_path / "back.zarr")
    assert live_rows(tmp_path / "back.zarr") == live_rows(tmp_path / "s.zarr")
