"""Files of weights -> {name: tensor}, without running anything that a file says.

`.safetensors` holds nothing but numbers. A `.pt`, `.pth`, `.ckpt` or `.bin` of `torch.save` is a zip archive: a pickle that
describes the tensors, and their bytes. Such a pickle is a program; published files also hold the objects of other libraries
(an `argparse.Namespace`, a configuration of OmegaConf, whole optimisers). Here the program is not given to
pickle or torch but read word by word: it can make lists, dicts, numbers, texts and descriptions of tensors. Whatever else it
names becomes a `Foreign` object, which has a name and forgets what it is given; nothing is imported, looked up or called.
Only the tensors that are asked for are then read from the archive, so that an optimiser costs neither time nor memory.

Files in torch's format before 1.6 (no archive) are left to torch.load(weights_only=True) and refused where that refuses.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgecho.types import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "weights", "module")
"""Keys under which training programs keep the weights, beside an optimiser, an epoch and settings."""
PARALLEL = "module."
"""In front of every name where a model was saved out of DataParallel."""
MOST_PICKLE_BYTES = 1 << 24  # names and shapes of 10^5 tensors are 8 MB; published encoders and their optimisers need 0.3 MB
MOST_MADE_BYTES = 1 << 28
"""What the words of a pickle may make: a few bytes can copy what was made before. 10^5 tensors with an optimiser need 0.2 GB."""
MOST_NAME = 1000  # letters in the name of a class or function
TOLD_BY = 512  # first bytes, which tell what is no file of weights
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
MOST_DIMS = 64  # torch's own limit
MOST_TENSORS = 1 << 18
SAFE = "Where you trust its origin, load it in Python and save its state_dict with safetensors.torch.save_file; pass that file."


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name, on the CPU: of the mapping under "state_dict", "model" or alike, or of the file itself.

    Mappings within it and values that are no tensors are left out; "module." before every name is taken off. Tensors that
    share memory in the file share it here. Raises UserError for what cannot be read as weights.
    """
    content = _read(path)
    found, keys = content, ""
    while isinstance(found, dict):  # bounded: a wrapper is taken off once
        inner = next((key for key in WRAPPERS if f"[{key}]" not in keys and isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found, keys = found[inner], f"{keys}[{inner}]"
    described = {key: value for key, value in found.items() if _is_tensor(value)} if isinstance(found, dict) else {}
    tensors: dict[str, Tensor] = {str(key): value for key, value in _materialise(path, described).items()}
    if not tensors:
        whole = _foreign_at(found)
        raise UserError(
            f"{path} holds no tensors by name{f' under {keys}' if keys else ''}, but {whole}; save the state_dict of the model, "
            "not the model or a part of its training."
        )
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): value for name, value in tensors.items()}
    return tensors


def read_facts(path: Path) -> dict[str, Any]:
    """The plain values beside the weights: numbers, texts and dicts of them, e.g. {"epoch": 99, "domain_offsets": {"ecg": 4}}.

    What is neither, and what lies deeper, is left out. Of `.safetensors` these are the file's metadata, read as JSON where
    they are JSON.
    """
    if path.suffix == ".safetensors":
        return {key: _parse(value) for key, value in _safetensors(path)[1].items()}
    content = _read(path)
    if not isinstance(content, dict):
        return {}
    # By identity: a pickle of a few bytes can hold one dict a million times.
    different = {id(value): value for value in content.values() if isinstance(value, dict)}
    inner = {key: _plain(value) for key, value in different.items()}
    dicts = {str(key): inner[id(value)] for key, value in content.items() if inner.get(id(value))}
    return _plain(content) | dicts


