"""Texts to token ids, made in memory and never written to the run.

`Words` is a vocabulary of the training texts. A token enters it only when at least MIN_SUBJECTS training subjects have it and
it is no number: no name, no date, no identifier of one person can be read from a run. `Pieces` is the tokeniser of a local
BERT.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ecgecho.config import DataOptions
from ecgecho.types import I64, Bool, Json, UserError

MIN_SUBJECTS = 5
PAD, UNKNOWN, NUMBER, START = "<pad>", "<unknown>", "<number>", "<start>"
KEPT = "text_model"
SPECIAL = (PAD, UNKNOWN, NUMBER, START)
TOKEN = re.compile(r"[a-z][a-z0-9]*|[0-9][a-z0-9]*|[%<>]")
# A number, or letters with three digits in a row or more ("s40001234"): an identifier, not a word such as "v1" or "1st".
NUMERIC = re.compile(r"[0-9]+|.*[0-9]{3,}.*")


class Tokeniser(Protocol):
    size: int

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, at least one."""

    def keep(self, run: Path) -> Json:
        """What `from_json` needs beside files it puts into the run's directory."""


class Words:
    """Words and a few signs, in the order of how many subjects have them."""

    def __init__(self, tokens: Sequence[str], *, max_tokens: int) -> None:
        self.tokens, self.max_tokens, self.size = tuple(tokens), max_tokens, len(tokens)
        self.ids = {token: k for k, token in enumerate(tokens)}

    @classmethod
    def fit(cls, texts: Iterable[tuple[int, str]], *, max_tokens: int) -> Words:
        """From (subject, text) of the training split."""
        readers: defaultdict[str, set[int]] = defaultdict(set)
        for subject, text in texts:
            readers[text].add(subject)
        subjects: defaultdict[str, set[int]] = defaultdict(set)
        for text, who in readers.items():
            for token in set(split(text)):
                subjects[token] |= who
        common = [t for t, who in subjects.items() if len(who) >= MIN_SUBJECTS and not NUMERIC.fullmatch(t)]
        return cls((*SPECIAL, *sorted(common, key=lambda t: (-len(subjects[t]), t))), max_tokens=max_tokens)

    def encode(self, text: str) -> list[int]:
        """Numbers are one token whatever they are; an empty text is its start token alone."""
        unknown, number = self.ids[UNKNOWN], self.ids[NUMBER]
        ids = [number if NUMERIC.fullmatch(t) else self.ids.get(t, unknown) for t in split(text)]
        return [self.ids[START], *ids][: self.max_tokens]

    def keep(self, run: Path) -> Json:
        return {
            "format": 1,
            "kind": "words",
            "max_tokens": self.max_tokens,
            "min_subjects": MIN_SUBJECTS,
            "tokens": list(self.tokens),
        }


class Pieces:
    """The tokeniser of a local Hugging Face BERT folder, [CLS] and [SEP] included; too long a text keeps its beginning."""

    def __init__(self, folder: str, *, max_tokens: int) -> None:
        from transformers import AutoTokenizer

        if not Path(folder).is_dir():
            raise UserError(f'there is no folder {folder}; data.text is a local Hugging Face BERT, or "words".')
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no tokeniser that can be read: {error}") from error
        self.folder, self.max_tokens, self.size = folder, max_tokens, len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"])

    def keep(self, run: Path) -> Json:
        """The tokeniser's own files and the BERT's config.json, so that the run can be read without the folder."""
        self._tokenizer.save_pretrained(run / KEPT)
        shutil.copyfile(Path(self.folder) / "config.json", run / KEPT / "config.json")
        return {"format": 1, "kind": "pieces", "max_tokens": self.max_tokens, "folder": KEPT}


def split(text: str) -> list[str]:
    """Lower-cased words, numbers and signs."""
    return TOKEN.findall(text.lower())


def make_tokeniser(options: DataOptions, training: Iterable[tuple[int, str]]) -> Words | Pieces | None:
    """What the recipe asks for, from (subject, text) of the training split; None where it leaves the choice to the user."""
    if options.text == "words":
        return Words.fit(((who, prepared(text, options)) for who, text in training), max_tokens=options.max_tokens)
    return Pieces(options.text, max_tokens=options.max_tokens) if options.text else None


def from_json(value: Json, run: Path) -> Words | Pieces:
    """The tokeniser of a run."""
    if value["kind"] == "words":
        return Words(value["tokens"], max_tokens=value["max_tokens"])
    return Pieces(str(run / value["folder"]), max_tokens=value["max_tokens"])


def prepared(text: str, options: DataOptions) -> str:
    """What a tokeniser is given for a text."""
    return options.text_template.replace("{text}", text.lower())


class TokenTable:
    """Every distinct text once, as ragged token ids."""

    def __init__(self, texts: Sequence[str], tokeniser: Tokeniser, options: DataOptions) -> None:
        encoded = [tokeniser.encode(prepared(text, options)) for text in texts]
        self.start = np.cumsum([0, *(len(ids) for ids in encoded)])
        self.ids = np.array([i for ids in encoded for i in ids], np.int32)

    def take(self, rows: I64) -> tuple[I64, Bool]:
        """(M,) -> ids (M, T) padded with 0, and which are real (M, T)."""
        length = self.start[rows + 1] - self.start[rows]
        place = np.arange(int(length.max()))[None]
        valid = place < length[:, None]
        return np.where(valid, self.ids[np.where(valid, self.start[rows][:, None] + place, 0)], 0).astype(np.int64), valid


def key_of(text: str) -> str:
    """Equal for equal texts, case and white space aside."""
    return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()
