"""Stores as what training reads: ECGs in millivolts, moments of cines, and what must hold for stores to be read together.

Shape letters: N rows of all stores, M rows asked for, C leads, L samples, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import embed_cache
from ecgecho.config import digest, to_json
from ecgecho.data.place import AnyPlace, Table
from ecgecho.data.sampler import BlockOrder
from ecgecho.types import F32, I64, EcgContract, Json, UserError

CHUNK_ROWS = 1024
VIEW_ROWS = 1 << 16


class SignalTable:
    """ECGs as int16 (N, C, L) with a scale (N, C) in mV and which leads hold a recording (N, C)."""

    def __init__(
        self,
        stores: Sequence[embed_cache.EmbeddingStore],
        paths: Sequence[str],
        contract: EcgContract,
        device: torch.device,
        place: AnyPlace = "auto",
        blocks: BlockOrder = BlockOrder(),
    ) -> None:
        for store, path in zip(stores, paths, strict=True):
            check_contract(store, path, contract)
        self.contract = contract
        self.rows = rows_of(stores, paths)
        self.signal = Table(stores, "signal", device, place, blocks)
        self.scale = Table(stores, "scale", device)
        self.lead_valid = Table(stores, "lead_valid", device)

    def take(self, rows: I64) -> tuple[Tensor, Tensor]:
        """(M,) -> mV (M, C, L) fp32, lead_valid (M, C) bool, on the device."""
        scale, lead_valid = self.scale.gather(rows).float(), self.lead_valid.gather(rows).bool()
        return self.signal.gather(rows).float() * scale[:, :, None], lead_valid

    def statistics(self, rows: I64) -> tuple[F32, F32]:
        """Per lead over the valid leads of `rows`: mean (C,) and standard deviation (C,), in mV, summed in fp64.

        0 and 1 where the contract has a chain: its values are standardised already, and the zeros after a recording stay zeros.
        """
        (leads,) = self.scale.shape
        if self.contract.chain:
            return np.zeros(leads, np.float32), np.ones(leads, np.float32)
        count, total, square = np.zeros(leads), np.zeros(leads), np.zeros(leads)
        for start in range(0, len(rows), CHUNK_ROWS):
            part = rows[start : start + CHUNK_ROWS]
            signal = self.signal.gather_host(part).numpy().astype(np.float64)
            valid = self.lead_valid.gather_host(part).numpy().astype(bool)
            scale = np.where(valid, self.scale.gather_host(part).numpy(), 0).astype(np.float64)
            count += valid.sum(0) * signal.shape[2]
            total += (signal.sum(2) * scale).sum(0)
            square += (np.square(signal).sum(2) * np.square(scale)).sum(0)
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(square / np.maximum(count, 1) - np.square(mean), 0))
        std[count == 0] = 1.0  # a lead that no ECG of the split has
        return mean.astype(np.float32), std.astype(np.float32)


class Normaliser:
    """(x - mean) / std per lead, zero where a lead holds nothing; fitted on the training split and kept in the run."""

    def __init__(self, mean: F32, std: F32, device: torch.device) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float32, device=device)
        self.std = torch.as_tensor(std, dtype=torch.float32, device=device).clamp_min(
            1e-8
        )  # EchoingECG src/datasets/helpers.py:73

    def __call__(self, signal_mv: Tensor, lead_valid: Tensor) -> Tensor:
        """(B, C, L), (B, C) -> (B, C, L)."""
        scaled = (signal_mv - self.mean[:, None]) / self.std[:, None]
        return torch.where(lead_valid[:, :, None], scaled, torch.zeros((), device=scaled.device))


class EchoTable:
    """Teacher moments of cines, fp16 (N, 2, D), slot 0 the mean and slot 1 the standard deviation over a clip's frames."""

    def __init__(
        self,
        stores: Sequence[embed_cache.EmbeddingStore],
        paths: Sequence[str],
        device: torch.device,
        place: AnyPlace = "auto",
    ) -> None:
        self.teacher = _one_teacher(stores, paths)
        self.rows = rows_of(stores, paths)
        self.moments = Table(stores, "moments", device, place)
        self.num_vectors = np.concatenate([_num_vectors(store, self.teacher.get("teacher")) for store in stores])
        """(N,) that the moments of a row are of."""
        self.dim = int(self.moments.shape[1])
        spec = self.teacher.get("teacher")
        self.view_names: tuple[str, ...] = tuple(spec.get("view_names", ())) if isinstance(spec, Mapping) else ()
        """Views that the teacher tells apart."""
        self._stores = tuple(stores)

    @cached_property
    def view(self) -> I64:
        """(N,) the most probable of `view_names` of each cine, -1 where the teacher said nothing."""
        if not self.view_names or any("view" not in store.columns for store in self._stores):
            return np.full(len(self.moments), -1, np.int64)
        column = Table(self._stores, "view", torch.device("cpu"), "mapped" if not self.moments.chunks.remote else "pinned")
        if column.shape != (len(self.view_names),):
            raise UserError(
                f"the column 'view' of the echo stores has {column.shape} values a cine for {len(self.view_names)} views; "
                "make the stores again."
            )
        result = np.empty(len(column), np.int64)
        for start in range(0, len(column), VIEW_ROWS):
            share = column.gather_host(np.arange(start, min(start + VIEW_ROWS, len(column)))).numpy()
            result[start : start + len(share)] = np.where((share > 0).any(1), share.argmax(1), -1)
        return result

    def view_of_row(self, row: int) -> str:
        """The name of the most probable view of a cine, empty where there is none."""
        number = int(self.view[row]) if self.view_names else -1
        return self.view_names[number] if number >= 0 else ""

    def merged(self, groups: Sequence[I64]) -> F32:
        """Moments over all vectors of all cines of each group of rows: (len(groups), 2, D). Exact, by how many each has."""
        result = np.empty((len(groups), 2, self.dim), np.float32)
        for k, rows in enumerate(groups):
            moments = self.moments.gather_host(rows).double().numpy()  # numpy would be six times slower at this
            result[k] = merge_moments(moments[:, 0], moments[:, 1], self.num_vectors[rows])
        return result


