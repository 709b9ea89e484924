"""The batch of a step, gathered by row index on the device where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ecgecho.config import DataOptions
from ecgecho.data import augment
from ecgecho.data.examples import Examples, Material
from ecgecho.data.sampler import BlockOrder, Draw, Sampler, some_views, views
from ecgecho.data.tables import EchoTable, Normaliser, SignalTable
from ecgecho.data.texts import TokenTable
from ecgecho.types import F32, I64, Batch, Block, Json, UserError


class Batches:
    """Training batches by step, validation batches in order."""

    def __init__(
        self,
        *,
        material: Material,
        signals: SignalTable,
        echo: EchoTable | None,
        tokens: TokenTable | None,
        normaliser: Normaliser,
        needs: frozenset[str],
        options: DataOptions,
        seed: int,
        device: torch.device,
        blocks: BlockOrder | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.signals, self.echo, self.tokens, self.normaliser = signals, echo, tokens, normaliser
        self.needs, self.options, self.seed, self.device = needs, options, seed, device
        self.rank, self.ranks = rank, ranks
        self.examples, self.held_out, self.clips = material.splits["train"], material.splits["val"], material.clips
        self.num_clips = np.array([len(rows) for rows in self.clips], np.int64)
        self._clip_rows = np.concatenate([np.empty(0, np.int64), *self.clips])
        self._clip_start = np.cumsum(self.num_clips) - self.num_clips
        self.passed = useful(self.examples, needs)
        num_pairs = len(self.examples.pair_ecg) if echo is not None else 0
        self._merged_studies: dict[int, F32] = {}
        self._pass_views: dict[int, I64] = {}
        self._check(len(self.passed), num_pairs)
        self.sampler = Sampler(
            num_ecgs=len(self.passed),
            num_pairs=num_pairs,
            batch_size=options.batch_size,
            ratio=options.ratio,
            batches=options.batches,
            seed=seed,
            block_of=None if blocks is None else self._blocks(blocks),
            pool=blocks.pool if blocks else 0,
        )
        self._check_slices()

    def train(self, step: int) -> Batch:
        """This rank's slice of the batch of a step: ECGs of the pass, then the echo pairs."""
        self.signals.signal.hold(self.sampler.held(step))
        draw = self.sampler.draw(step).slice(self.rank, self.ranks)
        ecgs = np.concatenate([self.passed[draw.ecgs], self.examples.pair_ecg[draw.pairs]])
        studies = self.examples.pair_study[draw.pairs]
        row = np.arange(len(draw.ecgs), len(ecgs))
        with_text = self.options.batches == "joint" or len(draw.ecgs) > 0
        return self._batch(self.examples, ecgs, row, studies, self._shown(draw, studies), with_text=with_text, augment_seed=step)

    def ids(self, step: int) -> list[str]:
        """The ECG ids of a step's batch, over all ranks."""
        draw = self.sampler.draw(step)
        return [self.examples.ecg_id[i] for i in (*self.passed[draw.ecgs], *self.examples.pair_ecg[draw.pairs])]

    def counts(self) -> Json:
        """How much there is to learn from, and to validate on."""
        pairs = self.echo is not None
        used = {*self.passed.tolist(), *(self.examples.pair_ecg.tolist() if pairs else ())}
        return {
            "train_ecgs": len(used),
            "train_subjects": len(np.unique(self.examples.subject[sorted(used)])),
            "train_echo_pairs": len(self.examples.pair_ecg) if pairs else 0,
            "train_echo_studies": len(np.unique(self.examples.pair_study)) if pairs else 0,
            "val_ecgs": len(np.union1d(useful(self.held_out, self.needs), self.held_out.pair_ecg if pairs else self.passed[:0])),
            "val_echo_pairs": len(self.held_out.pair_ecg) if pairs else 0,
        }

    def sample(self, count: int) -> Batch:
        """`count` rows of the first step, to time a step on."""
        draw = self.sampler.draw(0).slice(self.rank, self.ranks)
        pairs = min(len(draw.pairs), max(count // 2, count - len(draw.ecgs)))
        part = Draw(ecgs=draw.ecgs[: count - pairs], pairs=draw.pairs[:pairs], pair_pass=draw.pair_pass[:pairs])
        ecgs = np.concatenate([self.passed[part.ecgs], self.examples.pair_ecg[part.pairs]])
        studies = self.examples.pair_study[part.pairs]
        row = np.arange(len(part.ecgs), len(ecgs))
        # Varied too: a step on crops is not the step on whole recordings.
        return self._batch(self.examples, ecgs, row, studies, self._shown(part, studies), with_text=True, augment_seed=0)

    def validation(self) -> Iterator[Batch]:
        """Every row of the validation split once, the last batch short.

        ECGs with an echo pair come first, in batches of their own, each with its study: the mean over its clips, or with
        data.views=all each of them, the first `max_views`.
        """
        held = self.held_out
        with_pair = held.pair_ecg if self.echo is not None and "echo" in self.needs else np.empty(0, np.int64)
        study_of = dict(zip(held.pair_ecg.tolist(), held.pair_study.tolist(), strict=True))
        rest = np.setdiff1d(useful(held, self.needs), with_pair)
        for group in (with_pair, rest):
            for start in range(0, len(group), self.options.batch_size):
                ecgs = group[start : start + self.options.batch_size]
                row = np.arange(len(ecgs) if group is with_pair else 0)
                studies = np.array([study_of[int(e)] for e in ecgs[row]], np.int64)
                shown = None
                if len(row):
                    shown = self._all(studies, None) if self.options.views == "all" else self._whole(studies)
                yield self._batch(held, ecgs, row, studies, shown, with_text=True, augment_seed=None)

    def _batch(
        self, examples: Examples, ecgs: I64, echo_row: I64, studies: I64, shown: _Shown | None, *, with_text: bool,
        augment_seed: int | None,
    ) -> Batch:  # fmt: skip
        signal, lead_valid = self.signals.take(examples.row[ecgs])
        if augment_seed is None:
            ecg = self.normaliser(signal, lead_valid)
        else:
            ecg = self._varied(signal, lead_valid, hash_step(augment_seed, self.seed, self.rank))
        study = np.full(len(ecgs), -1, np.int64)
        study[echo_row] = studies
        text = examples.text[ecgs]
        return Batch(
            ecg=ecg[None],
            ecg_lead_valid=lead_valid,
            subject=self._to(examples.subject[ecgs]),
            study=self._to(study),
            text_key=self._to(text),
            echo=None if shown is None else Block(values=shown.values, row=self._to(echo_row), start=self._to(shown.start)),
            text=self._texts(text) if with_text and "text" in self.needs else None,
            labels=torch.from_numpy(examples.labels[ecgs]).to(self.device) if "labels" in self.needs else None,
            labels_valid=torch.from_numpy(examples.labels_valid[ecgs]).to(self.device) if "labels" in self.needs else None,
        )

    def _varied(self, signal: Tensor, lead_valid: Tensor, seed: int) -> Tensor:
        """ECGs of the store, normalised and as a training step sees them, (B, C, L) -> (B, C, crop_samples or L)."""
        signal = torch.where(lead_valid[:, :, None], signal, torch.zeros((), device=signal.device))
        signal = augment.crop(signal, self.options.crop_samples, seed)  # the normaliser takes each sample by itself
        ecg = self.normaliser(signal, lead_valid)
        if self.options.augment == "light":
            return augment.light(ecg, lead_valid, seed)
        if self.options.augment == "none":
            return ecg
        flips = self.options.augment == "echo2ecg"
        return augment.otis(ecg, lead_valid, seed, recorded=augment.extent(signal), flips=flips)

    def _texts(self, text: I64) -> Block | None:
        row = np.flatnonzero(text >= 0)
        if self.tokens is None or not len(row):
            return None
        ids, valid = self.tokens.take(text[row])
        return Block(values=self._to(ids), row=self._to(row), valid=torch.from_numpy(valid).to(self.device))

    def _shown(self, draw: Draw, studies: I64) -> _Shown | None:
        """What each pair's study shows in this pass."""
        if self.echo is None or not len(studies):
            return None
        if self.options.views == "merge":
            return self._whole(studies)
        if self.options.views == "all":
            return self._all(studies, draw.pair_pass)
        which = np.empty(len(studies), np.int64)
        for number in np.unique(draw.pair_pass).tolist():
            here = draw.pair_pass == number
            which[here] = self._views(number)[studies[here]]
        rows = self._clip_rows[self._clip_start[studies] + which]
        return _Shown(self.echo.moments.gather(rows).float(), np.arange(len(studies) + 1))

    def _whole(self, studies: I64) -> _Shown:
        return _Shown(torch.from_numpy(self._merged(studies)).to(self.device), np.arange(len(studies) + 1))

    def _all(self, studies: I64, pair_pass: I64 | None) -> _Shown:
        """Every view by itself; of a study with more than `max_views` as many drawn in its pass, or without one the first."""
        assert self.echo is not None
        most, count = self.options.max_views, self.num_clips[studies]
        start = np.zeros(len(studies) + 1, np.int64)
        np.cumsum(np.minimum(count, most), out=start[1:])
        place = np.repeat(self._clip_start[studies] - start[:-1], np.diff(start)) + np.arange(start[-1])
        cut = np.flatnonzero(count > most)
        if pair_pass is not None and len(cut):
            drawn = some_views(self.seed, pair_pass[cut], studies[cut], count[cut], most)
            place[(start[cut][:, None] + np.arange(most)).ravel()] = np.repeat(self._clip_start[studies[cut]], most) + drawn
        return _Shown(self.echo.moments.gather(self._clip_rows[place]).float(), start)

    def _views(self, number: int) -> I64:
        """Which clip each study shows in a pass; two passes are kept, because a batch can reach into the next."""
        if number not in self._pass_views:
            self._pass_views = {n: v for n, v in self._pass_views.items() if n == number - 1}
            self._pass_views[number] = views(self.seed, number, self.num_clips)
        return self._pass_views[number]

    def _merged(self, studies: I64) -> F32:
        """The moments (M, 2, D) over all clips of each study."""
        assert self.echo is not None
        new = [s for s in dict.fromkeys(studies.tolist()) if s not in self._merged_studies]
        self._merged_studies.update(zip(new, self.echo.merged([self.clips[s] for s in new]), strict=True))
        return np.stack([self._merged_studies[s] for s in studies.tolist()])

    def _to(self, values: I64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, non_blocking=True)

    def _blocks(self, blocks: BlockOrder) -> I64:
        """The block of the ECG store in which each thing of a pass lies."""
        ecgs = self.passed if len(self.passed) else self.examples.pair_ecg
        edges = self.signals.signal.chunks.block_edges(blocks.block_bytes)
        return np.searchsorted(edges, self.examples.row[ecgs], side="right") - 1

    def _check_slices(self) -> None:
        """Every rank must have something of each kind in each batch: they compute the same loss together."""
        kinds = [n for n in (self.sampler.ecgs_each, self.sampler.pairs_each) if n]
        few = self.options.batch_size if self.options.batches == "single" else min(kinds)
        if few < self.ranks:
            raise UserError(
                f"a batch of {self.options.batch_size} has {few} rows of a kind for {self.ranks} processes; raise "
                "data.batch_size or data.ratio, or start fewer processes."
            )

    def _check(self, num_ecgs: int, num_pairs: int) -> None:
        length = self.signals.signal.shape[-1]
        if self.options.crop_samples > length:
            raise UserError(
                f"data.crop_samples is {self.options.crop_samples}, and the ECGs of the stores have {length} samples."
            )
        if "echo" in self.needs and not num_pairs:
            raise UserError(
                f"the training split has no ECG with an echo study in the echo stores within {self.options.window_days:g} days; "
                "check that the stores were made from these catalogs, or index again with a larger --window-days."
            )
        if "echo" in self.needs and num_ecgs and self.options.batches == "joint" and not self.options.ratio:
            raise UserError("data.ratio is 0, so no batch would hold an echo pair; raise it, or --set method.on=text.")
        if self.needs - {"echo"} and not num_ecgs:
            raise UserError(
                f"the training split has no ECG with {' or '.join(sorted(self.needs - {'echo'}))}; check the catalogs."
            )
        sizes = [n for n, wanted in ((num_ecgs, self.needs - {"echo"}), (num_pairs, "echo" in self.needs)) if wanted]
        if self.options.batches == "single" and min(sizes) < self.options.batch_size:
            raise UserError(
                f"data.batches=single fills a batch of {self.options.batch_size} with one kind, but there are {num_ecgs} ECGs "
                f"and {num_pairs} echo pairs; lower data.batch_size, or use data.batches=joint."
            )


class _Shown(NamedTuple):
    """What the studies of a batch show."""

    values: Tensor
    """(V, 2, D) moments."""
    start: I64
    """(M + 1,)."""


def useful(examples: Examples, needs: frozenset[str]) -> I64:
    """The ECGs a pass goes over: those with a text or a label, where the method learns from them."""
    wanted = np.zeros(len(examples.ecg_id), bool)
    if "text" in needs:
        wanted |= examples.text >= 0
    if "labels" in needs:
        wanted |= examples.labels_valid.any(1)
    return np.flatnonzero(wanted)


def hash_step(step: int, seed: int, rank: int = 0) -> int:
    """A seed for a step's augmentation; ranks vary their rows each in its own way."""
    words = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
