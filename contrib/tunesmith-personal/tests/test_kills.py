"""Processes that are killed at a change of a file: nothing is lost, and no bit changes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from people import invoke, make_rows, read_rows, write_run

from tunesmith_personal import technique
from tunesmith_personal.store import Store

CHANGES = ("os.rename", "os.remove", "os.mkdir", "sqlite3.connect")
"""Audited events that change files, besides the opening of a file to write."""


def kill_at_change(number: int, folder: Path, work: Callable[[], Any]) -> bool:
    """Work in a process that kills itself before its n-th change of a file in a folder.

    Returns:
        True if it was killed, False if it finished before.
    """
    child = os.fork()
    if not child:
        left = number

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if (writes or event in CHANGES) and str(folder) in str(arguments[0]):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        sys.addaudithook(count)
        code = 1
        try:
            code = work().exit_code
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


def read(run: Path) -> tuple[Any, ...]:
    """Return what a run has of its users: entries without their places, adapters, scores."""
    store = Store(run)
    entries = store.entries()
    facts = [
        (e.user, e.rows, e.steps, e.best_loss, e.sha256, e.served, e.probability, e.low)
        for e in entries
    ]
    vectors = {e.user: store.vector(e).tolist() for e in entries if e.has_adapter}
    examples = [store.read_examples(entry.user) for entry in entries]
    return facts, vectors, examples, read_rows(run)


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six users, in three blocks."""
    folder = tmp_path_factory.mktemp("kills")
    users = {"learning_rate": 2e-2, "epochs": 3.0, "batch_size": 4}
    path = write_run(folder, tiny_model, rows=make_rows(6, 12), epochs=1.0, users=users)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(technique, "BLOCK", 2)
        done = invoke("run", path, "--out", folder / "run", "-q")
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the training of all, in two blocks of users, and before the decisions."""
    monkeypatch.setattr(technique, "BLOCK", 2)
    run = undisturbed.with_name("killed")
    path = undisturbed.with_name("run.toml")
    done, banks = [], set[str | None]()
    for number, folder in ((16, run), (7, run / "users"), (10, run / "users"), (20, run / "users")):
        assert kill_at_change(number, folder, lambda: start(path, run))
        has_users = (run / "users" / "index.sqlite").is_file()
        entries = Store(run).entries() if has_users else []
        done.append(len(entries))
        banks |= {entry.bank for entry in entries}
    assert done == [0, 0, 2, 6], done
    assert start(path, run).exit_code == 0
    assert read(run) == read(undisturbed)
    assert banks == {entry.bank for entry in Store(run).entries()}, "users were trained again"


def start(path: Path, run: Path) -> Any:
    """Start a run, or resume it if there is something to resume."""
    if (run / "events.jsonl").is_file():
        return invoke("resume", run, "-q")
    shutil.rmtree(run, ignore_errors=True)
    return invoke("run", path, "--out", run, "-q")


def test_forgetting_that_is_killed_can_be_repeated(undisturbed: Path, tmp_path: Path) -> None:
    """Also if the data no longer has the user."""
    user, run, data = "user-01", tmp_path / "run", undisturbed.with_name("rows.jsonl")
    shutil.copytree(undisturbed, run)
    before = read(run)[1]
    adapter = torch.tensor(before.pop(user)).numpy().tobytes()
    rows = make_rows(6, 12)
    own = {row["completion"] for row in rows if row["user"] == user}
    own -= {row["completion"] for row in rows if row["user"] != user}
    needles = [user.encode(), adapter[:32], *(text.encode() for text in own)]
    kept = data.read_text(encoding="utf-8")
    lines = [line for line in kept.splitlines(keepends=True) if user not in line]
    data.write_text("".join(lines), encoding="utf-8")

    def forget() -> Any:
        return invoke("adapters", "forget", run, user, "--yes")

    kills = 0
    while Store(run).find(user) and kill_at_change(1 + 3 * kills, run, forget):
        kills += 1
        assert {u: v for u, v in read(run)[1].items() if u != user} == before
    data.write_text(kept, encoding="utf-8")
    assert kills >= 3 and own and read(run)[1] == before
    files = [p for p in run.rglob("*") if p.is_file() and "shared" not in p.parts]
    left = [p for p in files if any(needle in p.read_bytes() for needle in needles)]
    assert not left and not [p for p in files if p.name.endswith(("-wal", "-journal"))]
