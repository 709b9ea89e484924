"""The laws of a store hold in a bucket: against a real S3 server on loopback."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import zarr
from store_cases import IDENTITY, begin, finish, heal, items, make, row_of

import embed_cache
from embed_cache import StoreError, Writer, make_plan, objects, place


def test_a_store_in_a_bucket_has_the_content_of_one_in_a_folder(bucket, tmp_path):
    remote, local = make(f"{bucket}/deep/a.zarr"), make(tmp_path / "a.zarr")
    assert remote.content_hash() == local.content_hash()
    assert embed_cache.verify(f"{bucket}/deep/a.zarr").ok
    for name in ("moments", "scale"):
        np.testing.assert_array_equal(remote.array(name), local.array(name))
    for row in range(len(local)):
        np.testing.assert_array_equal(remote.read_ragged("signal", row), local.read_ragged("signal", row))
    assert remote.index.equals(local.index)
    heal(f"{bucket}/deep/a.zarr")
    heal(tmp_path / "a.zarr")
    assert embed_cache.open(f"{bucket}/deep/a.zarr").content_hash() == embed_cache.open(tmp_path / "a.zarr").content_hash()


def test_an_address_that_went_through_a_path_is_understood(bucket):
    from pathlib import Path

    make(f"{bucket}/a.zarr")
    assert embed_cache.is_remote(Path(f"{bucket}/a.zarr"))
    assert len(embed_cache.open(Path(f"{bucket}/a.zarr"))) == 22


def test_a_writer_that_dies_at_any_kind_of_request_is_continued(bucket, monkeypatch, tmp_path):
    class Death(BaseException):
        pass

    two_parts = {"plan": make_plan(*items(8), seed=7, part_rows=4)}
    expected = make(tmp_path / "a.zarr", **two_parts).content_hash()
    asked, dying = [], {"at": -1}

    def watched(put):
        def watching(self, name, *rest):
            asked.append(name)
            if len(asked) - 1 == dying["at"]:
                raise Death
            return put(self, name, *rest)

        return watching

    for name in ("_put", "_put_if"):
        monkeypatch.setattr(objects.ObjectPlace, name, watched(getattr(objects.ObjectPlace, name)))
    monkeypatch.setattr(objects, "is_gone", lambda number: True)
    make(f"{bucket}/whole.zarr", **two_parts)
    # The first, and the last of each: descriptions, plan, columns, records, index, head.
    kinds = {re.sub(r".*/zarr\.json.*|segments/0+/(\w+)/.*", r"\1", name): number for number, name in enumerate(asked)}
    assert {"head.json", "log", "index", "columns"} <= {*kinds}
    for at in sorted({0, *kinds.values()}):
        url = f"{bucket}/s{at}.zarr"
        asked.clear()
        dying["at"] = at
        with pytest.raises(Death):
            finish(begin(url, **two_parts))
        dying["at"] = -1
        finish(begin(url, **two_parts))
        assert embed_cache.open(url).content_hash() == expected, f"died at put {at}"
        assert embed_cache.verify(url).ok


def test_of_two_writers_in_a_bucket_the_first_commit_counts(bucket):
    url = f"{bucket}/a.zarr"
    one, two = begin(url), begin(url)
    for part in one.pending():
        assert one.commit(part, {n: row_of(n) for n, _, compute in one.rows_of(part) if compute}, {"host": "one"})
        assert not two.commit(part, {n: row_of(n) for n, _, compute in two.rows_of(part) if compute}, {"host": "two"})
    assert two.refresh() == []
    two.seal({})
    one.seal({})
    assert embed_cache.verify(url).ok


def test_a_head_is_replaced_only_where_it_is_the_one_that_was_read(bucket):
    here = place.place_of(f"{bucket}/a.zarr")
    assert here.create("head.json", b"one")
    assert not here.create("head.json", b"two")
    assert not here.replace("head.json", b"three", b"zero")
    assert here.replace("head.json", b"three", b"one")
    assert here.read("head.json") == b"three"


def test_erased_rows_are_in_no_object(bucket):
    from test_store_erase import GONE, HASH, secrets

    url = f"{bucket}/a.zarr"
    make(url)
    embed_cache.erase(url, ids=GONE, keyed_hash=HASH)
    here = place.place_of(url)
    data = b"".join(here.read(name) for name in here.walk())
    assert not [secret for secret in secrets() if secret in data]
    assert embed_cache.verify(url).ok


def test_zarr_alone_opens_the_arrays_of_a_bucket(bucket):
    import obstore

    store = make(f"{bucket}/a.zarr")
    root = zarr.storage.ObjectStore(
        obstore.store.from_url(f"{bucket}/a.zarr", client_options={"allow_http": True}), read_only=True
    )
    values = zarr.open_array(root, path="segments/00000/columns/moments", mode="r")[:]
    np.testing.assert_array_equal(values, store.array("moments"))


def test_a_bucket_that_is_not_there_is_said_in_one_line(bucket, monkeypatch):
    with pytest.raises(StoreError, match="check the bucket"):
        embed_cache.open(f"{bucket}-nowhere/a.zarr")
    with pytest.raises(StoreError, match="there is no store"):
        embed_cache.open(f"{bucket}/nothing.zarr")
    monkeypatch.setattr(objects, "RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="check the bucket"):
        embed_cache.open(f"{bucket}/a.zarr")


def test_damage_in_a_bucket_is_found(bucket):
    url = f"{bucket}/a.zarr"
    store = make(url)
    here = place.place_of(url)
    name = next(path for path in store.manifest.files if "/columns/scale/c." in path)
    data = bytearray(here.read(name))
    data[0] ^= 1
    here.write({name: bytes(data)})
    assert [damage.path for damage in embed_cache.verify(url).damages] == [name]
    assert Writer.resume(url, identity=IDENTITY) is None
    head = json.loads(here.read("head.json"))
    assert head["format"] == "embed_cache"
