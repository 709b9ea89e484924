"""The results of judged runs as text: the table of one run, and runs side by side with what each gains over the one before it.

Source: `metrics.json` and the `predictions.parquet` beside it, as evaluate.py writes them. Gains are paired: both runs are scored
on the same ECGs and the same resamples of subjects.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgecho import stats
from ecgecho.types import I64, Json, UsageError, UserError

# What evaluate.py writes. Said again here because a report imports no story; a test holds the two against each other.
SCHEMA = "ecgecho.metrics"
VERSION = 1
PREDICTIONS = "predictions.parquet"
ORDER = (
    "zero_shot",
    "linear_probe",
    "knn",
    "fine_tune",
    "supervised",
    "floor",
    "retrieval",
    "phenotype_retrieval",
    "uncertainty",
)
SIMULATED = "SIMULATED cohort, no real person. "
METRICS: dict[str, str] = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "macro_auroc": "macro AUROC",
    "mean_rank": "mean rank",
    "median_rank": "median rank",
    **{f"recall_at_{k}": f"R@{k}" for k in (1, 3, 5, 10)},
    **{f"precision_at_{k}": f"P@{k}" for k in (1, 3, 5, 10)},
}
FITTED = ("linear_probe", "knn", "fine_tune", "floor")
"""Evaluations by share of the training labels."""
ECHO = "phenotype_retrieval"
WIDTH = 120
"""Columns of the tables of one run, as far as names allow it."""
DIRECTIONS = {"ecg_to_study": "ECG to study", "study_to_ecg": "study to ECG"}


def table(result: Json) -> str:
    """The numbers of one run as text. Average precision is in metrics.json only."""
    run, data = result["run"], result["data"]
    printed = sorted(
        (row for row in result["rows"] if row["metric"] != "average_precision"),
        key=lambda row: _place(row["evaluation"].partition(".")[0]),
    )
    shares = result["labels_share"]
    apart = FITTED if len(shares) > 2 else ()  # more shares than two read better side by side
    first = [row for row in printed if row["evaluation"].partition(".")[0] not in (ECHO, *apart)]
    parts = [_plain(first, result)] if first else []
    if apart:
        parts.append(_by_share([row for row in printed if row["evaluation"].partition(".")[0] in apart], result))
    if echo := [row for row in printed if row["evaluation"].partition(".")[0] == ECHO]:
        parts.append(_of_echo(echo, result))
    counts = data["counts"]["test"]
    where = " and ".join(sorted({c["dataset"] for c in data["catalogs"]}))
    opening = [
        f"{SIMULATED if data['simulated'] else ''}{run['name']}: {run['method']} on {run['encoder']}, "
        f"{run['steps']} steps{_levelled(run)}; test split of {where}: {counts['ecgs']} ECGs of {counts['subjects']} subjects",
        *(f"note: {note}" for note in data["notes"]),
    ]
    closing = [
        f"Intervals: 95 %, {result['bootstraps']} resamples of subjects, seed {result['seed']}. Thresholds: argmax of the prompt "
        "pair, or the validation split. Probes below 100 %: mean over draws of the labels. Floor: the same probe on the randomly "
        "initialised encoder.",
    ]
    told = [line for words in opening for line in _wrapped(words)]
    return "\n".join([*told, "", *(line for part in parts for line in (*part, "")), *(w for c in closing for w in _wrapped(c))])


def _plain(rows: Sequence[Json], result: Json) -> list[str]:
    """A line a row under its evaluation; what is missing says why below, and what is gained over the floor stands there too."""
    head = ["task", "labels", "metric", "value [95 % CI]", "n", "positives", "chance", ""]
    notes: dict[str, int] = {}
    lines: list[list[str]] = []
    gains: list[tuple[str, list[str]]] = []
    seen = list(dict.fromkeys(row["evaluation"] for row in rows))
    rows = sorted(rows, key=lambda row: seen.index(row["evaluation"]))
    for number, row in enumerate(rows):
        if not number or row["evaluation"] != rows[number - 1]["evaluation"]:
            lines.append([row["evaluation"]])
        what = (_title(result, row["task"]) or "-") + ("" if row["subset"] == "all" else f", {row['subset']}")
        same = [f"  {what}", _percent(row["share"]), _short(row["metric"])]
        lines.append(
            [
                *same,
                _cell_text(row),
                str(row["n"]),
                "-" if row["positives"] is None else str(row["positives"]),
                _number(row["chance"]),
                f"({notes.setdefault(row['reason'], len(notes) + 1)})" if row["reason"] else "",
            ]
        )
        if row["gain"] is not None or row.get("draws") is not None:
            if not gains or row["evaluation"] != gains[-1][0]:
                gains.append((row["evaluation"], [row["evaluation"]]))
            gain = _interval(row["gain"], row["gain_low"], row["gain_high"])
            gains.append((row["evaluation"], [*same, _number(row["floor"]), gain, _of_draws(row)]))
    text = _fitted([head, *lines], fixed=3)
    text += [line for reason, number in notes.items() for line in _wrapped(f"({number}) {reason}")]
    if gains:
        head = ["task", "labels", "metric", "floor", "gain over floor", "draws of the labels"]
        text += ["", *_fitted([head, *(line for _, line in gains)], fixed=3)]
    return text


def _by_share(rows: Sequence[Json], result: Json) -> list[str]:
    """A line an evaluation and metric under its question, a column a share of the training labels; reasons stand below."""
    shares = [share for share in result["labels_share"] if any(row["share"] == share for row in rows)]
    head = ["task", "metric", "chance", *(f"{_percent(share)} labels" for share in shares)]
    found = {(row["evaluation"], row["task"], row["metric"], row["share"]): row for row in rows}
    lines: list[list[str]] = []
    for asked in dict.fromkeys(row["task"] for row in rows):
        most = max(row["n"] for row in rows if row["task"] == asked)
        lines.append([f"{_title(result, asked)} (n {most})"])
        for evaluation, task, metric in dict.fromkeys(key[:3] for key in found):
            if task != asked:
                continue
            cells = [found.get((evaluation, task, metric, share)) for share in shares]
            chances = {_number(row["chance"]) for row in cells if row is not None and row["chance"] is not None}
            chance = next(iter(chances)) if len(chances) == 1 else "-"
            lines.append([f"  {evaluation}", _short(metric), chance, *(_cell_text(row) for row in cells)])
            if any(braces := [_braces(row) for row in cells]):
                lines.append(["", "", "", *braces])
    shown: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        if row["reason"]:
            where = shown.setdefault((_title(result, row["task"]), row["reason"]), {})
            at = where.setdefault(row["evaluation"], [])
            at += [share for share in [_percent(row["share"])] if share not in at]
    words = []
    for (task, reason), where in shown.items():
        listed = [f"{name} at {' and '.join(at)}" for name, at in where.items()]
        words.append(f"{task}: {reason} ({', '.join(listed)})")
    if some_draws := sorted({row["draws"] for row in rows if row.get("draws")}):
        number = " or ".join(map(str, some_draws))
        words.insert(0, f"Mean of {number} draws of the labels, in braces the least and the greatest of them.")
    return [*_fitted([head, *lines], fixed=3), *(line for word in words for line in _wrapped(word))]


def _of_echo(rows: Sequence[Json], result: Json) -> list[str]:
    """ECGs and studies asking for each other: a line for the run, chance and the oracle; a column a metric."""
    parts = [[f"{row['evaluation']}: {row['reason']}" for row in rows if not row["task"]]]
    found = {(row["evaluation"], row["task"], row["metric"]): row for row in rows}
    for direction, words in DIRECTIONS.items():
        here = [row for row in rows if row["task"].startswith(f"{direction}.")]
        if here:
            parts.append(_of_direction(here, found, words, result))
    return [line for number, part in enumerate(filter(None, parts)) for line in (*([""] if number else []), *part)]


def _of_direction(rows: Sequence[Json], found: Mapping[tuple[str, str, str], Json], direction: str, result: Json) -> list[str]:
    """One of the two."""
    lines: list[list[str]] = []
    metrics = list(dict.fromkeys(row["metric"].replace("recall", "precision") for row in rows))
    depths = [metric for metric in metrics if metric.startswith("precision_at_")]
    ranks = [metric for metric in metrics if metric.endswith("_rank")]
    sizes = []
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    notes: dict[tuple[str, str], list[str]] = {}
    for task in tasks:
        own = task.endswith(".own")
        asked = [*(metric.replace("precision", "recall") if own else metric for metric in depths), *ranks]
        here = [found.get((ECHO, task, metric)) for metric in asked]
        some = [row for row in rows if row["task"] == task]
        title = _title(result, task).removeprefix(f"{direction}: ") + (" (R@k)" if own else "")
        for row in some:
            if row["reason"] and row["evaluation"] == ECHO:
                notes.setdefault((_metric(row["metric"].replace("recall", "precision")), row["reason"]), []).append(title)
        sizes.append(_gallery(task, found, result))
        lines.append([title, "run", str(some[0]["n"]), *(_ranked_text(row) for row in here)])
        for name, key in (("chance", "chance"), ("oracle", "value")):
            told = here if name == "chance" else [found.get((f"{ECHO}.oracle", task, metric)) for metric in asked]
            if any(row is not None and row[key] is not None for row in told):
                lines.append(["", name, "", *("-" if row is None else _decimals(row[key], row["metric"]) for row in told)])
    known = sorted({size for size in sizes if size is not None})
    among = f" (of {known[0]}{f' to {known[-1]}' if len(known) > 1 else ''})" if known else ""
    titles = [f"{_metric(metric)}{among if metric == 'mean_rank' else ''}" for metric in (*depths, *ranks)]
    words = []
    for (metric, reason), where in notes.items():
        some_alone = "" if len(where) == len(tasks) > 1 else f" ({', '.join(where)})"
        words.append(f"{metric}: {reason}{some_alone}")
    head = [direction, "", "queries", *titles]
    return [*_fitted([head, *lines], fixed=3), *(line for word in words for line in _wrapped(word))]


def _gallery(task: str, found: Mapping[tuple[str, str, str], Json], result: Json) -> int | None:
    """How many there are to find: what asks the other way round, and every study for one's own."""
    direction, _, what = task.partition(".")
    if task == "ecg_to_study.own":
        studies: int | None = result["data"].get("studies", {}).get("studies")
        return studies
    back = {"ecg_to_study": "study_to_ecg", "study_to_ecg": "ecg_to_study"}[direction]
    return next((row["n"] for key, row in found.items() if key[:2] == (ECHO, f"{back}.{what}")), None)


