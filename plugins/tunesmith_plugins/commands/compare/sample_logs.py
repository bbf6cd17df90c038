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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tunesmith.errors import UsageError
from tunesmith.events import JSON, TUNED, Measured
from tunesmith_evidence.comparison import RunResults

INSPECT_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Scores of inspect's letters: correct, partially correct, incorrect, no answer."""
OUR_NAMES = {"exact": "exact-match"}
"""Names of metrics in runs, by their name in a log; other metrics have the same name."""
Column: TypeAlias = tuple[Measured, Sequence[JSON]]
"""A metric, and the rows with its values in the format of a run's results."""
DAMAGED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


def is_sample_log(path: Path) -> bool:
    """Return True for a file that may be a log of another program."""
    return path.suffix in (".eval", ".json", ".jsonl") and path.is_file()


def read_sample_log(path: Path) -> RunResults:
    """Read a sample log as if it were the results of a run.

    Raises:
        UsageError: the file cannot be read, or is not such a log.
    """
    is_lm_eval = path.name.startswith(("samples_", "results_"))
    try:
        model, columns = _read_lm_eval(path) if is_lm_eval else _read_inspect(path)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except DAMAGED as error:
        raise UsageError(
            f"{path}: is not a sample log: {type(error).__name__}: {error}",
            hint="give samples_TASK_DATE.jsonl or results_DATE.json of `lm_eval --log_samples`, or "
            "an inspect log (.eval or .json)",
        ) from None
    if not columns:
        raise UsageError(
            f"{path}: the log has no metric that is a mean over its rows",
            hint="use a log with a metric that has one value per row",
        )
    return RunResults.of_rows(path, {"model": {"base": model}}, columns)


def match_run(log: RunResults, run: RunResults) -> RunResults:
    """Return the log's rows that are test rows of a run, by the metrics that both have.

    Raises:
        UsageError: they have no test row with the same metric in common.
    """
    names = {key: OUR_NAMES.get(key[1], key[1].replace("_", "-")) for key in log.measured}
    columns = []
    for (evaluator, metric), event in run.measured.items():
        logged = defaultdict(list)
        for task, name in (key for key, ours in names.items() if ours == metric):
            for row in log.rows(task, name).values():
                for text in _list_texts(row):
                    logged[text, row["expected"].strip()].append((row["output"], row[name]))
        rows = []
        for row in run.rows(evaluator, metric).values():
            text = str(row["prompt"][-1][1]) if row.get("prompt") else ""
            if same := logged[text.strip(), str(row.get("expected")).strip()]:
                output, value = same.pop(0)
                rows.append({**row, "output": output, metric: {**row[metric], **value}})
        if rows:
            columns.append(_make_column(evaluator, metric, event.higher_is_better, rows))
    if not columns:
        metrics = ", ".join(dict.fromkeys(metric for _, metric in run.measured))
        raise UsageError(
            f"{run.folder} and {log.folder} have no test row with the same metric in common",
            hint="a row matches if its prompt and expected answer are in the log; the run's "
            f"metrics are {metrics}, those of the log are {', '.join(names.values())}",
        )
    return RunResults.of_rows(log.folder, {**run.plan, **log.plan}, columns)


def _read_lm_eval(path: Path) -> tuple[str, list[Column]]:
    """Read the samples of a task or, given a results file, of all tasks in it."""
    date = path.stem.rpartition("_")[2]
    results = json.loads((path.parent / f"results_{date}.json").read_text(encoding="utf-8"))
    files = {name: path.parent / f"samples_{name}_{date}.jsonl" for name in results["results"]}
    is_all = path.name.startswith("results_")
    columns = [
        column
        for name, file in files.items()
        if file == path or (is_all and file.is_file())
        for column in _read_lm_eval_task(name, file, results)
    ]
    return str(results["model_name"]), columns


def _read_lm_eval_task(name: str, file: Path, results: JSON) -> Iterator[Column]:
    """Yield the metrics of a task, whose file has one line for each row and filter."""
    rows: dict[int, JSON] = {}
    labels: dict[str, bool] = {}
    for line in file.read_text(encoding="utf-8").strip().split("\n"):
        sample = json.loads(line)
        answer, number = sample["filtered_resps"][0], sample["doc_id"]
        # The document identifies the row, because models may render its prompt differently.
        document = json.dumps(sample["doc"], ensure_ascii=False, sort_keys=True)
        row = rows.setdefault(
            number, {"source": f"{name}:{number}", "prompt": [["user", document]]}
        )
        row |= {"expected": _to_text(sample["target"]), "output": _to_text(answer)}
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                label = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                row[label] = {"value": float(sample[metric]), "weight": 1.0}
                labels[label] = results["higher_is_better"][name].get(metric) is not False
    for label, higher in labels.items():
        version = str(results["versions"].get(name, ""))
        column = _make_column(name, label, higher, rows.values(), version)
        total = results["results"][name][label if "," in label else f"{label},none"]
        # The harness may combine rows in another way, such as the corpus BLEU.
        if math.isclose(column[0].value, total, abs_tol=1e-9):
            yield column


def _read_inspect(path: Path) -> tuple[str, list[Column]]:
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
    scorers = dict.fromkeys(scorer for sample in samples for scorer in sample["scores"])
    task, version = str(header["eval"]["task"]), str(header["eval"]["task_version"])
    columns = [
        _make_column(task, scorer, True, rows, version)
        for scorer in scorers
        if any(scorer in row for row in rows)
    ]
    return str(header["eval"]["model"]), columns


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
                hint='run `pip install "tunesmith[logs]"`',
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


def _make_column(
    evaluator: str, metric: str, higher: bool, given: Iterable[JSON], version: str = ""
) -> Column:
    """Return a metric's event and rows. Its bounds are 0 and 1 if all values are between them."""
    rows = [row for row in given if metric in row]
    values = [row[metric]["value"] for row in rows]
    low, high = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else (-math.inf, math.inf)
    event = Measured(
        model=TUNED, evaluator=evaluator, metric=metric, value=math.fsum(values) / len(values),
        low=low, high=high, n=len(rows), higher_is_better=higher, seconds=0.0, records="",
        lowest=low, highest=high, version=version,
    )  # fmt: skip
    return event, rows


def _to_text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
