"""Files of weights are read whatever objects they hold, and none of these objects ever comes to life."""

import argparse
import collections
import contextlib
import functools
import io
import json
import operator
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ecgecho import weights
from ecgecho.types import UserError
from ecgecho.weights import MOST_PICKLE_BYTES, fit, read_facts, read_weights, sha256


class Armed:
    """Writes itself into a file as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class Settings(dict):
    """A mapping of another library."""


def state():
    torch.manual_seed(0)
    shared = torch.randn(4, 6)
    return {
        "a.weight": torch.randn(3, 5),
        "a.half": torch.randn(7).half(),
        "a.brain": torch.randn(7).bfloat16(),
        "a.count": torch.arange(4),
        "a.flag": torch.tensor([True, False]),
        "a.turned": torch.randn(3, 5).T,
        "a.part": shared[1:3, ::2],
        "a.twin": shared,
        "a.one": torch.tensor(3.0),
        "a.none": torch.zeros(0, 4),
        "a.parameter": nn.Parameter(torch.randn(2)),
        "a.double": torch.randn(2, dtype=torch.float64),
        "a.small": torch.arange(5, dtype=torch.int8),
    }


def foreign_objects():
    return {
        "args": argparse.Namespace(lr=1e-3, path=Path("x"), nested=argparse.Namespace(model=torch.zeros(2))),
        "cfg": Settings(a=1, b=Settings(c=[1, 2])),
        "best": np.float64(0.5),
        "loss": np.arange(3.0),
        "call": functools.partial(print, "hello"),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "default": collections.defaultdict(list, a=[1]),
        "kind": torch.float32,
        "set": {1, 2},
        "frozen": frozenset({1}),
        "bytes": b"abc",
        "large": 1 << 80,
    }


def assert_equal_states(read, written):
    assert list(read) == list(written)
    for name, value in written.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value.detach()), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", ["", "model", "state_dict", "weights", "module"])
def test_tensors_are_what_was_written_whatever_stands_beside_them(tmp_path, key, protocol):
    content = {**foreign_objects(), key: state()} if key else state()
    torch.save(content, tmp_path / "w.ckpt", pickle_protocol=protocol)
    assert_equal_states(read_weights(tmp_path / "w.ckpt"), state())


def test_plain_files_are_read_as_torch_reads_them(tmp_path):
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.BatchNorm1d(3), nn.Embedding(4, 2))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    assert_equal_states(read_weights(tmp_path / "w.pt"), torch.load(tmp_path / "w.pt", weights_only=True))
    torch.save(model.state_dict(), tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    assert_equal_states(read_weights(tmp_path / "legacy.bin"), model.state_dict())
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert_equal_states({name: read[name] for name in model.state_dict()}, model.state_dict())


def test_tensors_that_share_memory_in_the_file_share_it_again(tmp_path):
    torch.save(state(), tmp_path / "w.pt")
    read = read_weights(tmp_path / "w.pt")
    assert read["a.part"].untyped_storage().data_ptr() == read["a.twin"].untyped_storage().data_ptr()


def test_wrappers_nest_and_the_name_of_a_parallel_model_is_taken_off(tmp_path):
    torch.save({"model": {"state_dict": {"module.a": torch.ones(2), "module.b": torch.zeros(1)}, "epoch": 3}}, tmp_path / "w.pt")
    assert list(read_weights(tmp_path / "w.pt")) == ["a", "b"]
    torch.save({"module.a": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "w.pt")
    assert list(read_weights(tmp_path / "w.pt")) == ["module.a", "b"]


def test_facts_are_the_plain_values_beside_the_weights(tmp_path):
    offsets = {"ecg": 4, "eeg": 16}
    torch.save({"model": state(), "epoch": 99, **foreign_objects(), "domain_offsets": offsets, "ok": True}, tmp_path / "w.pth")
    facts = read_facts(tmp_path / "w.pth")
    assert facts == {"epoch": 99, "ok": True, "best": 0.5, "domain_offsets": offsets}
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"domain_offsets": json.dumps(offsets), "made": "by hand"})
    assert read_facts(tmp_path / "w.safetensors") == {"domain_offsets": offsets, "made": "by hand"}


@pytest.mark.parametrize("protocol", [2, 4])
def test_numbers_of_numpy_are_numbers(tmp_path, protocol):
    numbers = {"epoch": np.int64(99), "loss": np.float32(0.5), "done": np.True_, "offsets": {"ecg": np.int32(-4)}}
    torch.save({"model": state(), **numbers, "name": np.str_("x")}, tmp_path / "w.pt", pickle_protocol=protocol)
    assert read_facts(tmp_path / "w.pt") == {"epoch": 99, "loss": 0.5, "done": True, "offsets": {"ecg": -4}}


def attacks(file):
    """Objects whose loading makes `file`, each by another way."""
    write = f"open({str(file)!r}, 'w').close()"
    return {
        "system": Armed(os.system, (f"touch {file}",)),
        "eval": Armed(eval, (write,)),
        "exec": Armed(exec, (write,)),
        "getattr": Armed(operator.methodcaller("touch"), (file,)),
        "nested": [{"deep": (Armed(eval, (write,)),)}],
        "state": Armed(argparse.Namespace, (), {"x": Armed(eval, (write,))}),
        "partial": Armed(Armed, (Armed(eval, (write,)),)),
        "items": Armed(collections.OrderedDict, (), None, None, iter([("a", Armed(eval, (write,)))])),
        "appended": Armed(list, (), None, iter([Armed(eval, (write,))])),
        "rebuild": Armed(torch._utils._rebuild_tensor_v2, (Armed(eval, (write,)), 0, (1,), (1,), False, {})),
        "type": Armed(torch._tensor._rebuild_from_type_v2, (eval, torch.Tensor, (write,), {})),
    }


@pytest.mark.parametrize("way", list(attacks("x")))
def test_no_object_of_a_file_is_ever_executed(tmp_path, way):
    mark = tmp_path / "made"
    torch.save({"model": state(), "other": attacks(mark)[way]}, tmp_path / "w.pt")
    assert_equal_states(read_weights(tmp_path / "w.pt"), state())
    read_facts(tmp_path / "w.pt")
    assert not mark.exists()


@pytest.mark.parametrize("way", list(attacks("x")))
def test_the_files_of_that_test_are_armed(tmp_path, way):
    torch.save({"other": attacks(tmp_path / "made")[way]}, tmp_path / "w.pt")
    with contextlib.suppress(Exception):  # what was run made no tensor
        torch.load(tmp_path / "w.pt", weights_only=False)
    assert (tmp_path / "made").exists()


def test_a_name_looked_up_through_getattr_is_not_looked_up(tmp_path):
    # getattr(__import__("os"), "mkdir")(path), which an allow-list of getattr would let through
    mark = tmp_path / "made"
    program = (
        b"\x80\x02}(X\x05\x00\x00\x00modelcbuiltins\ngetattr\n(cbuiltins\n__import__\n(X\x02\x00\x00\x00ostRX\x05\x00\x00\x00mkdirtR("
        + b"X"
        + struct.pack("<I", len(str(mark)))
        + str(mark).encode()
        + b"tRu."
    )
    archive_of(tmp_path / "w.pt", program)
    with pytest.raises(UserError, match="no tensors by name"):
        read_weights(tmp_path / "w.pt")
    assert not mark.exists()
    pickle.loads(program)
    assert mark.exists()


def test_a_file_before_archives_that_holds_code_is_refused_with_advice(tmp_path):
    torch.save({"model": state(), "args": argparse.Namespace()}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"no archive of torch.save.*safetensors"):
        read_weights(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(pickle.dumps(attacks(tmp_path / "made")["system"]))
    with warnings.catch_warnings(record=True) as told, pytest.raises(UserError, match=r"would be run.*safetensors"):
        read_weights(tmp_path / "w.pt")
    assert not told
    assert not (tmp_path / "made").exists()


def archive_of(path, program, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w/data.pkl", program)
        for key, data in storages:
            archive.writestr(f"w/data/{key}", data)


def tensor_program(size, stride, offset=0, kind="FloatStorage", key="0"):
    class Stored:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Reference(), offset, size, stride, False, {})

    class Reference:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", getattr(torch, kind), key, "cpu", 1) if isinstance(value, Reference) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"x": Stored()})
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((1 << 40, 1 << 40), (0, 0), 0), ((2, 2), (3, 1), 0), ((-1,), (1,), 0), ((2,), (1, 1), 0)],
)
def test_a_tensor_larger_than_its_bytes_is_refused(tmp_path, size, stride, offset):
    archive_of(tmp_path / "w.pt", tensor_program((4,), (1,)), [("0", bytes(16))])
    assert read_weights(tmp_path / "w.pt")["x"].tolist() == [0.0] * 4
    archive_of(tmp_path / "w.pt", tensor_program(size, stride, offset), [("0", bytes(16))])
    with pytest.raises(UserError, match="damaged"):
        read_weights(tmp_path / "w.pt")


def test_archives_that_torch_never_writes_are_refused(tmp_path):
    path, program = tmp_path / "w.pt", tensor_program((4,), (1,))
    archive_of(path, program, [("0", bytes(1 << 20))], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_weights(path)
    archive_of(path, program)
    with pytest.raises(UserError, match="damaged at x"):
        read_weights(path)
    archive_of(path, tensor_program((4,), (1,), kind="QInt8Storage"), [("0", bytes(16))])
    with pytest.raises(UserError, match="QInt8Storage, which is not read"):
        read_weights(path)
    archive_of(path, tensor_program((4,), (1,), key="../data.pkl"), [("0", bytes(16))])
    with pytest.raises(UserError, match="damaged at x"):
        read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(UserError, match="none of torch.save"):
        read_weights(path)
    archive_of(path, b"\x80\x02" + b"N0" * (MOST_PICKLE_BYTES // 2) + b"N.")
    with pytest.raises(UserError, match="at most"):
        read_weights(path)


def test_an_archive_whose_members_overlap_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    archive_of(path, tensor_program((4,), (1,)), [(str(n), bytes(4000)) for n in range(3)])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = data.index(b"PK\x01\x02")
        for info in archive.infolist():
            if info.filename.startswith("w/data/"):  # each says that it reaches to the end of the file
                struct.pack_into("<II", data, at + 20, *[len(data) - info.header_offset] * 2)
            at += 46 + len(info.filename)
    path.write_bytes(data)
    with pytest.raises(UserError, match="overlap"):
        read_weights(path)


def test_a_pickle_that_holds_itself_or_one_dict_a_million_times_ends(tmp_path):
    loop = {"epoch": 1}
    loop["model"] = loop["again"] = loop
    torch.save(loop, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no tensors by name"):
        read_weights(tmp_path / "w.pt")
    assert read_facts(tmp_path / "w.pt")["epoch"] == 1
    wide = {f"k{n}": n for n in range(3000)}
    archive_of(tmp_path / "w.pt", pickle.dumps({f"d{n}": wide for n in range(3000)}))
    assert len(read_facts(tmp_path / "w.pt")) == 3000
    # Tuples nested too deep to be hashed are no keys; a memo at 4 billion takes no memory.
    archive_of(tmp_path / "w.pt", b"\x80\x02})" + b"\x85" * 200_000 + b"r\xff\xff\xff\xffNsX\x01\x00\x00\x00aK\x01s.")
    assert read_facts(tmp_path / "w.pt") == {"a": 1}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


LONG_TEXT = text(b"a" * 20_000) + b"q\x00"
MANY = b"](" + b"N" * 20_000 + b"eq\x00"
PAIRS = b"](" + b"".join(text(b"%d" % n) + b"N\x86" for n in range(60)) + b"eq\x00"
COPIERS = {
    "names": (LONG_TEXT, b"h\x00h\x00\x93"),
    "sizes": (MANY + b"h\x00\x85q\x01ctorch\nSize\nq\x02", b"h\x02h\x01R"),
    "shapes": (
        MANY + b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x01tQ"
        b"q\x01(h\x01K\x00h\x00h\x00\x89}tq\x02ctorch._utils\n_rebuild_tensor_v2\nq\x03",
        b"h\x03h\x02R",
    ),
    "short sizes": (b"](" + b"N" * 60 + b"eq\x00\x85q\x01ctorch\nSize\nq\x02", b"h\x02h\x01R"),
    "pairs": (PAIRS + b"h\x00\x85q\x01ccollections\nOrderedDict\nq\x02", b"h\x02h\x01R"),
    "bytes": (LONG_TEXT + text(b"latin1") + b"\x86q\x01c_codecs\nencode\nq\x02", b"h\x02h\x01R"),
    "kinds": (LONG_TEXT + b"\x85q\x01cnumpy\ndtype\nq\x02", b"h\x02h\x01R"),
    "short names": (text(b"a" * 400) + b"q\x00", b"h\x00h\x00\x93"),
    "dicts": (b"", b"}"),
    "lists": (b"", b"]"),
    "marks": (b"", b"("),
    "filled dicts": (b"", b"}K\x01Ns"),
    "memo": (b"N", b"\x94"),
    "classes": (b"", b"ca\nb\n"),
    "whole numbers": (b"", b"M\xff\xff"),
}  # fmt: skip


@pytest.mark.parametrize("way", list(COPIERS))
def test_what_few_bytes_make_of_large_values_is_counted_before_it_fills_the_memory(tmp_path, monkeypatch, way):
    """Each word makes something, the first of them by copying what stands there once."""
    monkeypatch.setattr(weights, "MOST_MADE_BYTES", 1 << 20)
    begin, again = COPIERS[way]
    archive_of(tmp_path / "w.pt", b"\x80\x02" + begin + b"".join([again] * (1 << 15)) + b".")
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"makes more than 1,048,576 bytes|letters|dimensions"):
            read_weights(tmp_path / "w.pt")
        assert tracemalloc.get_traced_memory()[1] < 3 << 20  # the pickle itself, and its copy, are in it
    finally:
        tracemalloc.stop()


def test_the_budget_is_enough_for_10_to_the_5_tensors_and_their_number_is_bounded(tmp_path, monkeypatch):
    tensors = {f"blocks.{n}.attn.mha.in_proj_weight": torch.zeros(3, 4) for n in range(500)}
    moments = {n: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3, 4)} for n in range(250)}
    torch.save({"model": tensors, "optimizer": moments}, tmp_path / "w.pt")
    monkeypatch.setattr(weights, "MOST_MADE_BYTES", weights.MOST_MADE_BYTES // 100)
    assert len(read_weights(tmp_path / "w.pt")) == 500
    monkeypatch.setattr(weights, "MOST_TENSORS", 499)
    with pytest.raises(UserError, match="500 tensors; at most 499"):
        read_weights(tmp_path / "w.pt")


def test_what_holds_no_tensors_says_what_it_holds(tmp_path):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="keys model; save the state_dict"):
        read_weights(tmp_path / "w.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"one object of torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "w.pt")
    torch.save({"state_dict": {"epoch": 1}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"under \[state_dict\], but a mapping with the keys epoch"):
        read_weights(tmp_path / "w.pt")
    for suffix in (".pt", ".safetensors"):
        with pytest.raises(UserError, match="no file of weights"):
            read_weights(tmp_path / f"absent{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(UserError, match="is a folder; give the file"):
            read_weights(tmp_path / f"folder{suffix}")
        (tmp_path / f"rubbish{suffix}").write_bytes(b"no weights at all")
        with pytest.raises(UserError, match=r"looks like text\)|no .safetensors file"):
            read_weights(tmp_path / f"rubbish{suffix}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Gewichte für später".encode()[:11], "text"),
        (b"  <!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"", "an empty file"),
        (b"\x1f\x8b\x08\0\0\xff", "another format"),
    ],
)
def test_what_is_no_file_of_weights_is_to_be_got_again_and_not_loaded(content, told, tmp_path):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"holds no weights \(it looks like .*{told}.*\); download it again\.$") as refused:
        read_weights(tmp_path / "w.pt")
    assert "Python" not in str(refused.value)


WHOLE = io.BytesIO()
torch.save({"model": state(), **foreign_objects()}, WHOLE)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_of_a_damaged_file_nothing_but_a_message_comes(tmp_path_factory, data):
    original = WHOLE.getvalue()
    with zipfile.ZipFile(WHOLE) as archive:
        program = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    start = original.index(program)
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(start, start + len(program) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(damaged[start : start + len(program)])
    path = tmp_path_factory.mktemp("damaged") / "w.pt"
    with zipfile.ZipFile(WHOLE) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, changed if name.endswith("data.pkl") else source.read(name))
    for read in (read_weights, read_facts):
        try:
            assert all(isinstance(name, str) for name in read(path))
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017  most damages are no errors


def test_a_file_cut_short_is_called_damaged(tmp_path):
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "w.pt").write_bytes(WHOLE.getvalue()[: int(share * len(WHOLE.getvalue()))])
        with pytest.raises(UserError, match="w.pt is damaged"):
            read_weights(tmp_path / "w.pt")


def test_a_bit_that_fell_over_in_the_numbers_is_seen(tmp_path):
    torch.save({"a": torch.arange(100.0)}, tmp_path / "w.pt")
    data = bytearray((tmp_path / "w.pt").read_bytes())
    data[data.index(torch.arange(100.0).numpy().tobytes()) + 7] ^= 1
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(UserError, match="damaged at a"):
        read_weights(tmp_path / "w.pt")


def test_fit_names_what_does_not_fit_and_then_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {key: torch.ones_like(value) for key, value in before.items()}

    def refused(words, **change):
        wrong = {**given, **{key.replace("_", ".", 1): value for key, value in change.items()}}
        with pytest.raises(UserError, match=words) as info:
            fit(model, {key: value for key, value in wrong.items() if value is not None}, "the/file")
        assert "the/file does not fit Sequential" in str(info.value) or "finite" in words
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    refused("missing 0.weight; unexpected nothing", **{"0_weight": None})
    refused("missing nothing; unexpected 7.weight", **{"7_weight": torch.ones(1)})
    refused(r"other shapes: 0.weight is \(2, 3\), not \(3, 2\)", **{"0_weight": torch.ones(2, 3)})
    refused("other kinds: 0.weight is int64", **{"0_weight": torch.ones(3, 2, dtype=torch.int64)})
    refused("no finite numbers in 0.weight", **{"0_weight": torch.full((3, 2), torch.nan)})
    fit(model, given, "the/file")
    assert all(torch.equal(value, given[key]) for key, value in model.state_dict().items())


def test_fit_leaves_alone_what_it_is_told_to():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    kept = model[1].weight.clone()
    given = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3), "head.a.b": torch.ones(1)}
    with pytest.raises(UserError, match=r"missing 1.weight, 1.bias; unexpected head.a.b"):
        fit(model, given, "f", ignore=["head", "1"])
    fit(model, given, "f", ignore=["head.", "1.weight", "1.bias"])
    assert torch.equal(model[0].weight, given["0.weight"])
    assert torch.equal(model[1].weight, kept)


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