def compare(files: Sequence[tuple[str, Path]]) -> str:
    """(title, metrics.json) of runs judged on the same ECGs -> one table by run, and what each run gains over the one before it.

    The first line is the floor; a supervised run stands with what it predicts by itself, under all labels.
    """
    if not files:
        raise UsageError("there is nothing to compare; give the metrics.json of at least one run.")
    results = [(title, _read(path)) for title, path in files]
    first = results[0][1]
    cells, silent = _told(_cells(first), results)
    head = ["AUROC [95 % CI]", "steps", *(cell.title for cell in cells)]
    floors = ["floor (random encoder)", "0", *(_cell_text(_find(first, "floor", cell)) for cell in cells)]
    lines = [floors]
    for title, result in results:
        found = [_find(result, cell.evaluation_in(result), cell) for cell in cells]
        lines.append([title, str(result["run"]["steps"]), *(_cell_text(row) for row in found)])
    simulated = any(result["data"]["simulated"] for _, result in results)
    counts = first["data"]["counts"]["test"]
    positives = ", ".join(f"{first['tasks'][name]}: {pos} of {n}" for name, (pos, n) in _positives(first).items())
    same = len({result["data"]["cohort_sha256"] for _, result in results}) == 1
    scores = [_predictions(path) for _, path in files] if same else []
    text = [
        f"{SIMULATED if simulated else ''}Test split: {counts['ecgs']} ECGs of {counts['subjects']} subjects; "
        f"positives {positives}; chance {_chances(first, cells)}",
        "",
        *_aligned([head, *lines]),
        *([f"No run has a number for: {', '.join(silent)}."] if silent else []),
        "",
        _levels(results),
    ]
    text += _gains(scores, results, cells) if same else [NOT_SAME]
    for heading, more in (("nearest neighbours", _neighbour_cells(results)), ("several classes", _class_cells(results))):
        if more:
            floors = [_cell_text(_find(first, cell.floor, cell)) for cell in more]
            text += ["", *_block(f"{heading}, AUROC", more, {"floor (random encoder)": floors}, results, scores)]
    if more := _echo_cells(results):
        shown = next(result for _, result in results if "studies" in result["data"])
        known = [_find(shown, cell.evaluation, cell) for cell in more]
        best = [_find(shown, f"{ECHO}.oracle", cell) for cell in more]
        marks = {
            "chance": ["-" if row is None else _number(row["chance"]) for row in known],
            "oracle": ["-" if row is None else _number(row["value"]) for row in best],
        }
        galleries = {result["data"]["studies"]["sha256"] for _, result in results if "studies" in result["data"]}
        text += ["", *_block("ECG and echo study", more, marks, results, scores if len(galleries) == 1 else [])]
        if len(galleries) > 1:
            text.append("These runs were not judged on the same echo studies, so they are not set against each other.")
    return "\n".join(text)


