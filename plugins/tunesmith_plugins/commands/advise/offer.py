"""Define the options of the ``[advise]`` table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import Options


class AdviseOptions(Options):
    """The ``[advise]`` table: how the model will be used."""

    volume: int | None = Field(None, ge=0, description="Requests per month.")
    latency_limit: float | None = Field(
        None, gt=0, description="Longest acceptable time for an answer, in seconds."
    )
    knowledge_changes: Literal["never", "monthly", "weekly", "daily"] = Field(
        "never",
        description="How often the right answers change, so that the model must be trained again.",
    )
    variety: Literal["narrow", "wide"] = Field(
        "narrow",
        description="`wide` if users also send kinds of inputs that no training row covers.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Hourly price of the machine, in any currency."
    )


ADVISE = TableOffer(
    name="advise",
    summary="how the model will be used, for `tunesmith advise`",
    config=AdviseOptions,
)
