"""Read the sample logs of lm-evaluation-harness and inspect as results that can be compared.

lm-evaluation-harness writes ``samples_TASK_DATE.jsonl`` for each task and ``results_DATE.json`` in
one folder. inspect writes one log per evaluation: a zip file (``.eval``) or JSON.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError
from tunesmith.events import JSON, TUNED, Measured
from tunesmith_evidence.comparison import RunResults

INSPECT_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""inspect's letters: correct, partially correct, incorrect, no answer."""
OUR_NAMES = {"exact": "exact-match"}
"""Metrics that have another name here."""
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class LoggedTask:
    """The rows of one task with the values of all metrics."""

    name: str
    version: str
    rows: Sequence[JSON]
    """Rows in the format of a run's results."""
    metrics: Mapping[str, bool]
    """For each metric, whether higher is better."""


@dataclass(frozen=True)
class SampleLog:
    """A log of another program."""

    path: Path
    model: str
    tasks: Sequence[LoggedTask]

    def to_results(self) -> RunResults:
        """Return the log as results of a run, to compare it with another log."""
        found = [
            _measure(task.name, metric, higher, task.rows, task.version)
            for task in self.tasks
            for metric, higher in task.metrics.items()
        ]
        return RunResults.of_rows(self.path, {"model": {"base": self.model}}, found)

    def match(self, run: RunResults) -> RunResults:
        """Return the log's rows that are test rows of a run, by the metrics that both have.

        Raises:
            UsageError: they have no metric or no row in common.
        """
        names = {OUR_NAMES.get(m, m.replace("_", "-")): m for t in self.tasks for m in t.metrics}
        found = []
        for (evaluator, metric), event in run.measured.items():
            ours = run.rows(evaluator, metric).values() if metric in names else ()
            if rows := [*self._match_rows(names.get(metric, ""), metric, [*ours])]:
                found.append(_measure(evaluator, metric, event.higher_is_better, rows))
        if not found:
            metrics = ", ".join(dict.fromkeys(metric for _, metric in run.measured))
            raise UsageError(
                f"{run.folder} and {self.path} have no test row with the same metric in common",
                hint="a row matches if its prompt and expected answer are in the log; the run's "
                f"metrics are {metrics}, those of the log are {', '.join(names)}",
            )
        return RunResults.of_rows(self.path, {**run.plan, "model": {"base": self.model}}, found)

    def _match_rows(self, logged: str, metric: str, ours: Sequence[JSON]) -> Iterator[JSON]:
        """Yield the run's rows with the values and answers of the log."""
        waiting = defaultdict(list)
        for row in (row for task in self.tasks for row in task.rows if logged in row):
            for text in _list_texts(row):
                waiting[text, row["expected"].strip()].append(row)
        for row in ours:
            text = str(row["prompt"][-1][1]) if row.get("prompt") else ""
            if same := waiting[text.strip(), str(row.get("expected")).strip()]:
                value = {"value": same[0][logged]["value"], "weight": row[metric]["weight"]}
                yield {**row, "output": same.pop(0)["output"], metric: value}


def is_sample_log(path: Path) -> bool:
    """Return True for a file that may be a log of another program."""
    return path.suffix in (".eval", ".json", ".jsonl") and path.is_file()


def read_sample_log(path: Path) -> SampleLog:
    """Read a log.

    Raises:
        UsageError: the file cannot be read, or is not such a log.
    """
    is_lm_eval = path.name.startswith(("samples_", "results_"))
    try:
        log = _read_lm_eval(path) if is_lm_eval else _read_inspect(path)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except DAMAGED as error:
        raise UsageError(
            f"{path}: is not a sample log: {type(error).__name__}: {error}",
            hint="give samples_TASK_DATE.jsonl or results_DATE.json of `lm_eval --log_samples`, or "
            "a log of inspect (.eval or .json)",
        ) from None
    if not any(task.metrics for task in log.tasks):
        raise UsageError(f"{path}: the log has no metric that is a mean over its rows")
    return log


def _read_lm_eval(path: Path) -> SampleLog:
    """Read one task's samples, or those of all tasks beside a file of results."""
    date = path.stem.rpartition("_")[2]
    results = json.loads((path.parent / f"results_{date}.json").read_text(encoding="utf-8"))
    files = {name: path.parent / f"samples_{name}_{date}.jsonl" for name in results["results"]}
    is_all = path.name.startswith("results_")
    tasks = [
        _read_lm_eval_task(name, file, results)
        for name, file in files.items()
        if file == path or (is_all and file.is_file())
    ]
    return SampleLog(path, str(results["model_name"]), tasks)