NOT_SAME = "These runs were not judged on the same ECGs, so they are not set against each other."


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


# Runs side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A column of the comparison."""

    evaluation: str
    task: str
    metric: str
    share: float | None
    title: str

    @property
    def floor(self) -> str:
        """The evaluation that is this one's floor."""
        return "floor.knn" if self.evaluation == "knn" else "floor"

    def evaluation_in(self, result: Json) -> str:
        """What stands in this column for a run: a supervised run's own predictions where it has all labels."""
        if result["run"]["method"] == "supervised" and self.evaluation == "linear_probe":
            return "supervised" if self.share == 1.0 else "nothing"
        return self.evaluation


def _told(cells: Sequence[Cell], results: Sequence[tuple[str, Json]]) -> tuple[list[Cell], list[str]]:
    """The columns of questions that some run has a number for, and the titles of the others."""

    def has(cell: Cell) -> bool:
        rows = [_find(result, cell.evaluation_in(result), cell) for _, result in results]
        return any(row is not None and row["value"] is not None for row in rows)

    known = {cell.task for cell in cells if has(cell)}
    titles: dict[str, str] = {name: title for _, result in results for name, title in result["tasks"].items()}
    silent = dict.fromkeys(titles.get(cell.task, cell.title) for cell in cells if cell.task not in known)
    return [cell for cell in cells if cell.task in known], list(silent)


