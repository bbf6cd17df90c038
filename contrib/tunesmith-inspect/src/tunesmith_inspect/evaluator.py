"""The ``inspect`` evaluator: inspect asks and scores, the model of the run answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from inspect_ai import eval as evaluate
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import Model
from inspect_ai.scorer import Value, value_to_float

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import UsageError
from tunesmith.prepared import RowWise
from tunesmith.records import Completion, Record
from tunesmith.text import one_line
from tunesmith_inspect.offer import METRIC, InspectOptions
from tunesmith_inspect.text_model_api import PARALLEL, to_inspect_model

to_float = value_to_float()
LETTERS, WORDS = ("C", "I", "P", "N"), ("yes", "true", "no", "false")
"""Texts that inspect's metrics read as numbers."""
NUMBERS = "use a scorer that gives one number, or one of the letters C, I, P and N, per sample"


class Inspect(RowWise):
    """Measures a model on the samples of a task, with the scores of inspect."""

    def __init__(self, options: InspectOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value for each sample of the task; the run's records are not used.

        Raises:
            UsageError: there is no such task or scorer, or the task failed.
        """
        options = self.options
        log = run_task(options, to_inspect_model(model, options.max_new_tokens))
        rows = average_epochs(log.samples or [], options.scorer, options.task)
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(value for _, value in rows),
                outputs=tuple(sample.output.completion for sample, _ in rows),
                records=[to_record(log.eval.task, sample) for sample, _ in rows],
                details={"version": str(log.eval.task_version)},
            )
        ]


def run_task(options: InspectOptions, model: Model) -> EvalLog:
    """Return the log of a task.

    Raises:
        UsageError: there is no such task, or it failed.
    """
    file, colon, name = options.task.rpartition(":")
    task = f"{file}@{name}" if colon else options.task
    try:
        logs = evaluate(
            task,
            model=model,
            limit=options.limit,
            log_dir=options.log_dir,
            display="none",
            max_samples=PARALLEL,
        )
    except Exception as error:  # tasks are code
        text = f"the task cannot be run: {type(error).__name__}: {error}"
        hint = "write file.py:function, or the name of a task in an installed package"
        raise UsageError(f"{options.task}: {text}", hint=hint) from error
    if len(logs) != 1:
        raise UsageError(f"{options.task}: {len(logs)} tasks", hint="write file.py:function")
    (log,) = logs
    if log.status != "success":
        message = log.error.message if log.error else log.status
        hint = f"`inspect view --log-dir {options.log_dir}` shows the log"
        raise UsageError(f"{options.task}: the task failed: {message}", hint=hint)
    return log


def average_epochs(
    samples: Sequence[EvalSample], scorer: str, task: str
) -> list[tuple[EvalSample, float]]:
    """Return the first epoch of each sample, and the mean of its scores over all epochs.

    Raises:
        UsageError: a sample does not have this score, or its value is not a number.
    """
    epochs: dict[str | int, list[EvalSample]] = defaultdict(list)
    for sample in samples:
        epochs[sample.id].append(sample)
    rows = []
    for group in epochs.values():
        values = []
        for sample in group:
            scores = sample.scores or {}
            name = scorer or next(iter(scores), "")
            if name not in scores:
                names = ", ".join(scores) or "none"
                raise UsageError(f"{task}: no scorer {scorer!r}", hint=f"scorers: {names}")
            values.append(to_number(scores[name].value, f"{task}: {name}"))
        rows.append((group[0], math.fsum(values) / len(values)))
    return rows


def to_number(value: Value, what: str) -> float:
    """Return a value of a sample as inspect's metrics read it.

    Raises:
        UsageError: it is not a number, for which inspect would count 0.
    """
    is_letter = value in LETTERS or str(value).lower() in WORDS
    number = to_float(value) if is_letter or isinstance(value, int | float) else math.nan
    if isinstance(value, str) and not is_letter:
        with suppress(ValueError):
            number = float(value)
    if math.isfinite(number):
        return number
    raise UsageError(f"{what} gives {one_line(str(value))} for a sample", hint=NUMBERS)


def to_record(task: str, sample: EvalSample) -> Record:
    """Return a sample as a record."""
    given, target = sample.input, sample.target
    prompt = given if isinstance(given, str) else "\n".join(message.text for message in given)
    return Completion(
        source=f"{task}:{sample.id}",
        prompt=prompt,
        completion=target if isinstance(target, str) else "\n".join(target),
    )
