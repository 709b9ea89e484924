"""What a split offers to learn from: the catalogs' rows joined to the stores' rows, as integers.

Shape letters: N ECGs of a split, P echo pairs of a split, S studies of all splits, K tasks.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecgecho import tasks
from ecgecho.catalog import Catalog, subject_tag
from ecgecho.config import DataOptions
from ecgecho.data.texts import key_of
from ecgecho.pairs import check_together
from ecgecho.types import F32, I64, Bool, Task, UsageError, UserError

SPLITS = ("train", "val", "test")
UNKNOWN = "unknown"
TOGETHER = ("draw", "merge", "all")  # the words of data.views that take cines of any view


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """One split."""

    ecg_id: tuple[str, ...]
    row: I64
    """(N,) in the signal table."""
    subject: I64
    """(N,)."""
    text: I64
    """(N,) in the list of distinct texts, -1 where there is none."""
    labels: F32
    """(N, K)."""
    labels_valid: Bool
    """(N, K)."""
    pair_ecg: I64
    """(P,) in this split; an ECG with several studies stands here once for each, but in the splits held out once."""
    pair_study: I64
    """(P,) in the list of studies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All splits with what they share."""

    splits: Mapping[str, Examples]
    texts: tuple[str, ...]
    """Distinct texts; never written anywhere."""
    clips: tuple[I64, ...]
    """Per study the rows of its cines in the echo table, of the wanted view."""
    notes: tuple[str, ...]
    """What the user should know: what was left out, what cannot be checked."""

    def training_texts(self) -> Iterator[tuple[int, str]]:
        """(subject, text) of the training split."""
        train = self.splits["train"]
        return ((int(who), self.texts[t]) for who, t in zip(train.subject, train.text, strict=True) if t >= 0)


def join(
    catalogs: Sequence[Catalog],
    ecg_rows: Mapping[str, int],
    clip_rows: Mapping[str, int],
    options: DataOptions,
    view_of_row: Callable[[int], str] = lambda row: "",
) -> Material:
    """Catalogs and the ids of the stores -> the examples of every split. A subject in two splits, or in none, is refused.

    `view_of_row` is the view that the teacher saw in a row of the echo stores; it is asked where the catalog knows none.

    An ECG that the catalog pairs with several studies is passed with each of them in training, every pair once a pass whatever
    its `weight`; held out it keeps the nearest, so that every ECG is judged once.
    """
    notes = [*check_together(catalogs), *_narrow_windows(catalogs, options.window_days)]
    asked = [tasks.find(name, catalogs) for name in options.tasks]
    clips = _Clips(catalogs, clip_rows, options.views, view_of_row)
    subjects: dict[tuple[str, str], int] = {}
    texts: dict[str, int] = {}
    shown: list[str] = []
    seen: set[str] = set()
    columns: dict[str, _Columns] = {name: _Columns() for name in SPLITS}
    unread = paired = alone = 0
    for number, catalog in enumerate(catalogs):
        text_of, studies_of = _pairs(catalog, options.window_days)
        split_of = dict(zip(*(catalog.subjects.column(c).to_pylist() for c in ("subject_id", "split")), strict=True))
        ecg_ids, subject_ids = (catalog.ecgs.column(c).to_pylist() for c in ("ecg_id", "subject_id"))
        _check_splits(catalog, subject_ids, split_of)
        labels = _labels(catalog, ecg_ids, asked, options.window_days)
        for place, (ecg_id, subject_id) in enumerate(zip(ecg_ids, subject_ids, strict=True)):
            if ecg_id in seen:
                raise UserError(f"ECG {ecg_id!r} of {catalog.path} is in an earlier catalog too; give each recording once.")
            seen.add(ecg_id)
            if ecg_id not in ecg_rows:
                unread += 1
                continue
            here = columns[split_of[subject_id]]
            text = text_of.get(ecg_id, "")
            key = key_of(text) if text.strip() else ""
            if key and key not in texts:
                texts[key] = len(shown)
                shown.append(text)
            paired += ecg_id in studies_of
            studies = [s for s in (clips.study(number, study) for study in studies_of.get(ecg_id, ())) if s >= 0]
            alone += ecg_id in studies_of and not studies
            for study in studies if here is columns["train"] else studies[:1]:
                here.pair_ecg.append(len(here.ecg_id))
                here.pair_study.append(study)
            here.ecg_id.append(ecg_id)
            here.row.append(ecg_rows[ecg_id])
            here.subject.append(subjects.setdefault((catalog.family, subject_id), len(subjects)))
            here.text.append(texts[key] if key else -1)
            here.labels.append(labels[place])
    if len(seen) == unread:
        raise UserError(
            f"none of the {unread} ECGs of the catalogs is in the ECG stores; were the stores made from these catalogs?"
        )
    if unread:
        notes.append(f"{unread} of {len(seen)} ECGs are not in the ECG stores and are left out")
    if clip_rows:
        notes += clips.notes(options)
    if clip_rows and alone:
        notes.append(f"{alone} of {paired} ECGs paired with echo studies are left without any")
    return Material(
        splits={name: c.finish(len(options.tasks)) for name, c in columns.items()},
        texts=tuple(shown),
        clips=tuple(np.array(rows, np.int64) for rows in clips.found),
        notes=tuple(notes),
    )


def _check_splits(catalog: Catalog, subject_ids: Sequence[str], split_of: Mapping[str, str]) -> None:
    none = sorted({s for s in subject_ids if split_of[s] not in SPLITS})
    if none:
        raise UserError(
            f"{len(none)} subjects of {catalog.path} are in split 'none' (first {subject_tag(none[0])}): whose recordings these "
            "are is not known, or the dataset keeps them out, so they cannot be trained on. Index with subject ids, or take "
            "them out of the catalog."
        )


def _labels(catalog: Catalog, ecg_ids: list[str], asked: Sequence[Task], window_days: float) -> I64:
    """(n, K) 1, 0, or -1 where no label lies within the window."""
    columns = [tasks.answers(catalog, ecg_ids, task, window_days) for task in asked]
    return np.stack(columns, axis=1) if columns else np.empty((len(ecg_ids), 0), np.int64)


def _pairs(catalog: Catalog, window_days: float) -> tuple[dict[str, str], dict[str, list[str]]]:
    """ECG -> its text, and ECG -> its studies within the window, the nearest first."""
    names = ("ecg_id", "study_id", "text_id", "gap_days")
    table = catalog.pairs
    found = catalog.texts_of(table["text_id"])
    words = dict(zip(found["text_id"].to_pylist(), found["text"].to_pylist(), strict=True))
    texts: dict[str, str] = {}
    studies: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for ecg_id, study_id, text_id, gap_days in zip(*(table[c].to_pylist() for c in names), strict=True):
        if text_id is not None:
            texts[ecg_id] = words[text_id]
        if study_id is not None and (gap_days is None or abs(gap_days) <= window_days):
            studies[ecg_id].append((abs(gap_days or 0.0), study_id))
    nearest = {ecg_id: [study for _, study in sorted(several, key=lambda s: s[0])] for ecg_id, several in studies.items()}
    return texts, nearest


def _narrow_windows(catalogs: Sequence[Catalog], window_days: float) -> list[str]:
    """Which catalogs were paired within fewer days than are asked for: farther studies are not in them."""
    notes = []
    for catalog in catalogs:
        window = (catalog.meta.get("pairing") or {}).get("window_days")
        if window and window_days > max(abs(end) for end in window):
            notes.append(
                f"data.window_days is {window_days:g}, but {catalog.path} pairs ECGs with echo studies of {window[0]:g} to "
                f"{window[1]:g} days only; index it again with a wider --window-days to have those that are farther"
            )
    return notes


@dataclass(slots=True)
class _Columns:
    ecg_id: list[str] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    subject: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    labels: list[I64] = field(default_factory=list)
    pair_ecg: list[int] = field(default_factory=list)
    pair_study: list[int] = field(default_factory=list)

    def finish(self, num_tasks: int) -> Examples:
        labels = np.array(self.labels, np.int64).reshape(len(self.ecg_id), num_tasks)
        return Examples(
            ecg_id=tuple(self.ecg_id),
            row=np.array(self.row, np.int64),
            subject=np.array(self.subject, np.int64),
            text=np.array(self.text, np.int64),
            labels=labels.clip(0).astype(np.float32),
            labels_valid=labels >= 0,
            pair_ecg=np.array(self.pair_ecg, np.int64),
            pair_study=np.array(self.pair_study, np.int64),
        )


def is_shown(views: str, kind: str | None, told: str | None, row: int, view_of_row: Callable[[int], str]) -> bool:
    """Whether a run of these `data.views` learns from a cine: B-mode as far as is known, and of a view that is wanted.

    `kind` and `told` are what the catalog says of it and of its view; of the rest the teacher is asked by `view_of_row`.
    """
    return kind in (None, "b_mode") and (views in TOGETHER or (told or view_of_row(row)) == views)


def _no_view(views: str, known: Sequence[str]) -> str:
    if not known:
        return (
            f"no cine has the view {views!r}: neither the catalogs nor the teacher of the echo stores tells views apart "
            f"(echoprime does, with view_classifier). Set data.views to one of: {', '.join(TOGETHER)}."
        )
    there = [*TOGETHER, *known]
    close = difflib.get_close_matches(views.lower(), [name.lower() for name in there], n=1, cutoff=0.5)
    meant = next((f" Did you mean {name!r}?" for name in there if name.lower() in close), "")
    return f"no cine has the view {views!r}.{meant} data.views is {', '.join(TOGETHER)}, or one of: {', '.join(known)}."


class _Clips:
    """The usable cines of every study: in the store, B-mode as far as the catalog knows, of the wanted view."""

    def __init__(
        self, catalogs: Sequence[Catalog], clip_rows: Mapping[str, int], views: str, view_of_row: Callable[[int], str]
    ) -> None:
        self.rows: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        self.numbers: dict[tuple[int, str], int] = {}
        self.found: list[list[int]] = []
        self.other_kind = self.seen_by_teacher = 0
        self.bare: set[tuple[int, str]] = set()
        """Studies that an ECG is paired with and that show nothing."""
        known_views = Counter[str]()
        for number, catalog in enumerate(catalogs):
            names = ("clip_id", "study_id", "kind", "view")
            for clip_id, study_id, kind, told in zip(*(catalog.clips[c].to_pylist() for c in names), strict=True):
                if clip_id not in clip_rows:
                    continue
                row = clip_rows[clip_id]
                view = told
                if not told and views not in TOGETHER:
                    view = view_of_row(row)
                    self.seen_by_teacher += view == views
                known_views[view or UNKNOWN] += 1
                self.other_kind += kind not in (None, "b_mode")
                if is_shown(views, kind, view, row, view_of_row):
                    self.rows[number, study_id].append(row)
        if known_views and not self.rows and views in TOGETHER:
            raise UserError(f"none of the {known_views.total()} cines of the echo stores is B-mode by the catalogs.")
        if known_views and not self.rows:
            raise UsageError(_no_view(views, sorted(known_views.keys() - {UNKNOWN})))

    def study(self, number: int, study_id: str) -> int:
        """The number of a study that has cines, else -1."""
        if (number, study_id) not in self.rows:
            self.bare.add((number, study_id))
            return -1
        if (number, study_id) not in self.numbers:
            self.numbers[number, study_id] = len(self.found)
            self.found.append(sorted(self.rows[number, study_id]))
        return self.numbers[number, study_id]

    def notes(self, options: DataOptions) -> list[str]:
        """What of the studies is left out, once all pairs were asked for."""
        notes = []
        if self.other_kind:
            notes.append(f"{self.other_kind} cines that are not B-mode are left out")
        if self.seen_by_teacher:
            notes.append(
                f"{self.seen_by_teacher} cines are {options.views} by the teacher alone: the catalog names no view of them"
            )
        if self.bare:
            what = "usable cine" if options.views in TOGETHER else f"cine of view {options.views}"
            notes.append(
                f"{len(self.bare)} of {len(self.bare) + len(self.found)} paired echo studies have no {what} in the stores"
            )
        cut = sum(len(rows) > options.max_views for rows in self.found)
        if cut and options.views == "all":
            notes.append(
                f"{cut} of {len(self.found)} echo studies have more than data.max_views={options.max_views} views: each pass "
                "draws as many of them anew, validation takes the first"
            )
        return notes
