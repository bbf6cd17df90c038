"""Data loader ``sql``: read the result of a database query."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tunesmith.contracts import DataLoader, Dataset
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.offers import DataLoaderOffer
from tunesmith.options import DataPath
from tunesmith.text import redact
from tunesmith_data import (
    MAX_BYTES_IN_MEMORY,
    FieldOptions,
    Row,
    RowSource,
    load_sources,
    to_json_fields,
)

_PASSWORD = re.compile(r"://[^/@]*:[^/@]+@")


class SqlOptions(FieldOptions):
    """Options of ``sql``: a database, and one query per split."""

    train: str = Field(
        min_length=1, description="Query for the training rows; use AS to name the columns."
    )
    test: str | None = Field(
        None,
        min_length=1,
        description="Query for the test rows. Unset: they are split off from `train`.",
    )
    validation: str | None = Field(
        None,
        min_length=1,
        description=(
            "Query for the validation rows. Unset: they are split off from `train`; see `[split] "
            "validation_size`."
        ),
    )
    file: DataPath | None = Field(None, description="SQLite file to read from.")
    url: str | None = Field(
        None,
        min_length=1,
        description=(
            "SQLAlchemy URL of the database, without a password; for example "
            "postgresql+psycopg://reader@db.example/tickets."
        ),
    )
    url_env: str | None = Field(
        None,
        min_length=1,
        description="Environment variable that contains the URL, for a URL with a password.",
    )
    max_rows: int = Field(
        10_000_000, ge=1, description="Stop with an error if a query returns more rows than this."
    )
    max_row_bytes: int = Field(
        8_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="Maximum size of a row, in bytes.",
    )

    @model_validator(mode="after")
    def _check_database(self) -> SqlOptions:
        given = [name for name in ("file", "url", "url_env") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"set exactly one of file, url and url_env, not {len(given)}")
        if self.url is not None and _PASSWORD.search(self.url):
            raise ValueError(
                "url contains a password: put the URL into an environment variable, and set "
                "url_env to its name"
            )
        return self


ROWS_AT_A_TIME = 500


@dataclass(frozen=True)
class SqlLoader:
    """A data loader that runs a query for each split."""

    options: SqlOptions
    memory: int = MAX_BYTES_IN_MEMORY

    def load(self) -> Dataset:
        """Run the queries, and return their rows as records.

        Raises:
            DataError: the database cannot be reached, a query fails, or more rows are skipped than
                ``max_skipped`` allows.
            EnvironmentProblem: the driver of the database is not installed.
            UsageError: the URL is invalid, or its environment variable is not set.
        """
        options = self.options
        queries = {"train": options.train, "test": options.test, "validation": options.validation}
        parts = ([self._source(part, query)] if query else [] for part, query in queries.items())
        return load_sources(options, *parts, memory=self.memory)

    def _source(self, part: str, query: str) -> RowSource:
        return RowSource.of_rows(f"query of {part}", lambda: self._read(f"query of {part}", query))

    def _read(self, name: str, query: str) -> Iterator[Row]:
        import sqlalchemy  # Imported here, because importing SQLAlchemy configures its loggers.

        number = 0
        engine = self._create_engine()
        try:
            with engine.connect() as connection:
                connection = connection.execution_options(
                    yield_per=ROWS_AT_A_TIME, **_read_only_options(engine.dialect.name)
                )
                for statement in _READ_ONLY.get(engine.dialect.name, ()):
                    connection.exec_driver_sql(statement)
                try:
                    result = connection.execute(sqlalchemy.text(query)).mappings()
                    for number, row in enumerate(result, 1):
                        if number > self.options.max_rows:
                            problem = f"returns more than max_rows = {self.options.max_rows:,} rows"
                            raise DataError(name, problem, hint="add a LIMIT, or raise max_rows")
                        yield Row(
                            number,
                            to_json_fields(
                                {str(k): v for k, v in row.items()}, self.options.max_row_bytes
                            ),
                        )
                finally:
                    connection.rollback()
        except sqlalchemy.exc.SQLAlchemyError as error:
            where = f"{name}:{number}" if number else name
            hint = "run the query in a database client to find the problem"
            raise DataError(where, _describe(error), hint=hint) from None
        finally:
            engine.dispose()

    def _create_engine(self) -> Any:
        import sqlalchemy

        options: dict[str, Any] = {"poolclass": sqlalchemy.pool.NullPool}
        if self.options.file is not None:
            return sqlalchemy.create_engine("sqlite://", creator=self._open_file, **options)
        try:
            return sqlalchemy.create_engine(self._url(), **options)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise UsageError(f"data.url: {_describe(error)}") from None
        except ImportError as error:
            problem = f"data.url: the driver for this database is not installed: {error}"
            raise EnvironmentProblem(problem, hint=f"run `pip install {error.name}`") from None

    def _open_file(self) -> sqlite3.Connection:
        """Open the SQLite file read-only, so that SQLite neither writes nor creates a file."""
        path = Path(self.options.file or "").absolute()
        if not path.is_file():
            raise DataError(str(path), "no such file", hint="check the path in data.file")
        return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)

    def _url(self) -> str:
        if self.options.url is not None:
            return self.options.url
        assert self.options.url_env is not None
        url = os.environ.get(self.options.url_env)
        if not url:
            raise UsageError(
                f"data.url_env: the environment variable {self.options.url_env} is not set",
                hint="set the variable to the URL of the database",
            )
        return url


_READ_ONLY = {
    "sqlite": ("PRAGMA query_only = ON",),
    "mysql": ("SET SESSION TRANSACTION READ ONLY",),
    "mariadb": ("SET SESSION TRANSACTION READ ONLY",),
}
"""Statements that make a connection read-only, per SQLAlchemy dialect."""


def _read_only_options(dialect: str) -> dict[str, bool]:
    return {"postgresql_readonly": True} if dialect == "postgresql" else {}


def _describe(error: Exception) -> str:
    """Return the first line of a database error, without the query and without secrets."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return redact(lines[0][:300] if lines else type(error).__name__)


_QUERY = re.compile(r"\s*(select|with)\s", re.IGNORECASE)


def build(options: SqlOptions) -> DataLoader:
    """Create the data loader from its options."""
    from tunesmith_data import require_library

    require_library("sqlalchemy", "data loader sql", extra="sql")
    return SqlLoader(options)


def recognizes(name: str) -> bool:
    """Return True if a name is a SQL query, which starts with SELECT or WITH."""
    return _QUERY.match(name) is not None


SQL = DataLoaderOffer(
    name="sql",
    summary=(
        "the result of a query to SQLite, PostgreSQL, or any other database that SQLAlchemy "
        "supports"
    ),
    config=SqlOptions,
    build=build,
    needs=("sqlalchemy>=2.0",),
    recognizes=recognizes,
)