def _num_vectors(store: embed_cache.EmbeddingStore, spec: Json | None) -> I64:
    """(N,) vectors behind each row: one for each frame that the teacher took, or as the store counted its clips."""
    if "num_vectors" in store.index.column_names:
        counted: I64 = store.index.column("num_vectors").to_numpy()
        return counted
    num_frames: I64 = store.index.column("num_frames").to_numpy()
    if not isinstance(spec, Mapping):
        return num_frames
    start, stop, stride = (int(spec.get(f"frame_{name}", default)) for name, default in _TAKEN)
    ended = np.minimum(num_frames, stop) if stop else num_frames
    taken: I64 = np.maximum(-(-(ended - start) // stride), 0)
    return taken


_TAKEN = (("start", 0), ("stop", 0), ("stride", 1))


def merge_moments(mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64], num_vectors: I64) -> npt.NDArray[np.float64]:
    """(M, D), (M, D), (M,) -> (2, D): mean and population standard deviation of the M cines' vectors together."""
    share = (num_vectors / num_vectors.sum())[:, None]
    whole = (share * mean).sum(0)
    var = (share * (np.square(std) + np.square(mean - whole))).sum(0)
    return np.stack([whole, np.sqrt(var)])


def rows_of(stores: Sequence[embed_cache.EmbeddingStore], paths: Sequence[str]) -> dict[str, int]:
    """Id -> row over all stores, of live rows that are ok; an id in two stores is refused."""
    result: dict[str, int] = {}
    offset = 0
    for k, (store, path) in enumerate(zip(stores, paths, strict=True)):
        index = store.index
        ok = np.array(index.column("live").to_numpy(zero_copy_only=False), bool)
        ok &= np.array(index.column("status").to_pylist()) == "ok"
        ids = [i for i, wanted in zip(index.column("id").to_pylist(), ok, strict=True) if wanted]
        twice = next((i for i in ids if i in result), None)
        if twice is not None:
            raise UserError(f"{twice!r} is in {path} and in an earlier one of {', '.join(paths[:k])}; give each recording once.")
        result.update(zip(ids, (np.asarray(store.rows(ids)) + offset).tolist(), strict=True))
        offset += len(store)
    return result


def check_contract(store: embed_cache.EmbeddingStore, path: str, contract: EcgContract) -> None:
    """Refuse a store that an encoder with this contract must not be fed from."""
    if store.manifest.kind != "ecg":
        raise UserError(f"{path} is a store of kind {store.manifest.kind!r}; ECGs are read from one made by `ecgecho cache-ecg`.")
    if store.manifest.identity.get("contract_sha256") == digest(contract):
        return
    made = store.manifest.identity.get("contract")
    wanted = {"unit": "mv", **to_json(contract)}
    found = "it holds the ECGs as recorded"
    if made:
        made = {"unit": "mv", **made}  # to_json leaves out that one
        # Both ways: what one of the two leaves at its default it does not name.
        key = next((k for k in {"name": "", **wanted, **made} if made.get(k) != wanted.get(k)), "digest")
        found = f"its {key} is {_short(made.get(key))}, not {_short(wanted.get(key))}"
    raise UserError(
        f"{path} is not made by the contract {contract.name!r} of this encoder:\n{found}.\n"
        f"Make it with `ecgecho cache-ecg CATALOG --contract {contract.name} --out STORE`."
    )


def _one_teacher(stores: Sequence[embed_cache.EmbeddingStore], paths: Sequence[str]) -> Json:
    """The identity that all echo stores share; another teacher, mask or weights is refused with the field that differs."""
    first: Json = dict(stores[0].manifest.identity)
    for store, path in zip(stores, paths, strict=True):
        if store.manifest.kind != "echo":
            raise UserError(
                f"{path} is a store of kind {store.manifest.kind!r}; studies are read from one made by `ecgecho cache-echo`."
            )
        if differing := first_difference(store.manifest.identity, first):
            field, one, two = differing
            raise UserError(
                f"{path} and {paths[0]} differ in {field}: {one} and {two}; an ECG cannot be taught by two teachers at once."
            )
    return first


def first_difference(one: Mapping[str, Any], two: Mapping[str, Any], *, views: bool = True) -> tuple[str, str, str] | None:
    """The field that tells two identities of echo stores apart, by its dotted name, and its two values, short; None where none.

    Of several it is what a reader knows the teacher by. Without `views` the column `view` counts for nothing: it changes no
    moment.
    """
    first, second = _fields(one), _fields(two)
    names = [n for n in {**first, **second} if first.get(n) != second.get(n) and (views or not _field_of(n).startswith("view"))]
    if not names:
        return None
    name = min(names, key=lambda n: (FIELDS_FIRST.index(n) if n in FIELDS_FIRST else len(FIELDS_FIRST), n))
    return name, _short(first.get(name)), _short(second.get(name))


FIELDS_FIRST = ("teacher", "teacher.name", "teacher.dim")
DIGESTS = ("teacher_sha256",)
"""Of fields that are told one by one."""
SHORT = 40


def _fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as fields by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{key}": item for key, item in value.items()})
        elif name not in DIGESTS:
            flat[name] = value
    return flat


def _field_of(name: str) -> str:
    return name.rpartition(".")[2]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 3]}..."
