"""A trained student: from a run's directory to embeddings of ECGs and texts.

Shape letters: N rows, B batch, C leads, L samples, D embedding, W features, K tasks, S studies, V views of all studies of a
batch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn

import embed_cache
from ecgecho import config, plugins
from ecgecho.config import Recipe
from ecgecho.data.tables import EchoTable, Normaliser, SignalTable, first_difference
from ecgecho.data.texts import Tokeniser, TokenTable, from_json
from ecgecho.ecg.contract import apply_contract
from ecgecho.types import F32, I64, STANDARD_LEADS, Block, Bool, EcgContract, EcgRecord, Embedding, Json, MethodSizes, UserError
from embed_cache import EmbeddingStore

LEADS = {name.lower(): name for name in STANDARD_LEADS}

RUN_FORMAT = 1
VIEWS_A_STUDY = 32  # of a batch on average: bounds its memory where studies have hundreds


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A method in evaluation mode with all it was fitted with. Make one with `load` or `Student.random`."""

    model: nn.Module
    recipe: Recipe
    contract: EcgContract
    normaliser: Normaliser
    tokeniser: Tokeniser | None
    device: torch.device
    run: Json
    """run.json."""
    path: Path
    """The run's directory."""

    @property
    def encoder_module(self) -> nn.Module:
        """The ECG encoder, (B, C, L) normalised -> tokens (B, T, width)."""
        encoder: nn.Module = self.model.encoder  # type: ignore[assignment]
        return encoder

    @property
    def tasks(self) -> tuple[str, ...]:
        """What `predict_rows` predicts, in order; empty where the method does not classify."""
        return self.recipe.data.tasks if hasattr(self.model, "predict") else ()

    @property
    def has_text(self) -> bool:
        """Whether `embed_texts` works."""
        return self.tokeniser is not None

    @property
    def has_echo(self) -> bool:
        """Whether `embed_studies` works: the run learnt from echo, and its method embeds studies."""
        return self.run.get("teacher") is not None and hasattr(self.model, "embed_study")

    def source_paths(self, kind: str) -> list[Path]:
        """Where the run's "catalogs", "ecgs" or "echos" lie."""
        return [Path(p) if "://" in p else self.path / p for p in self.run["paths"][kind]]

    def embed(self, signal_mv: npt.NDArray[np.floating], fs_hz: float, leads: Sequence[str]) -> Embedding:
        """One recording (C, L) in mV with its leads by name (in any case), of any rate and length -> (1, D) on the host."""
        signal = np.ascontiguousarray(signal_mv, np.float32)
        valid = np.asarray(np.isfinite(signal).all(axis=-1), np.bool_)
        named = tuple(LEADS.get(name.strip().lower(), name) for name in leads)
        record = EcgRecord(signal=signal, leads=named, lead_valid=valid, unit="mv", fs_hz=float(fs_hz))
        prepared, lead_valid = apply_contract(record, self.contract)
        return self.embed_prepared(prepared[None], lead_valid[None])

    def embed_prepared(self, signal: F32, lead_valid: Bool) -> Embedding:
        """ECGs (B, C, L) as the contract makes them, before the run's own normalisation -> (B, D) on the host."""
        return self._embed(torch.from_numpy(signal).to(self.device), torch.from_numpy(lead_valid).to(self.device))

    def embed_rows(self, ecgs: EmbeddingStore | SignalTable, rows: I64, batch_size: int = 256) -> tuple[F32, F32 | None]:
        """Rows of an ECG store, or of several behind `open_signals` -> mean (N, D) and log-variance (N, D) or None."""
        signals = self.open_signals([ecgs]) if isinstance(ecgs, EmbeddingStore) else ecgs
        parts = [self._embed(*signals.take(rows[k : k + batch_size])) for k in range(0, len(rows), batch_size)]
        return _joined(parts)

    def embed_rows_and_features(
        self, ecgs: EmbeddingStore | SignalTable, rows: I64, batch_size: int = 256
    ) -> tuple[F32, F32 | None, F32]:
        """As `embed_rows`, and what the method's heads read (N, W), not normalised; the encoder runs once.

        That is the method's own `features(ecg)`, else the mean of the encoder's tokens.
        """
        signals = self.open_signals([ecgs]) if isinstance(ecgs, EmbeddingStore) else ecgs
        parts, features = [], []
        for k in range(0, len(rows), batch_size):
            embedding, pooled = self._embed_and_features(*signals.take(rows[k : k + batch_size]))
            parts.append(embedding)
            features.append(pooled)
        return *_joined(parts), torch.cat(features).numpy()

    def predict_rows(self, ecgs: EmbeddingStore | SignalTable, rows: I64, batch_size: int = 256) -> F32:
        """Probabilities (N, K) of `tasks`."""
        if not self.tasks:
            raise UserError(f"{self.path} was trained by {self.recipe.method_name}, which predicts no labels.")
        signals = self.open_signals([ecgs]) if isinstance(ecgs, EmbeddingStore) else ecgs
        result = []
        for k in range(0, len(rows), batch_size):
            signal, lead_valid = signals.take(rows[k : k + batch_size])
            with torch.no_grad():
                result.append(self.model.predict(self.normaliser(signal, lead_valid), lead_valid).cpu())  # type: ignore[operator]
        return np.asarray(torch.cat(result).numpy(), np.float32)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> tuple[F32, F32 | None]:
        """Reports or prompts -> mean (N, D) and log-variance (N, D) or None."""
        if self.tokeniser is None:
            raise UserError(f"{self.path} was trained without texts; it cannot embed any.")
        table = TokenTable(texts, self.tokeniser, self.recipe.data)
        parts = []
        for k in range(0, len(texts), batch_size):
            ids, valid = table.take(np.arange(k, min(k + batch_size, len(texts))))
            block = Block(
                values=torch.from_numpy(ids).to(self.device),
                row=torch.arange(len(ids), device=self.device),
                valid=torch.from_numpy(valid).to(self.device),
            )
            with torch.no_grad():
                parts.append(_on_host(self.model.embed_text(block)))  # type: ignore[operator]
        return _joined(parts)

    def embed_studies(
        self,
        echos: Sequence[Path | str | EmbeddingStore] | EchoTable,
        studies: Sequence[I64],
        batch: int = 256,
    ) -> tuple[F32, F32 | None]:
        """Studies, each the rows of its cines in `open_echo`'s table -> mean (S, D) and log-variance (S, D) or None.

        A run that learnt from each view (`data.views=all`) is given each cine, the first `data.max_views` of a study; any other
        the exact moments over all frames. Sizes of batches change no result beyond rounding.
        """
        table = echos if isinstance(echos, EchoTable) else self.open_echo(echos)
        self._check_echo()
        if not studies:
            raise UserError("there is no study to embed: no cine of the echo stores is usable.")
        bare = next((k for k, rows in enumerate(studies) if not len(rows)), None)
        if bare is not None:
            raise UserError(f"study {bare} of {len(studies)} has no usable cine; leave it out.")
        takes_views = getattr(self.model, "takes_views", False) and self.recipe.data.views == "all"
        chosen = [rows[: self.recipe.data.max_views] for rows in studies] if takes_views else list(studies)
        parts = []
        for some in _batches(chosen, batch):
            if takes_views:
                values, count = table.moments.gather(np.concatenate(some)).float(), [len(rows) for rows in some]
            else:
                values, count = torch.from_numpy(table.merged(some)).to(self.device), [1] * len(some)
            block = Block(
                values=values,
                row=torch.arange(len(some), device=self.device),
                start=torch.tensor([0, *np.cumsum(count)], dtype=torch.int64, device=self.device),
            )
            with torch.no_grad():
                parts.append(_on_host(self.model.embed_study(block)))  # type: ignore[operator]
        return _joined(parts)

    def open_echo(self, stores: Sequence[Path | str | EmbeddingStore]) -> EchoTable:
        """Echo stores of the teacher that the run learnt from, behind one row number; others are refused by what differs."""
        self._check_echo()
        if not stores:
            raise UserError("there is no echo store to read; give one made by `ecgecho cache-echo`.")
        opened = [s if isinstance(s, EmbeddingStore) else embed_cache.open(s) for s in stores]
        for store in opened:
            if store.manifest.kind != "echo":
                continue  # EchoTable says so
            if differing := first_difference(store.manifest.identity, self.run["teacher"], views=False):
                field, found, wanted = differing
                raise UserError(
                    f"{store.path} was not made as the echo store that {self.path} learnt from: {field} is {found}, "
                    f"not {wanted}. Give a store of the same teacher, weights and mask."
                )
        return EchoTable(opened, [str(s.path) for s in opened], self.device)

    def open_signals(self, stores: Sequence[Path | str | EmbeddingStore]) -> SignalTable:
        """ECG stores made by the student's contract, behind one row number; another one is refused."""
        opened = [s if isinstance(s, EmbeddingStore) else embed_cache.open(s) for s in stores]
        return SignalTable(opened, [str(s.path) for s in opened], self.contract, self.device)

    @staticmethod
    def random(like: Student, seed: int) -> Student:
        """The same architecture, randomly initialised and never trained: the floor of an evaluation."""
        model = config.build_model(replace(like.recipe, seed=seed), _sizes(like.run, like.path)).to(like.device).eval()
        return replace(like, model=model)

    def _check_echo(self) -> None:
        if self.has_echo:
            return
        name = self.recipe.method_name
        if self.run.get("teacher") is None:
            raise UserError(f"{self.path} was trained without echo; it cannot embed studies. Train {name} with --echo STORE.")
        raise UserError(f"{self.path} was trained by {name}, which does not embed studies.")

    def _embed(self, signal_mv: Tensor, lead_valid: Tensor) -> Embedding:
        with torch.no_grad():
            return _on_host(self.model.embed_ecg(self.normaliser(signal_mv, lead_valid), lead_valid))  # type: ignore[operator]

    def _embed_and_features(self, signal_mv: Tensor, lead_valid: Tensor) -> tuple[Embedding, Tensor]:
        encoder, ecg = self.encoder_module, self.normaliser(signal_mv, lead_valid)
        with (
            torch.no_grad(),
            _kept(self.model, "features") as own,
            _kept(encoder, "pooled") as pooled,
            _kept(encoder, "forward") as tokens,
        ):
            embedding = _on_host(self.model.embed_ecg(ecg, lead_valid))  # type: ignore[operator]
            if hasattr(type(self.model), "features"):
                features = own[-1] if own else self.model.features(ecg)  # type: ignore[operator]
            elif pooled:
                features = pooled[-1]
            elif tokens:
                features = tokens[-1].float().mean(1)
            else:
                features = encoder.pooled(ecg) if hasattr(encoder, "pooled") else encoder(ecg).float().mean(1)  # type: ignore[operator]
        return embedding, features.float().cpu()