def _read_lm_eval_task(name: str, file: Path, results: JSON) -> LoggedTask:
    """Read the rows of a task: one line for each row and filter."""
    rows: dict[int, JSON] = {}
    metrics: dict[str, bool] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        answer, number = sample["filtered_resps"][0], sample["doc_id"]
        # The document identifies the row, because models may render its prompt differently.
        document = json.dumps(sample["doc"], ensure_ascii=False, sort_keys=True)
        row = rows.setdefault(
            number, {"source": f"{name}:{number}", "prompt": [["user", document]]}
        )
        row |= {"expected": _to_text(sample["target"]), "output": _to_text(answer)}
        for metric in sample["metrics"]:
            label = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            if isinstance(sample[metric], int | float):
                row[label] = {"value": float(sample[metric]), "weight": 1.0}
                metrics[label] = results["higher_is_better"][name].get(metric) is not False
    for label in (*metrics,):
        total = results["results"][name][label if "," in label else f"{label},none"]
        # The harness may combine rows in another way, such as the corpus BLEU.
        if not math.isclose(_mean(rows.values(), label), total, abs_tol=1e-9):
            del metrics[label]
    return LoggedTask(name, str(results["versions"].get(name, "")), [*rows.values()], metrics)


def _read_inspect(path: Path) -> SampleLog:
    """Read a log; the epochs of a sample are averaged, as in inspect."""
    if path.suffix == ".eval":
        header, samples = _read_archive(path)
    else:
        header = json.loads(path.read_text(encoding="utf-8"))
        samples = header["samples"]
    epochs: dict[Any, list[JSON]] = defaultdict(list)
    for sample in samples:
        epochs[sample["id"]].append(sample)
    rows = [_read_inspect_row(name, group) for name, group in epochs.items()]
    scorers = {scorer for sample in samples for scorer in sample["scores"]}
    metrics = {name: True for name in sorted(scorers) if any(name in row for row in rows)}
    facts = header["eval"]
    task = LoggedTask(str(facts["task"]), str(facts["task_version"]), rows, metrics)
    return SampleLog(path, str(facts["model"]), [task])


def _read_archive(path: Path) -> tuple[JSON, list[JSON]]:
    """Read a zip log, which is compressed with Zstandard.

    Raises:
        UsageError: this Python cannot decompress it.
    """
    library: Any = zipfile
    if sys.version_info < (3, 14):
        try:
            library = importlib.import_module("backports.zstd.zipfile")
        except ImportError:
            raise UsageError(
                f"{path}: Zstandard is needed to read this log",
                hint='pip install "tunesmith[logs]"',
            ) from None
    try:
        with library.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith("samples/")]
            header, *samples = (json.loads(archive.read(name)) for name in ("header.json", *names))
    except library.BadZipFile as error:
        raise ValueError(str(error)) from None
    return header, samples


def _read_inspect_row(name: str, epochs: Sequence[JSON]) -> JSON:
    sample, given = epochs[0], epochs[0]["input"]
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
    values: dict[str, list[float]] = defaultdict(list)
    for scorer, score in (item for epoch in epochs for item in epoch["scores"].items()):
        value = score["value"]
        value = INSPECT_VALUES.get(value) if isinstance(value, str) else value
        if isinstance(value, int | float):
            values[scorer].append(float(value))
    return {
        "source": f"sample {name}",
        "prompt": [[turn["role"], _to_text(turn["content"])] for turn in turns],
        "expected": _to_text(sample["target"]),
        "output": str(sample["output"]["completion"]),
        **{k: {"value": math.fsum(v) / len(v), "weight": 1.0} for k, v in values.items()},
    }


def _list_texts(row: JSON) -> Iterator[str]:
    """Yield the texts of a logged row that may be the prompt of a run's row."""
    text = row["prompt"][-1][1]
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    values = [*document.values()] if isinstance(document, dict) else [text]
    yield from (value.strip() for value in values if isinstance(value, str))


def _measure(
    evaluator: str, metric: str, higher: bool, rows: Sequence[JSON], version: str = ""
) -> tuple[Measured, list[JSON]]:
    """Return the event of a metric and the rows that have it; shares are known by their values."""
    rows = [row for row in rows if metric in row]
    is_share = all(0 <= row[metric]["value"] <= 1 for row in rows)
    low, high = (0.0, 1.0) if is_share else (-math.inf, math.inf)
    event = Measured(
        model=TUNED, evaluator=evaluator, metric=metric, value=_mean(rows, metric), low=low,
        high=high, n=len(rows), higher_is_better=higher, seconds=0.0, records="", lowest=low,
        highest=high, version=version,
    )  # fmt: skip
    return event, rows


def _mean(rows: Iterable[JSON], metric: str) -> float:
    values = [row[metric]["value"] for row in rows if metric in row]
    return math.fsum(values) / len(values)


def _to_text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
