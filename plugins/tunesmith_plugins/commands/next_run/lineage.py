"""Define the options of the ``[lineage]`` table, which refers to the run that a run continues."""

from __future__ import annotations

from pydantic import Field

from tunesmith.offers import TableOffer
from tunesmith.options import DataPath, Options


class LineageOptions(Options):
    """The ``[lineage]`` table: the origin of a run, as written by ``tunesmith next``."""

    parent: DataPath | None = Field(
        None, description="Folder of the run whose weak slices this run should improve."
    )


LINEAGE = TableOffer(
    name="lineage",
    summary="the run that this run continues",
    config=LineageOptions,
)
