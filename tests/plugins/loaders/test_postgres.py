"""Queries to a real PostgreSQL server, which the test starts if Debian's package is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith_plugins.loaders.sql import SqlLoader, SqlOptions

pytestmark = pytest.mark.long
ROWS = 200_000
QUERY = "SELECT question AS prompt, answer AS completion, price FROM tickets ORDER BY id"


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """Start a server with a table of tickets; return the folder of its socket."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("the Debian package postgresql is not installed")
    # Not below pytest's folder: only its owner can enter that, and a socket needs a short path.
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-"))
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs[-1] / program, "-D", folder / "data", *arguments],
            check=True,
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )

    run("initdb", "--auth=trust", "--username=me", "--no-sync")
    run("pg_ctl", "start", "-w", "-o", f"-k {folder} -c listen_addresses= -c fsync=off")
    try:
        with psycopg.connect(host=str(folder), user="me", dbname="postgres") as connection:
            connection.execute("CREATE SEQUENCE numbers")
            connection.execute(
                "CREATE TABLE tickets AS SELECT n AS id, 'question ' || n AS question,"
                f" 'answer ' || n AS answer, n / 100.0 AS price FROM generate_series(1, {ROWS}) n"
            )
        yield folder
    finally:
        run("pg_ctl", "stop", "-w", "-m", "immediate")
        shutil.rmtree(folder)


def loader(server: Path, query: str) -> SqlLoader:
    url = f"postgresql+psycopg://me@/postgres?host={server}"
    return SqlLoader(SqlOptions(train=query, url=url, group="price"), memory=0)


def test_many_rows_are_read_through_a_cursor_of_the_server(server: Path) -> None:
    dataset = loader(server, QUERY).load()
    assert len(dataset.train) == ROWS
    record = dataset.train[ROWS - 1]
    assert isinstance(record, Completion)
    assert (record.prompt, record.group) == (f"question {ROWS}", "2000.0000000000000000")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("DELETE FROM tickets", "syntax error"),  # not a query
        ("SELECT nextval('numbers')", "read-only transaction"),
        ("WITH gone AS (DELETE FROM tickets RETURNING *) SELECT * FROM gone", "data-modifying"),
        ("SELECT missing FROM tickets", 'column "missing" does not exist'),
    ],
)
def test_nothing_is_written(server: Path, query: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loader(server, query).load()
    with psycopg.connect(host=str(server), user="me", dbname="postgres") as connection:
        assert connection.execute("SELECT count(*) FROM tickets").fetchone() == (ROWS,)
