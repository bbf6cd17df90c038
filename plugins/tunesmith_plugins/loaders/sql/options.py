"""Options of ``sql``."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from tunesmith.options import DataPath
from tunesmith_data import FieldOptions

_PASSWORD = re.compile(r"://[^/@]*:[^/@]+@")


class SqlOptions(FieldOptions):
    """Options of ``sql``: a database, and a query for each part of the data."""

    train: str = Field(
        min_length=1, description="Query of the training rows; name the columns with AS."
    )
    test: str | None = Field(
        None,
        min_length=1,
        description="Query of the test rows. Unset: a part of `train` is held out.",
    )
    validation: str | None = Field(
        None,
        min_length=1,
        description=(
            "Query of the validation rows. Unset: a part of `train`, see `[split] validation_size`."
        ),
    )
    file: DataPath | None = Field(None, description="SQLite file to read from.")
    url: str | None = Field(
        None,
        min_length=1,
        description=(
            "SQLAlchemy URL of the database, without a password: "
            "postgresql+psycopg://reader@db.example/tickets."
        ),
    )
    url_env: str | None = Field(
        None,
        min_length=1,
        description="Environment variable with the URL, for a URL that has a password.",
    )
    max_rows: int = Field(
        10_000_000, ge=1, description="Rows of a query above which the run stops."
    )
    max_row_bytes: int = Field(
        8_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Size of the largest row that is accepted, in bytes.",
    )

    @model_validator(mode="after")
    def _check_database(self) -> SqlOptions:
        given = [name for name in ("file", "url", "url_env") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of file, url and url_env, got {len(given)}")
        if self.url is not None and _PASSWORD.search(self.url):
            raise ValueError("url has a password; put it in a variable and name that with url_env")
        return self
