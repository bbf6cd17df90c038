"""Offer the ``inspect`` evaluator, with its options."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import DataPath, Options

METRIC = Metric(name="inspect", higher_is_better=True)


class InspectOptions(Options):
    """Options of ``[[evaluators]] use = "inspect"``."""

    task: str = Field(
        min_length=1,
        description="A task as `file.py:function`, or the name of a task in an installed package, "
        "such as `inspect_evals/gsm8k`. Tasks are code.",
    )
    scorer: str = Field("", description="Scorer of the task. Empty: the first one.")
    limit: int | None = Field(
        None, ge=1, description="Measure only the first samples. Unset: all samples."
    )
    max_new_tokens: int = Field(
        512, ge=1, description="Maximum tokens per answer, if the task sets no limit."
    )
    log_dir: DataPath = Field(
        "inspect-logs", description="Folder for the logs, which `inspect view` opens."
    )


INSPECT = EvaluatorOffer(
    name="inspect",
    summary="score on a task of inspect, before and after training",
    config=InspectOptions,
    build="tunesmith_inspect.evaluator:Inspect",
    metrics=(METRIC,),
    generates=True,
    is_side_effect=True,
)