def _cells(result: Json) -> list[Cell]:
    cells = []
    for task, title in result["tasks"].items():
        cells.append(Cell(evaluation="zero_shot", task=task, metric="auroc", share=None, title=f"{title}: zero-shot"))
        cells += [
            Cell(evaluation="linear_probe", task=task, metric="auroc", share=share, title=f"{_percent(share)} labels")
            for share in result["labels_share"]
        ]
    if any(row["evaluation"] == "retrieval" for row in result["rows"]):
        cells += [
            Cell(evaluation="retrieval", task="text_to_ecg", metric=f"recall_at_{k}", share=None, title=f"text to ECG R@{k}")
            for k in (1, 10)
        ]
    return cells


def _block(
    heading: str,
    cells: Sequence[Cell],
    marks: Mapping[str, Sequence[str]],
    results: Sequence[tuple[str, Json]],
    scores: Sequence[Predictions],
) -> list[str]:
    """A line a cell; a column a mark, a run, and what a run gains over the one before it."""
    columns = [[heading, *(cell.title for cell in cells)], *([name, *texts] for name, texts in marks.items())]
    for title, result in results:
        columns.append([title, *(_cell_text(_find(result, cell.evaluation, cell)) for cell in cells)])
    for k in range(1, len(scores)):
        keys = [(cell.evaluation, cell.task, cell.metric, cell.share) for cell in cells]
        gains = [
            _gain_text(scores[k].get(key), scores[k - 1].get(key), cell, results[k][1])
            for key, cell in zip(keys, cells, strict=True)
        ]
        if set(gains) != {"-"}:
            columns.append([f"{results[k][0]} minus {results[k - 1][0]}, paired", *gains])
    return _aligned(list(zip(*columns, strict=True)))


