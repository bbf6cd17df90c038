"""Offer the ``lm-eval`` evaluator, with its options."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options

METRIC = Metric(name="lm-eval", higher_is_better=True)


class LmEvalOptions(Options):
    """Options of ``[[evaluators]] use = "lm-eval"``."""

    task: str = Field(
        min_length=1,
        description="Name of a task or group of the harness, or path of a task file (.yaml). A "
        "task file can contain code.",
    )
    metric: str = Field("", description="Metric of the task. Empty: the first one of the task.")
    filter: str = Field("", description="Filter of the answers. Empty: the first one of the task.")
    num_fewshot: int | None = Field(
        None, ge=0, le=100, description="Number of worked examples. Unset: as the task says."
    )
    limit: int | None = Field(
        None, ge=1, description="Measure only the first rows of each task. Unset: all rows."
    )
    chat: bool = Field(
        False,
        description="Ask in conversations, as the harness does with --apply_chat_template. By "
        "default, the model continues plain text.",
    )


LM_EVAL = EvaluatorOffer(
    name="lm-eval",
    summary="score on a task of lm-evaluation-harness, before and after training",
    config=LmEvalOptions,
    build="tunesmith_lm_eval.evaluator:LmEval",
    metrics=(METRIC,),
    is_side_effect=True,
)
