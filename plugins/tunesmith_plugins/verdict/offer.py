"""Define the options of the verdict (table ``[verdict]``)."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import Options


class VerdictOptions(Options):
    """Options of the ``[verdict]`` table: the thresholds of the verdict."""

    margin: float = Field(
        0.02,
        gt=0,
        description=(
            "Minimum advantage over the strongest baseline that makes tuning worthwhile, in the "
            "unit of the first evaluator's first metric. For accuracy, 0.02 means two percentage "
            "points."
        ),
    )
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="Confidence level of the intervals that decide."
    )
    max_label_noise: float = Field(
        0.1,
        ge=0,
        le=1,
        description=(
            "Maximum acceptable share of wrong labels. If the 95 % interval of the estimate is "
            "above it, the verdict is FIX DATA FIRST. 1 turns the estimate off. The estimate needs "
            '`pip install "tunesmith[data]"`.'
        ),
    )


VERDICT = TableOffer(
    name="verdict",
    summary="when fine-tuning counts as worth it, and how certain the verdict must be",
    config=VerdictOptions,
)