def _neighbour_cells(results: Sequence[tuple[str, Json]]) -> list[Cell]:
    first = results[0][1]
    cells = [
        Cell(evaluation="knn", task=task, metric="auroc", share=share, title=f"{title}, {_percent(share)}")
        for task, title in first["tasks"].items()
        for share in first["labels_share"]
    ]
    return _judged(results, cells)


def _class_cells(results: Sequence[tuple[str, Json]]) -> list[Cell]:
    first = results[0][1]
    names = {"linear_probe": "linear probe", "knn": "neighbours"}
    cells = [
        Cell(evaluation=name, task=task, metric="macro_auroc", share=share, title=f"{about['title']}, {shown}, {_percent(share)}")
        for task, about in first.get("classes", {}).items()
        for name, shown in names.items()
        for share in first["labels_share"]
    ]
    return _judged(results, cells)


def _echo_cells(results: Sequence[tuple[str, Json]]) -> list[Cell]:
    rows = [row for _, result in results for row in result["rows"] if row["evaluation"] == ECHO and row["value"] is not None]
    wanted = dict.fromkeys((row["task"], row["metric"]) for row in rows if row["metric"] in ("precision_at_1", "recall_at_1"))
    known = next((result for _, result in results if "studies" in result["data"]), results[0][1])
    return [
        Cell(evaluation=ECHO, task=task, metric=metric, share=None, title=f"{_title(known, task)} {METRICS[metric]}")
        for task, metric in wanted
    ]


def _judged(results: Sequence[tuple[str, Json]], cells: Sequence[Cell]) -> list[Cell]:
    """Those that some run has a number in."""
    return [
        cell for cell in cells if any((row := _find(r, cell.evaluation, cell)) and row["value"] is not None for _, r in results)
    ]


def _find(result: Json, evaluation: str, cell: Cell) -> Json | None:
    wanted = {"evaluation": evaluation, "task": cell.task, "metric": cell.metric, "share": cell.share, "subset": "all"}
    return next((row for row in result["rows"] if all(row[k] == v for k, v in wanted.items())), None)


def _gains(scores: Sequence[Predictions], results: Sequence[tuple[str, Json]], cells: Sequence[Cell]) -> list[str]:
    """What each run gains over the one before it, on the same ECGs and the same resamples."""
    lines = [["gain [95 % CI], paired by ECG", *(cell.title for cell in cells)]]
    for k in range(1, len(results)):
        line = [f"{results[k][0]} minus {results[k - 1][0]}"]
        for cell in cells:
            pair = [scores[i].get(_key(results[i][1], cell)) for i in (k, k - 1)]
            line.append(_gain_text(pair[0], pair[1], cell, results[k][1]))
        lines.append(line)
    if len(lines) == 1 or all(cell == "-" for line in lines[1:] for cell in line[1:]):
        return []
    return ["", *_aligned(lines)]


