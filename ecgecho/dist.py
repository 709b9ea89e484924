"""Several processes of one training run, as torchrun starts them: who this one is, and what all of them have together.

Without a process group every function is the identity, so that the same code runs alone.

The law of `gather`: each rank computes the whole loss over the gathered rows, and the gradients of its parameters are averaged
over ranks (`average_gradients`). The result is the gradient of one process with the whole batch: the backward of `gather` sums
over ranks what each rank's loss says of this rank's rows, R times what one process would say, and the average divides by R;
parameters that are used behind the gather (a temperature) have the same gradient on every rank, and keep it.
R ranks, M rows of this rank, D dimension.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ecgecho.types import Embedding, UsageError

_alone = contextvars.ContextVar("alone", default=False)
WAIT = datetime.timedelta(hours=2)  # rank 0 may validate and write while the others wait


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _on() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _on() else 1


def gather(x: Tensor) -> Tensor:
    """(M, ...) of every rank -> the rows of all, in the order of ranks; M may differ, and be 0. With gradient."""
    if not _on():
        return x
    if x.dtype == torch.bool:  # no sum of these between processes
        return gather(x.to(torch.uint8)).bool()
    result: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return result


def gather_embedding(x: Embedding) -> Embedding:
    """The entries of all ranks, mean and log-variance."""
    return Embedding(mean=gather(x.mean), logvar=None if x.logvar is None else gather(x.logvar))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every gradient becomes its mean over ranks; a parameter without one on some rank counts as 0 there, and one without any
    on all stays without."""
    if not _on():
        return
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    has = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=trained[0].device)
    dist.all_reduce(has)
    used = [p for p, some in zip(trained, has.tolist(), strict=True) if some]
    if not used:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
    dist.all_reduce(flat)
    flat /= world()
    for p, mean in zip(used, torch.split(flat, [p.numel() for p in used]), strict=True):
        p.grad = mean.view_as(p).to(p.dtype)


def any_rank(value: bool) -> bool:
    """Whether it is so on any rank; all ranks get the same answer, and must ask."""
    if not _on():
        return value
    flag = torch.tensor([float(value)], device=_device())
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def barrier() -> None:
    """Wait until all ranks are here."""
    any_rank(False)


def from_first(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, on every rank: plain values of JSON. Where rank 0 fails the others end without a word."""
    if not _on():
        return make()
    if rank() > 0:
        return json.loads(_broadcast(b""))
    try:
        value = make()
    except BaseException:
        _broadcast(b"")
        raise
    _broadcast(json.dumps(value).encode())
    return value


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this block a process is by itself: `gather` is the identity, as where rank 0 validates and the others wait."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def device_of_rank(name: str) -> str:
    """ "auto" and "cuda" -> the GPU of this rank, where torchrun started several on a machine with GPUs."""
    if world() == 1 or not torch.cuda.is_available() or name not in ("auto", "cuda"):
        return name
    return f"cuda:{_local()}"


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the processes that torchrun started, if it did: over nccl on GPUs, over gloo else."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _on():
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        if device not in ("auto", "cuda"):
            raise UsageError(f"--device {device} under torchrun would be the GPU of every rank; give cuda, auto or cpu.")
        if _local() >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started more processes here than the {torch.cuda.device_count()} GPUs; one each is wanted."
            )
        torch.cuda.set_device(_local())
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _broadcast(data: bytes) -> bytes:
    """Bytes of rank 0, on every rank; no bytes end the others."""
    size = torch.tensor([len(data)], device=_device())
    dist.broadcast(size, src=0)
    if not int(size):
        if rank() > 0:
            raise SystemExit(1)
        return b""
    text = torch.tensor(list(data) if rank() == 0 else [0] * int(size), dtype=torch.uint8, device=_device())
    dist.broadcast(text, src=0)
    return bytes(text.tolist())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        counts = torch.zeros(world(), dtype=torch.int64, device=x.device)
        counts[rank()] = len(x)
        dist.all_reduce(counts)
        ctx.counts = sizes = counts.tolist()
        most = max(sizes)
        padded = x.new_zeros((most, *x.shape[1:]))
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        whole = grad[0].contiguous().clone()
        dist.all_reduce(whole)
        start = sum(ctx.counts[: rank()])
        return whole[start : start + ctx.counts[rank()]]


def _on() -> bool:
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _local() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