def fit(module: nn.Module, state: Mapping[str, Tensor], where: str, *, ignore: Sequence[str] = ()) -> None:
    """Load `state` into `module`, all of it or not at all; UserError naming what is missing, unexpected or of another shape.

    `ignore` names entries, or with a dot at the end beginnings of names, that either side may have without the other.
    `where` is the file, for the message. A module with `adapted(state) -> state` brings published tensors to its own shapes.
    """
    adapted = getattr(module, "adapted", None)
    state = adapted(state) if adapted else state
    expected = module.state_dict()
    missing = [key for key in expected if key not in state and not _listed(key, ignore)]
    unexpected = [key for key in state if key not in expected and not _listed(key, ignore)]
    both = [key for key in expected if key in state]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in both
        if state[key].shape != expected[key].shape
    ]
    kinds = [
        f"{key} is {str(state[key].dtype).removeprefix('torch.')}"
        for key in both
        if state[key].is_floating_point() != expected[key].is_floating_point()
    ]
    if missing or unexpected or shapes or kinds:
        raise UserError(
            f"{where} does not fit {type(module).__name__}: missing {few(missing)}; unexpected {few(unexpected)}; "
            f"other shapes: {few(shapes)}; other kinds: {few(kinds)}. Give the file of this very model and size."
        )
    infinite = [key for key in both if state[key].is_floating_point() and not bool(state[key].isfinite().all())]
    if infinite:
        raise UserError(
            f"{where} holds values that are no finite numbers in {few(infinite)}; its training diverged, or it is damaged. "
            "Get it again, or take an earlier checkpoint."
        )
    module.load_state_dict({key: state[key] for key in both}, strict=False)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def few(names: Sequence[str]) -> str:
    """At most five of `names` and how many more there are, for a message; "nothing" where there are none."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more


# What reading rubbish raises: too few words on the stack, a dict where a tuple belongs, numbers cut off, a zip of other kinds.
_RUBBISH = (
    *(ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, struct.error),
    *(zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError),
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """What stands where a file names a class or a function: its name, and nothing that was done with it."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of numbers in the archive; `dtype` is the name of one, or "" where its tensors say."""

    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class _Described:
    """A tensor that is not read yet."""

    storage: _Storage
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Damaged(ValueError):
    """A pickle that means nothing."""


def _read(path: Path) -> Any:
    """What the file holds: dicts, lists, plain values, `Foreign`, and tensors (`_Described` where out of an archive)."""
    _check_file(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)[0]
    with path.open("rb") as file:
        begin = file.read(TOLD_BY)
    if not begin.startswith(b"PK\x03\x04"):
        return _read_legacy(path, begin)
    try:  # a file cut short has no end of an archive
        with zipfile.ZipFile(path) as archive:
            infos = _checked(archive, path)
            name = _pickle_name(infos, path)
            return _Reader(archive.read(name)).run()
    except UserError:
        raise
    except _RUBBISH as error:
        raise UserError(f"{path} is damaged or no file of weights ({_reason(error)}); get it again.") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file of weights in it ({', '.join(SUFFIXES)}).")
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}; give the path of a file ({', '.join(SUFFIXES)}).")


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    import safetensors

    _check_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 no mapping
    except (safetensors.SafetensorError, *_RUBBISH) as error:
        raise UserError(f"{path} is damaged or no .safetensors file ({_reason(error)}); get it again.") from error


def _read_legacy(path: Path, begin: bytes) -> Any:
    if not begin.startswith(b"\x80"):  # of every pickle since protocol 2, and of torch's first format
        raise UserError(f"{path} holds no weights (it looks like {_kind_of(begin)}); download it again.")
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of the pickle's protocol, with a path of its own
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of rubbish torch's reader raises nearly anything
        raise UserError(
            f"{path} is no archive of torch.save (torch 1.6 or later), and torch finds no plain weights in it "
            f"({type(error).__name__}), so it is not loaded: what else a pickle holds would be run. {SAFE}"
        ) from error