def _key(result: Json, cell: Cell) -> tuple[str, str, str, float | None]:
    return cell.evaluation_in(result), cell.task, cell.metric, cell.share


def _gain_text(first: Scores | None, second: Scores | None, cell: Cell, result: Json) -> str:
    if first is None or second is None or first.ecg_id != second.ecg_id:
        return "-"
    statistics = [_statistic(scores, cell.metric) for scores in (first, second)]
    found = stats.bootstrap(
        stats.difference(statistics[0], statistics[1]), first.subject, resamples=result["bootstraps"], seed=result["seed"]
    )
    return _interval(found.value, found.low, found.high)


def _statistic(scores: Scores, metric: str) -> stats.Statistic:
    if metric == "auroc":
        return stats.average([stats.auroc_of(scores.y, draw) for draw in scores.scores])
    if metric == "macro_auroc":
        draws = scores.scores.reshape(-1, scores.classes, len(scores.y))
        return stats.average([stats.macro_auroc_of(scores.y, draw) for draw in draws])
    return stats.average([stats.mean_of(draw) for draw in scores.scores])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one evaluation said of each ECG."""

    ecg_id: tuple[str, ...]
    subject: I64
    y: I64
    scores: stats.F64
    """(draws, n), or (draws * classes, n)."""
    classes: int
    """0 where the question has two answers."""


Predictions = dict[tuple[str, str, str, float | None], Scores]


def _predictions(path: Path) -> Predictions:
    """The predictions beside a metrics.json; empty where they were removed."""
    place = path.with_name(PREDICTIONS if path.name == "metrics.json" else f"{path.stem}.{PREDICTIONS}")
    if not place.is_file():
        return {}
    whole = pq.read_table(place)
    columns = ("evaluation", "task", "metric", "share")
    codes = [pc.dictionary_encode(whole[c].combine_chunks(), null_encoding="encode") for c in columns]
    changes = np.zeros(whole.num_rows, bool)
    for code in codes:
        number = code.indices.to_numpy(zero_copy_only=False)
        changes[1:] |= number[1:] != number[:-1]
    starts = np.r_[0, np.flatnonzero(changes)]
    result = {}
    for start, end in zip(starts, np.r_[starts[1:], whole.num_rows], strict=True):
        part = whole.slice(start, end - start)
        classes = pc.max(part["class"]).as_py() + 1 if "class" in part.column_names else 0
        lines = len(pc.unique(part["draw"])) * max(classes, 1)
        n = part.num_rows // lines
        evaluation, task, metric, share = (part[c][0].as_py() for c in columns)
        result[evaluation, task, metric, share] = Scores(
            ecg_id=tuple(part["ecg_id"][:n].to_pylist()),
            subject=part["subject"][:n].to_numpy(),
            y=part["y"][:n].to_numpy().astype(np.int64),
            scores=part["score"].to_numpy().reshape(lines, n),
            classes=classes,
        )
    return result


def _read(path: Path) -> Json:
    try:
        result: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}.") from error
    if result.get("schema") != SCHEMA or result.get("version") != VERSION:
        raise UserError(f"{path} is no metrics.json of version {VERSION}; make it again with `ecgecho eval RUN`.")
    return result


def _metric(name: str) -> str:
    return METRICS.get(name, name)


def _short(name: str) -> str:
    return _metric(name).replace("balanced", "bal.")


def _title(result: Json, task: str) -> str:
    """As printed."""
    if task in result["tasks"]:
        return str(result["tasks"][task])
    if task in result.get("classes", {}):
        return str(result["classes"][task]["title"])
    direction, _, what = task.partition(".")
    if direction in DIRECTIONS:
        about = result["data"].get("studies", {}).get("phenotypes", {}).get(what, {"title": what})
        return f"{DIRECTIONS[direction]}: {about['title']}"
    return task.replace("_", " ")


def _braces(row: Json | None) -> str:
    return "" if row is None or row.get("draws") is None else f"{{{row['draws_low']:.2f}, {row['draws_high']:.2f}}}"


def _of_draws(row: Json) -> str:
    return "-" if row.get("draws") is None else f"{row['draws']} draws: {row['draws_low']:.2f} to {row['draws_high']:.2f}"


def _ranked_text(row: Json | None) -> str:
    if row is None or row["value"] is None:
        return "-"
    text = _decimals(row["value"], row["metric"])
    if row["low"] is None:
        return text
    return f"{text} [{_decimals(row['low'], row['metric'], 2)}, {_decimals(row['high'], row['metric'], 2)}]"


def _decimals(value: float | None, metric: str, places: int = 3) -> str:
    """Ranks with one place."""
    if value is None:
        return "-"
    return f"{value:.1f}" if metric.endswith("_rank") else f"{value:.{places}f}"


def _positives(result: Json) -> dict[str, tuple[int, int]]:
    return {name: (found[0], found[1]) for name, found in result["data"]["counts"]["test"]["tasks"].items()}


def _chances(result: Json, cells: Sequence[Cell]) -> str:
    recalls = [(cell, _find(result, "retrieval", cell)) for cell in cells if cell.evaluation == "retrieval"]
    known = [
        f"{METRICS[c.metric]} {_number(row['chance'])}" for c, row in recalls if row is not None and row["chance"] is not None
    ]
    return ", ".join(["AUROC 0.500", *known])


def _levels(results: Sequence[tuple[str, Json]]) -> str:
    still = [title for title, result in results if result["run"]["levelled_off"] is False]
    unknown = [title for title, result in results if result["run"]["levelled_off"] is None]
    known = [title for title, result in results if result["run"]["levelled_off"]]
    steps = {result["run"]["steps"] for _, result in results}
    parts = [
        f"All were trained for {steps.pop()} steps." if len(steps) == 1 else "They were trained for different numbers of steps."
    ]
    if known:
        parts.append(f"Levelled off (validation loss, last fifth): {', '.join(known)}.")
    if still:
        parts.append(f"NOT levelled off: {', '.join(still)}.")
    if unknown:
        parts.append(f"Too few points to say: {', '.join(unknown)}.")
    return " ".join(parts)


def _levelled(run: Json) -> str:
    return {True: ", levelled off", False: ", NOT levelled off", None: ""}[run["levelled_off"]]


def _cell_text(row: Json | None) -> str:
    return "-" if row is None else _interval(row["value"], row["low"], row["high"], signed=False)


def _interval(value: float | None, low: float | None, high: float | None, *, signed: bool = True) -> str:
    if value is None:
        return "-"
    sign = "+" if signed else ""
    if low is None or high is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:g} %"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The first line is the head; a line of one cell heads those below it."""
    full = [line for line in lines if len(line) > 1]
    widths = [max(len(line[k]) for line in full) for k in range(len(full[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines]
    return [text[0], "  ".join("-" * width for width in widths if width), *text[1:]]


def _fitted(lines: Sequence[Sequence[str]], *, fixed: int) -> list[str]:
    """Aligned; columns beyond `WIDTH` go on below, beside the first `fixed` again."""
    end = len(lines[0])
    while end > fixed + 1 and max(map(len, _aligned([line[:end] for line in lines]))) > WIDTH:
        end -= 1
    text = _aligned([line[:end] for line in lines])
    if end < len(lines[0]):
        rest = [line if len(line) == 1 else [*line[:fixed], *line[end:]] for line in lines]
        kept = [line for line in rest if len(line) == 1 or any(cell not in ("", "-") for cell in line[fixed:])]
        text += ["", *_fitted(kept, fixed=fixed)]
    return text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
