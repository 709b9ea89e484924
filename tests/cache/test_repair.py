"""A damaged part is computed again from its sources, and no other; then the store is what it was."""

from pathlib import Path

from command_line import ecgecho, must
from jobs import echo_job

import embed_cache


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_damaged_parts_alone_are_computed_again(listed, tmp_path):
    out = tmp_path / "e.zarr"
    echo_job(listed, out, part_rows=2)
    before = embed_cache.open(out).content_hash()
    chunks = sorted(path for path in out.rglob("moments/c*") if path.is_file())
    flip(chunks[1])
    chunks[4].unlink()
    assert not embed_cache.verify(out).ok
    done = ecgecho("cache-echo", listed, "--out", out, "--workers", 1, "--repair")
    assert done.returncode == 0, done.stderr
    assert "computed again: 2 damaged parts, 4 rows" in done.stderr
    assert embed_cache.verify(out).ok
    assert embed_cache.open(out).content_hash() == before


def test_a_sound_store_is_left_as_it_is(listed, tmp_path):
    out = tmp_path / "e.zarr"
    echo_job(listed, out)
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert "is done" in must("cache-echo", listed, "--out", out, "--workers", 1, "--repair")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == made


def test_damage_that_a_job_meets_names_the_way_out(listed, tmp_path):
    out = tmp_path / "e.zarr"
    echo_job(listed, out)
    flip(next(path for path in out.rglob("moments/c*") if path.is_file()))
    done = ecgecho("cache-echo", listed, "--out", out, "--workers", 1)
    assert done.returncode == 1
    assert "--repair" in done.stderr
