"""The ``lm-eval`` evaluator: the harness asks and scores, the model of the run answers."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import DataError, UsageError
from tunesmith.prepared import RowWise
from tunesmith.records import Completion, Record
from tunesmith_lm_eval.harness_model import HarnessModel
from tunesmith_lm_eval.offer import METRIC, LmEvalOptions

FEWSHOT_SEED = 1234
"""The seed that the harness uses to choose worked examples."""
SUPPORTED = ("multiple_choice", "generate_until")
JSON = dict[str, Any]


class LmEval(RowWise):
    """Measures a model on the rows of a task, with the scores of the harness."""

    def __init__(self, options: LmEvalOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value for each row of the task; the run's records are not used.

        Raises:
            UsageError: the task, its metric or its filter does not exist or is not supported.
            DataError: the data of the task cannot be loaded.
        """
        options = self.options
        tasks = load_tasks(options)
        with redirect_stderr(io.StringIO()):  # progress bars
            results: JSON = evaluate(
                lm=HarnessModel(model),
                task_dict=tasks,
                limit=options.limit,
                bootstrap_iters=0,
                apply_chat_template=options.chat,
                fewshot_as_multiturn=options.chat,  # as the harness does with a chat template
            )
        rows = [
            row
            for name in tasks["tasks"]
            for row in read_rows(name, results, options.metric, options.filter)
        ]
        details = {name: results["configs"][name].get("num_fewshot") for name in tasks["tasks"]}
        return [
            Measurement(
                metric=METRIC.name,
                values=tuple(value for _, _, value in rows),
                outputs=tuple(output for _, output, _ in rows),
                records=[record for record, _, _ in rows],
                details={"num_fewshot": details, "versions": results["versions"]},
            )
        ]


def load_tasks(options: LmEvalOptions) -> JSON:
    """Load a task or group with its data.

    Raises:
        UsageError: there is no such task, or it needs what a text model cannot do.
        DataError: the data of the task cannot be loaded.
    """
    try:
        with redirect_stderr(io.StringIO()):
            # The index of the harness's own tasks takes seconds.
            is_file = options.task.endswith((".yaml", ".yml"))
            found: JSON = dict(TaskManager(include_defaults=not is_file).load([options.task]))
    except KeyError:
        hint = "`lm-eval ls tasks` lists the names; a task file ends in .yaml"
        raise UsageError(f"{options.task}: the harness has no such task", hint=hint) from None
    except Exception as error:  # the datasets of tasks are loaded in many ways
        text = f"the task cannot be loaded: {type(error).__name__}: {error}"
        hint = "offline, use a task file with local data, or a dataset that is in the cache"
        raise DataError(options.task, text, hint=hint) from error
    for name, task in found["tasks"].items():
        prepare(name, task, options)
    return found


def prepare(name: str, task: Task, options: LmEvalOptions) -> None:
    """Set the number of worked examples of a task, and their seed, as the harness does.

    Raises:
        UsageError: the task measures something else than choices or generated answers.
    """
    if task.OUTPUT_TYPE not in SUPPORTED:
        raise UsageError(
            f"{name}: tasks of the type {task.OUTPUT_TYPE} are not supported",
            hint=f"use tasks of the type {' or '.join(SUPPORTED)}",
        )
    given = task.get_config("num_fewshot")
    if given is None or (options.num_fewshot is not None and given != 0):
        task.set_config(key="num_fewshot", value=options.num_fewshot or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def read_rows(
    task: str, results: JSON, metric: str, filter_name: str
) -> list[tuple[Record, str, float]]:
    """Return the record, the answer and the value of each row of a task.

    Raises:
        UsageError: the task does not have the metric or filter, or the metric is not a mean.
    """
    samples = results["samples"][task]
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    filter_name = filter_name or filters[0]
    samples = [sample for sample in samples if sample["filter"] == filter_name]
    if not samples:
        raise UsageError(f"{task}: no filter {filter_name!r}", hint=f"filters: {filters}")
    names = [name for name in samples[0]["metrics"] if isinstance(samples[0][name], int | float)]
    metric = metric or (names or [""])[0]
    if metric not in names:
        raise UsageError(f"{task}: no metric {metric!r}", hint=f"metrics: {', '.join(names)}")
    if results["higher_is_better"][task].get(metric) is False:
        raise UsageError(f"{task}: lower values of {metric} are better", hint="use another metric")
    values = [float(sample[metric]) for sample in samples]
    reported = results["results"][task][f"{metric},{filter_name}"]
    if not math.isclose(math.fsum(values) / len(values), reported, abs_tol=1e-9):
        hint = f"metrics: {', '.join(names)}"
        raise UsageError(f"{task}: {metric} is not a mean over the rows", hint=hint)
    return [
        (to_record(task, sample), to_text(sample["filtered_resps"][0]), value)
        for sample, value in zip(samples, values, strict=True)
    ]


def to_record(task: str, sample: JSON) -> Record:
    """Return a row of the task as a record, whose slice is the name of the task."""
    return Completion(
        source=f"{task}:{sample['doc_id']}",
        slices=(("task", task),),
        prompt=to_text(sample["doc"]),
        completion=to_text(sample["target"]),
    )


def to_text(value: object) -> str:
    """Return a text as it is, and other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
