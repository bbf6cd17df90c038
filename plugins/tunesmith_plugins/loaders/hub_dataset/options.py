"""Options of ``hub-dataset``."""

from __future__ import annotations

from pydantic import Field

from tunesmith_data import FieldOptions


class HubDatasetOptions(FieldOptions):
    """Options of ``hub-dataset``: the dataset, its splits, and how many rows are read."""

    train: str = Field(
        pattern=r"^(hf://(datasets/)?)?\w[\w.-]*/\w[\w.-]*$",
        description="Dataset of the hub: hf://OWNER/NAME.",
    )
    name: str | None = Field(None, min_length=1, description="Configuration of the dataset.")
    split: str = Field("train", min_length=1, description="Split with the training rows.")
    test_split: str | None = Field(
        None,
        min_length=1,
        description="Split with the test rows. Unset: a part of `split` is held out.",
    )
    validation_split: str | None = Field(
        None,
        min_length=1,
        description=(
            "Split with the validation rows. Unset: a part of `split`, see `[split] "
            "validation_size`."
        ),
    )
    revision: str | None = Field(
        None, min_length=1, description="Commit, tag or branch. A commit never changes."
    )
    max_rows: int | None = Field(
        None, ge=1, description="Rows to read of each split, from the first on. Unset: all."
    )
    max_row_bytes: int = Field(
        8_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Size of the largest row that is accepted, in bytes.",
    )
