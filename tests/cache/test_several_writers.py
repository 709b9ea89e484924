"""Several processes on one store, and a cluster: the rows are those of a job that ran alone, whoever is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from command_line import must
from jobs import commits, echo_job, start

import embed_cache


@pytest.fixture(scope="module")
def calm(listed, teachers, tmp_path_factory) -> str:
    """Content hash of the undisturbed job."""
    out = tmp_path_factory.mktemp("calm") / "e.zarr"
    echo_job(listed, out, teacher=teachers / "slow.py", part_rows=1)
    return embed_cache.open(out).content_hash()


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def members(parent: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(parent).children():
        with_words = process.cmdline()
        if "ecgecho.cluster" in with_words:
            found.append(process)
    return found


def test_a_killed_member_costs_nothing_but_time(listed, teachers, calm, tmp_path):
    out = tmp_path / "e.zarr"
    words = ("cache-echo", listed, "--teacher", teachers / "slow.py", "--part-rows", 1, "--processes", 2, "--out", out)
    job = start(*words)
    wait_for(lambda: commits(out) >= 2)
    members(job.pid)[0].send_signal(signal.SIGKILL)
    told = job.communicate(timeout=120)
    assert job.returncode == 0, told
    assert "ended by signal 9; the others go on" in told[1]
    assert embed_cache.open(out).content_hash() == calm


def test_a_killed_parent_takes_its_members_along_and_the_job_can_go_on(listed, teachers, calm, tmp_path):
    out = tmp_path / "e.zarr"
    words = ("cache-echo", listed, "--teacher", teachers / "slow.py", "--part-rows", 1, "--out", out)
    job = start(*words, "--processes", 2)
    wait_for(lambda: commits(out) >= 2)
    left = members(job.pid)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    wait_for(lambda: not any(member.is_running() and member.status() != "zombie" for member in left), 30)
    must(*words, "--workers", 1)
    assert embed_cache.open(out).content_hash() == calm


def test_the_same_command_twice_at_once_is_one_job(listed, teachers, calm, tmp_path):
    out = tmp_path / "e.zarr"
    words = ("cache-echo", listed, "--teacher", teachers / "slow.py", "--part-rows", 1, "--workers", 1, "--out", out)
    jobs = [start(*words), start(*words)]
    told = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert embed_cache.open(out).content_hash() == calm
    assert embed_cache.verify(out).ok


@pytest.mark.timeout(240)
def test_a_node_of_a_cluster_is_lost_in_mid_job(listed, teachers, calm, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed; it comes with ecgecho[ray]")
    from ray.cluster_utils import Cluster

    from ecgecho import cache, catalog, cluster, plugins
    from ecgecho.cache import EchoOptions

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    out = tmp_path / "e.zarr"
    teacher = str(teachers / "slow.py")
    config = plugins.load("teachers", teacher).Config()
    options = EchoOptions(workers=1, device="cpu", part_rows=1)
    read = catalog.read(listed)
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    nodes = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    told = []
    try:
        lost = nodes.add_node(**small)
        seen = []

        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done >= 2 and lost in nodes.list_all_nodes():
                nodes.remove_node(lost, allow_graceful=False)

        work = cluster.Work.of(read, teacher, config, out, options)
        job = cache.echo_job(read, teacher, config, out, options=options, progress=progress)
        report = job.run(cluster.by_ray(work, nodes.address, say=told.append))
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert lost not in nodes.list_all_nodes()
    assert report.exit_status == 0
    assert max(seen) == 12
    assert embed_cache.open(out).content_hash() == calm
    assert Path(out / "head.json").is_file()


def test_a_cluster_without_ray_says_what_to_install(listed, tmp_path, monkeypatch):
    import sys

    from command_line import ecgecho

    monkeypatch.setitem(sys.modules, "ray", None)
    done = ecgecho("cache-echo", listed, "--ray", "auto", "--out", tmp_path / "e.zarr")
    assert done.returncode == 1
    assert "ecgecho[ray]" in done.stderr
