"""Splitter ``grouped``: rows with similar prompts, or of one group, are in the same part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import Split, SplitRequest
from tunesmith.offers import SplitterOffer
from tunesmith.options import DataPath, Options
from tunesmith.records import Record


class GroupedOptions(Options):
    """Options of ``grouped``: the validation part, and what keeps rows together."""

    validation_size: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=0)] | None = (
        Field(
            None,
            description=(
                "Rows for everything that chooses, such as the best checkpoint; never trained "
                "on. A share below 1 of the rows that are not test rows, or a number of rows. "
                "Unset: a tenth, at least 20 and at most 200 rows, and none if there are fewer "
                "than 100 rows. Not used if the data loader returns validation records."
            ),
        )
    )
    near_duplicates: bool | None = Field(
        None,
        description=(
            "Keep rows together whose prompts nearly equal each other. Unset: up to 100,000 rows. "
            "A million rows take a minute and 300 MB. Equal prompts and rows of one group are "
            "always kept together."
        ),
    )
    file: DataPath | None = Field(
        None,
        description=(
            "File with the part of each row. It is written if there is none; later, rows in it "
            "keep their part, and rows that were added to the data are added to it."
        ),
    )


@dataclass(frozen=True)
class Grouped:
    """Keeps rows with similar prompts, and rows of one group, in one part."""

    options: GroupedOptions

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Split by clusters of rows."""
        from tunesmith_data.splits import split_records

        options = self.options
        file = Path(options.file) if options.file else None
        return split_records(
            records,
            request,
            validation=options.validation_size,
            near_duplicates=options.near_duplicates,
            file=file,
        )


def find_clusters(records: Sequence[Record]) -> Sequence[int]:
    """Return the cluster of each record: those of a group, or with nearly the same prompt."""
    from tunesmith_data.splits import cluster_records

    return cluster_records(records)


GROUPED = SplitterOffer(
    name="grouped",
    summary="rows with similar prompts, or of one group, stay together",
    config=GroupedOptions,
    build=Grouped,
    needs=("numpy>=1.26",),
    by_default=True,
    find_clusters=find_clusters,
)