def load(run: Path | str, device: str = "cpu") -> Student:
    """The student of a finished run."""
    path, where = Path(run), torch.device(device)
    if not (path / "run.json").is_file():
        raise UserError(f"{path} is no run: it has no run.json. Make one with `ecgecho train ... --out {path}`.")
    facts: Json = config.read_json(path / "run.json")
    if facts.get("format") != RUN_FORMAT:
        raise UserError(f"{path} has run format {facts.get('format')!r}; this ecgecho reads {RUN_FORMAT}. Train it again.")
    if not facts["done"]:
        raise UserError(f"{path} is not done; run its `ecgecho train` again, it goes on from the last checkpoint.")
    recipe = config.from_json(Recipe, facts["identity"]["recipe"])
    contract = plugins.load("encoders", recipe.encoder_name).CONTRACT
    if config.to_json(contract) != facts["contract"]:
        raise UserError(
            f"{path} was trained under another form of the contract {contract.name!r} than this ecgecho has; train it again."
        )
    model = config.build_model(recipe, _sizes(facts, path))
    try:
        model.load_state_dict(safetensors.torch.load_file(path / "model.safetensors"), strict=True)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path / 'model.safetensors'} cannot be read into the model of run.json: {str(error).splitlines()[0]}"
        ) from error
    vocabulary, fitted = path / "vocabulary.json", facts["normaliser"]
    return Student(
        model=model.to(where).eval(),
        recipe=recipe,
        contract=contract,
        normaliser=Normaliser(np.array(fitted["mean_mv"], np.float32), np.array(fitted["std_mv"], np.float32), where),
        tokeniser=from_json(json.loads(vocabulary.read_text(encoding="utf-8")), path) if vocabulary.is_file() else None,
        device=where,
        run=facts,
        path=path,
    )