def _kind_of(begin: bytes) -> str:
    """What a file that is no weights may be, for a message that quotes nothing of it."""
    if not begin:
        return "an empty file"
    if begin.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, which `git lfs pull` replaces by the file"
    if begin.lstrip()[:1] == b"<":
        return "a web page"
    is_text = b"\0" not in begin and len(begin.decode("utf-8", "ignore").encode()) > len(begin) - 4  # a letter may be cut
    return "text" if is_text else "another format"


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The members, once it is sure that each can be read once for no more bytes than the file is long.

    What the words of `data.pkl` make of them is another matter, which `_Reader` counts.
    """
    infos = archive.infolist()
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise UserError(f"{path} holds {info.filename!r} compressed, which torch.save never does; get the original file.")
    if len({info.filename for info in infos}) != len(infos):
        raise UserError(f"{path} holds two members of one name, which torch.save never writes; get the original file.")
    length = path.stat().st_size
    if not all(0 <= info.header_offset <= length - info.file_size for info in infos):
        raise UserError(f"{path} is damaged: a member of it lies outside of the file; get it again.")
    if sum(info.file_size for info in infos) > length:
        raise UserError(f"{path} names more bytes than it has: its members overlap; get the original file.")
    return infos


def _pickle_name(infos: Iterable[zipfile.ZipInfo], path: Path) -> str:
    found = [info for info in infos if info.filename.count("/") == 1 and info.filename.endswith("/data.pkl")]
    if len(found) != 1:
        raise UserError(f"{path} is an archive, but none of torch.save: it holds no data.pkl; give a file of weights.")
    if found[0].file_size > MOST_PICKLE_BYTES:
        raise UserError(
            f"{path} describes its content in {found[0].file_size:,} bytes; at most {MOST_PICKLE_BYTES:,} are read. {SAFE}"
        )
    return found[0].filename


def _materialise(path: Path, described: Mapping[Any, Any]) -> dict[Any, Tensor]:
    """The tensors themselves; one storage is read once."""
    if not any(isinstance(value, _Described) for value in described.values()):
        return dict(described)
    if len(described) > MOST_TENSORS:
        raise UserError(f"{path} names {len(described):,} tensors; at most {MOST_TENSORS:,} are read. {SAFE}")
    storages: dict[str, Tensor] = {}
    tensors, place = {}, "its order of bytes"
    try:
        with zipfile.ZipFile(path) as archive:
            root = _pickle_name(_checked(archive, path), path).split("/")[0]
            if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") == b"big":
                raise UserError(f"{path} was written on a big-endian machine; save its state_dict there as safetensors.")
            for place, tensor in described.items():
                tensors[place] = _tensor(tensor, archive, root, storages)
    except UserError:
        raise
    except _RUBBISH as error:
        raise UserError(f"{path} is damaged at {place} ({_reason(error)}); get it again.") from error
    return tensors


def _tensor(tensor: _Described, archive: zipfile.ZipFile, root: str, storages: dict[str, Tensor]) -> Tensor:
    import torch

    key = tensor.storage.key
    if key not in storages:
        data = bytearray(archive.read(f"{root}/data/{key}"))
        storages[key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
    kind = tensor.dtype or tensor.storage.dtype
    if kind not in _dtypes():
        raise _Damaged(f"numbers of the kind {kind}, which is not read")
    dtype = _dtypes()[kind]
    values = storages[key]
    values = values[: len(values) // dtype.itemsize * dtype.itemsize].view(dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    numbers: int = math.prod(tensor.size)
    # A stride of 0 makes a tensor of any size out of one number; what copies it would pay for all of them.
    if numbers > len(values) or (numbers and last >= len(values)):
        raise _Damaged(f"a tensor of {tensor.size} in {len(values)} numbers")
    return values.as_strided(tensor.size, tensor.stride, tensor.offset)


def _dtypes() -> dict[str, Any]:
    """torch's kinds of numbers, by their names and by those of their storages."""
    import torch

    plain = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    storages = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    found = {name: getattr(torch, name) for name in plain}
    return found | {f"{storage}Storage": found[name] for name, storage in zip(plain, storages, strict=True)}


