"""What each of two processes does for test_dist.py: `python two_ranks.py WORK`, with the environment that torchrun gives."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny_world import quick_recipe

from ecgecho import dist, state
from ecgecho.config import override
from ecgecho.data.batches import Batches
from ecgecho.train import train
from ecgecho.types import UserError

RANK = int(os.environ.get("RANK", "0"))
COUNTS = {"unequal": (3, 2), "one is empty": (0, 4), "equal": (2, 2)}
OTHERS = ("prob_echo2ecg", "ecg_clip", "echoing_ecg")
PLAIN = str(Path(__file__).with_name("plain_encoder.py"))


def recipe(*words):
    """echo2ecg, all views of a study, an encoder without statistics of a batch, nothing drawn but the order of rows."""
    made = replace(quick_recipe("echo2ecg"), encoder_name=PLAIN, encoder={})
    return override(made, ["data.views=all", "data.augment=none", "optim.steps=3", "optim.clip_norm=0", *words])


def recipe_of(method):
    """Another method on echo alone, because text towers drop out."""
    made = replace(quick_recipe(method), encoder_name=PLAIN, encoder={})
    on = ["data.views=all"] if method == "prob_echo2ecg" else ["method.on=echo", "data.views=merge", "method.pooling=mean"]
    return override(made, [*on, "data.augment=none", "optim.steps=1", "optim.clip_norm=0"])


def rows(case, rank):
    """(M, 3) and the weights (3, 2) behind them; the same for every process."""
    random = torch.Generator().manual_seed(1)
    every = [torch.randn((count, 3), generator=random, dtype=torch.float64) for count in COUNTS[case]]
    weight = torch.randn((3, 2), generator=random, dtype=torch.float64)
    return (torch.cat(every) if rank is None else every[rank]).requires_grad_(), weight.requires_grad_()


def loss_of(x, weight, temperature):
    """Every row with every other: no sum over rows by themselves."""
    z = dist.gather(x @ weight)
    return ((z @ z.T) * temperature).logsumexp(1).square().sum()


def laws():
    """Gradients of one process with all rows, as each rank gets them."""
    found = {}
    for case in COUNTS:
        x, weight = rows(case, RANK)
        temperature = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        weight = torch.nn.Parameter(weight.detach())
        silent = torch.nn.Parameter(torch.zeros(2))
        one_sided = torch.nn.Parameter(torch.ones(2))
        loss = loss_of(x, weight, temperature)
        (loss + (one_sided.sum() if RANK == 0 else 0.0)).backward()
        dist.average_gradients([weight, temperature, silent, one_sided])
        found[case] = {
            "loss": loss.item(), "rows": dist.gather(x.detach()).tolist(), "weight": weight.grad.tolist(),
            "x": x.grad.tolist(), "temperature": temperature.grad.item(), "silent": silent.grad is None,
            "one_sided": one_sided.grad.tolist(), "flags": dist.gather(x.detach()[:, 0] > 0).tolist(),
        }  # fmt: skip
    with dist.alone():
        found["alone"] = [dist.world(), len(dist.gather(torch.zeros(5 + RANK)))]
    found["any"] = [dist.any_rank(RANK == 1), dist.any_rank(False)]
    found["from first"] = dist.from_first(lambda: {"rank": RANK})
    return found


def interrupted(paths, out):
    """Ctrl-C reaches rank 1 alone, in step 1."""
    real = state.step_seed

    def ctrl_c(seed, step, purpose):
        if step == 1 and RANK == 1:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        return real(seed, step, purpose)

    state.step_seed = ctrl_c
    try:
        train(recipe(), **paths, out=out, progress=False)
    except KeyboardInterrupt:
        return "interrupted"
    except SystemExit as stop:
        return f"exit {stop.code}"
    finally:
        state.step_seed = real


def not_finite(paths, out):
    """One rank alone meets an ECG that is not finite."""
    real = Batches.train

    def spoilt(self, step):
        batch = real(self, step)
        return replace(batch, ecg=batch.ecg * math.nan) if RANK == 1 and step == 1 else batch

    Batches.train = spoilt
    try:
        train(recipe(), **paths, out=out, progress=False)
    except UserError as error:
        return str(error)
    except SystemExit as stop:
        return f"exit {stop.code}"
    finally:
        Batches.train = real


def refused(paths, out, words=("data.batch_size=2", "method.aggregation=mean"), **given):
    try:
        train(recipe(*words), **{**paths, **given}, out=out, progress=False)
    except ValueError as error:
        return str(error)
    except SystemExit as stop:
        return f"exit {stop.code}"


def refusals(paths, out):
    """What each rank says where all find the same fault, and where one alone does."""
    absent = out / "absent"
    return {
        "sources": refused({**paths, "ecgs": [absent]}, out / "a"),
        "init": refused(paths, out / "b", init=absent),
        "tables": refused(paths, out / "d", ["encoder_name=otis"]),
        "build": refused(paths, out / "e", ["data.crop_samples=100000"]),
        "one rank's sources": refused({**paths, "ecgs": [absent]} if RANK == 1 else paths, out / "f"),
        "one rank's init": refused(paths, out / "g", **({"init": absent} if RANK == 1 else {})),
        "one rank's build": refused(paths, out / "h", ["data.crop_samples=100000"] if RANK == 1 else []),
        "rank 0's build": refused(paths, out / "i", ["data.crop_samples=100000"] if RANK == 0 else []),
    }


def written(event, given):
    """The file that an event of the interpreter makes, or puts into another's place."""
    if event == "os.rename":
        return [str(given[1])]
    opened = event == "open" and isinstance(given[0], str) and isinstance(given[2], int)
    return [given[0]] if opened and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and given[0] != os.devnull else []


def main():
    torch.set_num_threads(1)
    importlib.import_module("ecgecho.train").LINGER_SECONDS = 0.0
    work = Path(sys.argv[1])
    paths = {kind: [Path(p) for p in found] for kind, found in json.loads((work / "paths.json").read_text()).items()}
    wrote: list[str] = []
    sys.addaudithook(lambda event, given: wrote.extend(written(event, given)))
    with dist.joined("cpu"):
        found = laws()
        said: list[str] = []
        found["result"] = train(recipe(), **paths, out=work / "two", progress=False, say=said.append)
        found["said"], found["wrote"] = said, list(wrote)
        for method in OTHERS:
            train(recipe_of(method), **paths, out=work / method, progress=False)
        found["interrupted"] = interrupted(paths, work / "stopped")
        found["not finite"] = not_finite(paths, work / "not_finite")
        (work / "other").mkdir(exist_ok=True)
        (work / "other" / "notes.txt").write_text("mine")
        dist.barrier()
        found["refused"] = refused(paths, work / "other")
        found["refusals"] = refusals(paths, work / "refusals")
    (work / f"rank{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