def _sizes(run: Json, path: Path) -> MethodSizes:
    sizes = config.from_json(MethodSizes, run["sizes"])
    kept = str(path / "text_model") if sizes.text_model else ""
    return replace(sizes, text_model=kept, pretrained=False)


@contextlib.contextmanager
def _kept(owner: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """What a method of a module gives while this lasts, where it has that method."""
    given: list[Tensor] = []
    if not hasattr(type(owner), name):
        yield given
        return
    own = getattr(owner, name)

    def keep(*args: Any, **named: Any) -> Any:
        given.append(own(*args, **named))
        return given[-1]

    owner.__dict__[name] = keep  # before the class's own, which stays as it is
    try:
        yield given
    finally:
        del owner.__dict__[name]


def _on_host(embedding: Embedding) -> Embedding:
    return Embedding(mean=embedding.mean.cpu(), logvar=None if embedding.logvar is None else embedding.logvar.cpu())


def _joined(parts: Sequence[Embedding]) -> tuple[F32, F32 | None]:
    mean = torch.cat([p.mean for p in parts]).numpy()
    logvars = [p.logvar for p in parts if p.logvar is not None]
    return mean, torch.cat(logvars).numpy() if logvars else None


def _batches(studies: Sequence[I64], size: int) -> Iterator[list[I64]]:
    """In order, at most `size` studies and VIEWS_A_STUDY times as many views at once, one study at least."""
    some, views = list[I64](), 0
    for rows in studies:
        if some and (len(some) == size or views + len(rows) > VIEWS_A_STUDY * size):
            yield some
            some, views = [], 0
        some.append(rows)
        views += len(rows)
    if some:
        yield some
