"""The ``grouped`` splitter: keep rows with similar prompts, or of a group, in the same split."""

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
    """Options of ``grouped``: the size of the validation split, and which rows stay together."""

    validation_size: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=0)] | None = (
        Field(
            None,
            description=(
                "Size of the validation split, which is used to choose settings such as the best "
                "checkpoint and is never trained on. A share (below 1) of the rows that are not "
                "test rows, or a number of rows. Unset: a tenth, but 20 to 200 rows; none if "
                "there are fewer than 100 rows. Not used if the data loader returns validation "
                "records."
            ),
        )
    )
    near_duplicates: bool | None = Field(
        None,
        description=(
            "Keep rows with near-duplicate prompts in the same split. Unset: true up to 100,000 "
            "rows. A million rows take a minute and 300 MB of memory. Rows with equal prompts, "
            "or of one group, always stay together."
        ),
    )
    file: DataPath | None = Field(
        None,
        description=(
            "File that stores the split of each row. It is created if it is missing. In later "
            "runs, its rows keep their split, and new rows of the data are added to it."
        ),
    )


@dataclass(frozen=True)
class Grouped:
    """Keeps rows with similar prompts, and rows of one group, in the same split."""

    options: GroupedOptions

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Split records at random, keeping the records of a cluster together."""
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
    """Return the cluster of each record. A cluster joins groups and near-duplicate prompts."""
    from tunesmith_data.splits import cluster_records

    return cluster_records(records)


GROUPED = SplitterOffer(
    name="grouped",
    summary="rows with similar prompts, or of one group, stay in the same split",
    config=GroupedOptions,
    build=Grouped,
    needs=("numpy>=1.26",),
    by_default=True,
    find_clusters=find_clusters,
)