class _Reader:
    """Goes through a pickle's words with a stack, as pickle would, and obeys none of them beyond the making of plain values.

    Each word pays for what it makes and copies, about as many bytes as Python takes for it, out of MOST_MADE_BYTES. Texts and
    numbers that stand in the pickle itself cost nothing: they are as long as it is.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MOST_MADE_BYTES
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value that the pickle ends with."""
        for word, argument, _ in pickletools.genops(self._data):
            name = word.name
            self._pay(_COST.get(name, OBJECT))
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _VALUES:
                self._stack.append(argument)
            elif name == "STOP":
                return self._stack.pop()
            else:
                _WORDS[name](self, argument)  # a KeyError for words of pickle's that torch.save has no use for
        raise _Damaged("the pickle has no end")

    def _pay(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise _Damaged(f"its description makes more than {MOST_MADE_BYTES:,} bytes")

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def _pop_mark(self, _: Any) -> None:
        self._to_mark()

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._to_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, argument: int) -> None:
        self._memo[argument] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, argument: int) -> None:
        self._stack.append(self._memo[argument])

    def _list(self, _: Any) -> None:
        items = self._to_mark()
        self._stack.append(items)

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _appends(self, _: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _tuple(self, _: Any) -> None:
        items = self._to_mark()
        self._stack.append(tuple(items))

    def _tuple_of(self, length: int) -> None:
        if len(self._stack) < length:
            raise _Damaged("a tuple of what is not there")
        items = self._stack[len(self._stack) - length :]
        del self._stack[len(self._stack) - length :]
        self._stack.append(tuple(items))

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _dict(self, _: Any) -> None:
        items = self._to_mark()
        self._stack.append({})
        self._set(items)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            self._pay(OBJECT * (len(items) // 2))
            for key, value in zip(items[::2], items[1::2], strict=True):
                # Others are no names; a tuple nested a million deep would crash Python when hashed.
                if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 31):
                    target[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._foreign(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Damaged("a name that is no text")
        self._stack.append(self._foreign(module, name))

    def _foreign(self, module: str, name: str) -> Foreign:
        _check_name(module, name)
        self._pay(2 * OBJECT + len(module) + len(name))
        return Foreign(f"{module}.{name}")

    def _reduce(self, _: Any) -> None:
        arguments, called = self._stack.pop(), self._stack.pop()
        self._stack.append(_rebuilt(called, arguments, self._pay))

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()
        self._reduce(None)

    def _inst(self, argument: str) -> None:
        self._to_mark()
        self._global(argument)

    def _obj(self, _: Any) -> None:
        called, *_rest = self._to_mark()
        self._stack.append(called if isinstance(called, Foreign) else Foreign("?"))

    def _build(self, _: Any) -> None:
        self._stack.pop()  # an object's state: of a Foreign, nobody's business; of an OrderedDict, versions of modules

    def _persistent(self, _: Any) -> None:
        match self._stack.pop():
            case ("storage", Foreign(name), str(key), str(), int()):
                self._pay(2 * OBJECT + len(name))
                kind = name.rpartition(".")[2]
                self._stack.append(_Storage(key, "" if kind == "UntypedStorage" else kind))
            case _:
                raise _Damaged("a reference to something that is no storage")

    def _nothing(self, _: Any) -> None:
        """PROTO and FRAME say how the pickle was written."""


OBJECT = 64
"""Bytes of a small object, or of an entry of a dict."""
_COST = {
    **dict.fromkeys(("NONE", "NEWTRUE", "NEWFALSE", "BININT1", "DUP", "GET", "BINGET", "LONG_BINGET"), 16),  # a place alone
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), 2 * OBJECT),
}
"""Of the words that cost more or less than an object."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_WORDS: dict[str, Callable[[_Reader, Any], None]] = {
    "PROTO": _Reader._nothing,
    "FRAME": _Reader._nothing,
    "MARK": _Reader._mark,
    "POP_MARK": _Reader._pop_mark,
    "POP": _Reader._pop,
    "DUP": _Reader._dup,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Reader._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Reader._get),
    "MEMOIZE": _Reader._memoize,
    "EMPTY_LIST": _Reader._empty_list,
    "EMPTY_SET": _Reader._empty_list,
    **dict.fromkeys(("LIST", "FROZENSET"), _Reader._list),
    "APPEND": _Reader._append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Reader._appends),
    "EMPTY_TUPLE": lambda reader, _: reader._tuple_of(0),
    "TUPLE1": lambda reader, _: reader._tuple_of(1),
    "TUPLE2": lambda reader, _: reader._tuple_of(2),
    "TUPLE3": lambda reader, _: reader._tuple_of(3),
    "TUPLE": _Reader._tuple,
    "EMPTY_DICT": _Reader._empty_dict,
    "DICT": _Reader._dict,
    "SETITEM": _Reader._setitem,
    "SETITEMS": _Reader._setitems,
    "GLOBAL": _Reader._global,
    "STACK_GLOBAL": _Reader._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Reader._reduce),
    "NEWOBJ_EX": _Reader._newobj_ex,
    "INST": _Reader._inst,
    "OBJ": _Reader._obj,
    "BUILD": _Reader._build,
    "BINPERSID": _Reader._persistent,
}


def _check_name(*parts: str) -> None:
    if sum(len(part) for part in parts) > MOST_NAME:
        raise _Damaged(f"a name of more than {MOST_NAME:,} letters")


def _rebuilt(called: Any, arguments: Any, pay: Callable[[int], None]) -> Any:
    """What a call in the pickle stands for: a tensor's description, a dict, or a `Foreign`. Nothing is called by its name.

    `pay` counts the bytes of what is made.
    """
    if not isinstance(called, Foreign):
        return Foreign("?")
    match called.name, arguments:
        case "torch._utils._rebuild_tensor_v3", (storage, offset, size, stride, _, _, Foreign(dtype), *_):
            return _describe(storage, offset, size, stride, dtype.removeprefix("torch."), pay)
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, *_):
            return _describe(storage, offset, size, stride, "", pay)
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", (_Described() as data, *_):
            return data
        case "torch._tensor._rebuild_from_type_v2", (Foreign(name), _, inner, *_) if name != called.name:
            return _rebuilt(Foreign(name), inner, pay)
        case "torch.Size", ((*_,) as size,):
            pay(OBJECT + 8 * _dims(size))
            return tuple(size)
        case "collections.OrderedDict" | "collections.defaultdict", ():
            return {}
        case "collections.defaultdict", (_,):
            return {}
        case "collections.OrderedDict", ((*_,) as pairs,):  # as Python 2 wrote them
            pay(2 * OBJECT + OBJECT * len(pairs))
            return {key: value for key, value in pairs if isinstance(key, str)}
        case "_codecs.encode", (str(text), "latin1"):  # bytes, as protocols before 3 write them
            pay(OBJECT + len(text))
            return text.encode("latin1")
        case "numpy.dtype", (str(kind), *_):
            _check_name(kind)
            pay(2 * OBJECT + len(kind))
            return Foreign(f"numpy.dtype {kind}")
        case "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar", (Foreign(kind), bytes(data)):
            word = _SCALARS.get(kind.removeprefix("numpy.dtype "))
            return struct.unpack(word, data)[0] if word else called
    return called


_SCALARS = {"i8": "<q", "i4": "<i", "i2": "<h", "u1": "<B", "f8": "<d", "f4": "<f", "f2": "<e", "b1": "<?"}
"""numpy's kinds of numbers, which training programs keep by accident, and how their bytes are read."""


def _dims(size: Any) -> int:
    if len(size) > MOST_DIMS:
        raise _Damaged(f"a tensor of {len(size)} dimensions")
    return len(size)


def _describe(storage: Any, offset: Any, size: Any, stride: Any, dtype: str, pay: Callable[[int], None]) -> Any:
    if not isinstance(storage, _Storage):
        return Foreign("a tensor without numbers")
    pay(3 * OBJECT + len(dtype) + 8 * (_dims(size) + _dims(stride)))
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise _Damaged(f"a tensor of shape {size}")
    return _Described(storage, dtype, offset, tuple(size), tuple(stride))


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, _Described | torch.Tensor)


def _plain(value: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): item
        for key, item in value.items()
        if isinstance(item, bool | str | float) or (isinstance(item, int) and abs(item) < 1 << 63)
    }


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _foreign_at(found: Any) -> str:
    if isinstance(found, Foreign):
        return f"one object of {found.name}"
    if isinstance(found, dict):
        return f"a mapping with the keys {few([str(key)[:40] for key in found])}"
    return f"a {type(found).__name__}"


def _reason(error: Exception) -> str:
    """The kind of an error and the beginning of its words, which may quote the file."""
    words = " ".join(str(error).split())[:80]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _listed(key: str, ignore: Sequence[str]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in ignore)
