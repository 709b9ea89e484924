"""The results of judged runs as text: the table of one run, and runs side by side with what each gains over the one before it.

Source: `metrics.json` and the `predictions.parquet` beside it, as evaluate.py writes them. Gains are paired: both runs are scored
on the same ECGs and the same resamples of subjects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgecho import stats
from ecgecho.types import I64, Json, UsageError, UserError

# What evaluate.py writes. Said again here because a report imports no story; a test holds the two against each other.
SCHEMA = "ecgecho.metrics"
VERSION = 1
PREDICTIONS = "predictions.parquet"
ORDER = ("zero_shot", "linear_probe", "fine_tune", "supervised", "floor", "retrieval", "uncertainty")
SIMULATED = "SIMULATED cohort, no real person. "
METRICS = {
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "recall_at_1": "R@1",
    "recall_at_10": "R@10",
}


def table(result: Json) -> str:
    """The numbers of one run as text. Average precision is in metrics.json only."""
    run, data = result["run"], result["data"]
    head = ["evaluation", "task", "labels", "metric", "value", "95 % CI", "n", "positives", "chance", "floor", "gain over floor"]
    lines = []
    for row in sorted(result["rows"], key=lambda row: _place(row["evaluation"].partition(".")[0])):
        if row["metric"] == "average_precision":
            continue
        name = row["evaluation"] if row["subset"] == "all" else f"{row['evaluation']}, {row['subset']}"
        gain = _interval(row["gain"], row["gain_low"], row["gain_high"])
        lines.append(
            [
                name,
                result["tasks"].get(row["task"], row["task"].replace("_", " ")),
                _percent(row["share"]),
                METRICS.get(row["metric"], row["metric"]),
                _number(row["value"]),
                "-" if row["low"] is None else f"[{row['low']:.2f}, {row['high']:.2f}]",
                str(row["n"]),
                "-" if row["positives"] is None else str(row["positives"]),
                _number(row["chance"]),
                _number(row["floor"]),
                gain if not row["reason"] else f"{gain if gain != '-' else ''} ({row['reason']})".strip(),
            ]
        )
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
    return "\n".join([*opening, "", *_aligned([head, *lines]), "", *closing])


def compare(files: Sequence[tuple[str, Path]]) -> str:
    """(title, metrics.json) of runs judged on the same ECGs -> one table by run, and what each run gains over the one before it.

    The first line is the floor; a supervised run stands with what it predicts by itself, under all labels.
    """
    if not files:
        raise UsageError("there is nothing to compare; give the metrics.json of at least one run.")
    results = [(title, _read(path)) for title, path in files]
    first = results[0][1]
    cells = _cells(first)
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
    text = [
        f"{SIMULATED if simulated else ''}Test split: {counts['ecgs']} ECGs of {counts['subjects']} subjects; "
        f"positives {positives}; chance {_chances(first, cells)}",
        "",
        *_aligned([head, *lines]),
        "",
        _levels(results),
    ]
    if not same:
        return "\n".join([*text, "These runs were not judged on the same ECGs, so they are not set against each other."])
    return "\n".join([*text, *_gains(files, results, cells)])


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

    def evaluation_in(self, result: Json) -> str:
        """What stands in this column for a run: a supervised run's own predictions where it has all labels."""
        if result["run"]["method"] == "supervised" and self.evaluation == "linear_probe":
            return "supervised" if self.share == 1.0 else "nothing"
        return self.evaluation


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


def _find(result: Json, evaluation: str, cell: Cell) -> Json | None:
    wanted = {"evaluation": evaluation, "task": cell.task, "metric": cell.metric, "share": cell.share, "subset": "all"}
    return next((row for row in result["rows"] if all(row[k] == v for k, v in wanted.items())), None)


def _gains(files: Sequence[tuple[str, Path]], results: Sequence[tuple[str, Json]], cells: Sequence[Cell]) -> list[str]:
    """What each run gains over the one before it, on the same ECGs and the same resamples."""
    scores = [_predictions(path) for _, path in files]
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
    return stats.average([stats.mean_of(draw) for draw in scores.scores])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one evaluation said of each ECG."""

    ecg_id: tuple[str, ...]
    subject: I64
    y: I64
    scores: stats.F64
    """(draws, n)."""


def _predictions(path: Path) -> dict[tuple[str, str, str, float | None], Scores]:
    """The predictions beside a metrics.json; empty where they were removed."""
    place = path.with_name(PREDICTIONS if path.name == "metrics.json" else f"{path.stem}.{PREDICTIONS}")
    if not place.is_file():
        return {}
    whole = pq.read_table(place)
    result = {}
    columns = ("evaluation", "task", "metric", "share")
    keys = list(zip(*(whole[c].to_pylist() for c in columns), strict=True))
    for key in dict.fromkeys(keys):
        part = whole.filter(pa.array([k == key for k in keys]))
        draws = len(pc.unique(part["draw"]))
        n = part.num_rows // draws
        result[key] = Scores(
            ecg_id=tuple(part["ecg_id"][:n].to_pylist()),
            subject=part["subject"][:n].to_numpy(),
            y=part["y"][:n].to_numpy().astype(np.int64),
            scores=part["score"].to_numpy().reshape(draws, n),
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
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [text[0], "  ".join("-" * width for width in widths), *text[1:]]
