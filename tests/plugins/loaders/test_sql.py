"""Queries: the rows of a database, which is never written to, and no password in a run file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.contracts import Dataset
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.records import Completion
from tunesmith_plugins.loaders.sql import SQL, SqlLoader, SqlOptions, recognizes

QUERY = "SELECT question AS prompt, answer AS completion, asked FROM tickets ORDER BY id"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "100% tickets?.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tickets (id INTEGER, question, answer, asked DATE)")
        rows = [(n, f"question {n}", f"answer {n}", "2024-05-01") for n in range(1_200)]
        connection.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return path


def load(database: Path, train: str = QUERY, **options: Any) -> Dataset:
    given = SqlOptions(train=train, file=str(database), **options)
    dataset = SQL.build(given).load()
    assert list(SqlLoader(given, memory=0).load().train) == list(dataset.train)
    return dataset


def test_the_rows_of_a_query_are_read_in_its_order(database: Path) -> None:
    dataset = load(database, group="asked", test=f"{QUERY} DESC LIMIT 3")
    assert len(dataset.train) == 1_200 and dataset.test is not None
    record = dataset.train[-1]
    assert isinstance(record, Completion)
    assert (record.prompt, record.completion) == ("question 1199", "answer 1199")
    assert (record.source, record.group) == ("query of train:1200", "2024-05-01")
    assert [r.source for r in dataset.test] == [f"query of test:{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DELETE FROM tickets", "readonly database"),
        ("CREATE TABLE more (a)", "readonly database"),
        ("SELECT missing FROM tickets", "no such column: missing"),
        ("SELEC", 'near "SELEC": syntax error'),
        ("SELECT 1; DROP TABLE tickets", "one statement at a time"),
        ("SELECT id AS prompt FROM tickets WHERE id < 0", "has no rows"),
    ],
)
def test_what_is_not_a_query_is_refused(database: Path, query: str, message: str) -> None:
    before = database.read_bytes()
    with pytest.raises(DataError, match=message):
        load(database, query)
    assert database.read_bytes() == before


def test_rows_are_accounted_for(database: Path) -> None:
    query = (
        "SELECT question AS prompt, CASE id % 2 WHEN 0 THEN answer END AS completion FROM tickets"
    )
    with pytest.raises(DataError, match="600 of 1,200 rows cannot be used"):
        load(database, query)
    with pytest.raises(DataError, match="returns more than max_rows = 1,000 rows"):
        load(database, max_rows=1_000)
    dataset = load(database, f"{QUERY} LIMIT 2", max_row_bytes=1_000, max_skipped=0.9)
    assert not dataset.skipped


def test_a_missing_file_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "missing.db")
    assert not list(tmp_path.iterdir())


def test_passwords_come_from_the_environment(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match="url contains a password"):
        SqlOptions(train=QUERY, url="postgresql://me:secret@db/tickets")
    for options in ({}, {"url": "sqlite://", "url_env": "DB"}):
        with pytest.raises(ValidationError, match="exactly one of file, url and url_env"):
            SqlOptions(train=QUERY, **options)
    options = SqlOptions(train=QUERY, url_env="TICKETS_URL")
    with pytest.raises(UsageError, match="TICKETS_URL is not set"):
        SQL.build(options).load()
    monkeypatch.setenv("TICKETS_URL", "nonsense with a s3cret")
    with pytest.raises(UsageError) as caught:
        SQL.build(options).load()
    assert "s3cret" not in caught.value.message


def test_a_missing_driver_is_named() -> None:
    options = SqlOptions(train=QUERY, url="oracle+cx_oracle://db.example/tickets")
    with pytest.raises(EnvironmentProblem, match="driver for this database") as caught:
        SQL.build(options).load()
    assert caught.value.hint == "run `pip install cx_Oracle`"


def test_queries_are_recognized() -> None:
    assert recognizes(" select 1") and recognizes("WITH x AS (SELECT 1) SELECT * FROM x")
    assert not recognizes("selection.csv")
