"""Options of the verdict: the table ``[verdict]``."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import Options


class VerdictOptions(Options):
    """Table ``[verdict]``: when tuning was worth it."""

    margin: float = Field(
        0.02,
        gt=0,
        description=(
            "Smallest advantage over the strongest baseline that is worth tuning, in the unit of "
            "the "
            "first evaluator's first metric: 0.02 are two points of a share."
        ),
    )
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="Confidence of the intervals that decide."
    )
    max_label_noise: float = Field(
        0.1,
        ge=0,
        le=1,
        description=(
            "Share of wrong labels above which the data is to be fixed first; 1: it is not "
            'estimated. The estimate needs `pip install "tunesmith[data]"`.'
        ),
    )


VERDICT = TableOffer(
    name="verdict",
    summary="when tuning was worth it, and how sure of it the verdict must be",
    config=VerdictOptions,
)
