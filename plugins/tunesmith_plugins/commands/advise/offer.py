"""Options of the advice: the table ``[advise]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import Options


class AdviseOptions(Options):
    """Table ``[advise]``: how the model will be used."""

    volume: int | None = Field(None, ge=0, description="Requests a month.")
    latency_limit: float | None = Field(
        None, gt=0, description="Most seconds that an answer may take."
    )
    knowledge_changes: Literal["never", "monthly", "weekly", "daily"] = Field(
        "never", description="How often the right answers change, so that rows must be replaced."
    )
    variety: Literal["narrow", "wide"] = Field(
        "narrow", description="Whether the inputs are of one kind, or of kinds that no row shows."
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Price of an hour of a machine like the one that measures."
    )


ADVISE = TableOffer(
    name="advise",
    summary="how the model will be used, for `tunesmith advise`",
    config=AdviseOptions,
)
