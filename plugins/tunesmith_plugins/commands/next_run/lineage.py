"""Options of the table ``[lineage]``: the run that another one continues."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import DataPath, Options


class LineageOptions(Options):
    """Table ``[lineage]``: what a run was made from, as ``tunesmith next`` writes it."""

    parent: DataPath | None = Field(
        None, description="Folder of the run whose weak slices this run is to improve."
    )


LINEAGE = TableOffer(
    name="lineage",
    summary="the run that this one continues",
    config=LineageOptions,
)
