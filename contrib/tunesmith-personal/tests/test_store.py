"""The store: read back, verified, atomic, forgetful, and large."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tunesmith.errors import IntegrityError, UsageError
from tunesmith_evidence.tasks.examples import Example
from tunesmith_personal.store import Decision, Entry, Store

META = {"shared": "digest", "options": "{}"}


def fill(run: Path, count: int = 6, size: int = 40, block: int = 3) -> dict[str, Tensor]:
    store = Store.create(run, META)
    names = [f"user-{n:06}" for n in range(count)]
    vectors = {name: torch.randn(size) for name in names}
    for start in range(0, count, block):
        part = {name: vectors[name] for name in names[start : start + block]}
        store.add([Entry(user=name, note="", rows=9, steps=3) for name in part], part)
    return vectors


def test_what_is_stored_is_read_back(tmp_path: Path) -> None:
    vectors = fill(tmp_path)
    store = Store(tmp_path)
    store.add([Entry(user="few", note="fewer than 4 rows", rows=2)], {})
    assert len(store.entries()) == 7 and [e.user for e in store.entries()] == sorted(
        [*vectors, "few"]
    )
    for user, vector_P in vectors.items():
        assert torch.equal(store.vector(store.require(user)), vector_P)
    few = store.require("few")
    assert not few.has_adapter and (few.rows, few.note) == (2, "fewer than 4 rows")
    with pytest.raises(UsageError, match="fewer than 4 rows"):
        store.vector(few)
    own = Decision(user="user-000001", served="own", probability=0.99, interval=(0.1, 0.4))
    store.record_decisions([own])
    entry = store.require("user-000001")
    assert (entry.served, entry.probability, entry.low, entry.high) == ("own", 0.99, 0.1, 0.4)
    assert store.require("few").served is None


def test_the_rows_of_a_served_baseline_are_replaced_with_the_decision(tmp_path: Path) -> None:
    fill(tmp_path, count=2)
    store = Store(tmp_path)
    rows = [Example("Hi\nWho pays?", "Ms. Abel", "Who pays?"), Example("a", "b", "a")]
    kept = Decision(user="user-000000", served="classifier", k=3, examples=rows)
    unknown = Decision(user="nobody", served="classifier", k=3, examples=rows)
    store.record_decisions([kept, unknown])
    assert store.read_examples("user-000000") == (rows, 3)
    assert store.read_examples("user-000001") == store.read_examples("nobody") == ([], 0)
    store.record_decisions([Decision(user="user-000000", served="own")])
    assert store.read_examples("user-000000")[0] == []
    assert b"Ms. Abel" not in (tmp_path / "users" / "index.sqlite").read_bytes()


def test_an_unknown_user_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(UsageError, match="no user user-00000x"):
        Store(tmp_path).require("user-00000x")
    assert Store(tmp_path).find("' OR 1=1 --") is None


def test_a_folder_without_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no users' adapters"):
        Store(tmp_path)


def test_a_store_of_another_shared_adapter_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path)
    Store.create(tmp_path, META)
    with pytest.raises(IntegrityError, match="another shared adapter"):
        Store.create(tmp_path, {**META, "shared": "other"})


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "swap"])
def test_damage_is_detected(tmp_path: Path, damage: str) -> None:
    """A swapped row would be another user's adapter."""
    fill(tmp_path)
    store = Store(tmp_path)
    entry = store.require("user-000000")
    path = tmp_path / "users" / str(entry.bank)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        content[-3 * 160] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-7])
    elif damage == "missing":
        path.unlink()
    else:
        with sqlite3.connect(tmp_path / "users" / "index.sqlite") as index:
            index.execute("UPDATE users SET place = 1 WHERE user = 'user-000000'")
    with pytest.raises(IntegrityError):
        store.vector(store.require("user-000000"))


def test_a_damaged_index_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "users" / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(IntegrityError, match="index is damaged"):
        Store(tmp_path).entries()


@pytest.mark.parametrize("when", ["bank", "index"])
def test_a_crash_leaves_the_old_state(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = fill(tmp_path)
    store = Store(tmp_path)
    before = store.entries()

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    name = "_write_bank" if when == "bank" else "_write"
    with monkeypatch.context() as patch:
        patch.setattr(Store, name, crash)
        with pytest.raises(KeyboardInterrupt):
            store.add([Entry(user="new", note="", rows=5)], {"new": torch.ones(40)})
        with pytest.raises(KeyboardInterrupt):
            store.forget("user-000001")
    assert store.entries() == before
    assert all(torch.equal(store.vector(e), vectors[e.user]) for e in before)
    Store.create(tmp_path, META)
    assert {p.name for p in (tmp_path / "users").glob("bank-*")} == {e.bank for e in before}


def test_an_index_whose_writer_was_killed_within_a_transaction_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path, count=2000, block=1000)
    before = Store(tmp_path).entries()
    child = os.fork()
    if not child:
        index = sqlite3.connect(tmp_path / "users" / "index.sqlite", isolation_level=None)
        index.execute("PRAGMA cache_size = 1")  # so that pages are written before the end
        index.execute("BEGIN IMMEDIATE")
        index.execute("UPDATE users SET served = 'own'")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "users" / "index.sqlite-journal").stat().st_size
    assert Store(tmp_path).entries() == before
    assert not (tmp_path / "users" / "index.sqlite-journal").exists()


def test_forgetting_leaves_the_others_and_no_byte_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a SQLite that does not overwrite what it deletes, as in most builds."""
    connect = sqlite3.connect

    def connect_plain(*args: Any, **options: Any) -> sqlite3.Connection:
        index: sqlite3.Connection = connect(*args, **options)
        index.execute("PRAGMA secure_delete = OFF")
        return index

    monkeypatch.setattr(sqlite3, "connect", connect_plain)
    vectors = fill(tmp_path)
    store = Store(tmp_path)
    digest = store.require("user-000004").sha256
    gone = vectors.pop("user-000004")
    store.forget("user-000004")
    assert [e.user for e in store.entries()] == [*vectors]
    assert all(torch.equal(store.vector(store.require(u)), v) for u, v in vectors.items())
    needles = [b"user-000004", str(digest).encode(), gone.numpy().tobytes()[:32]]
    for path in (tmp_path / "users").iterdir():
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path
    with pytest.raises(UsageError):
        store.forget("user-000004")
    for user in [*vectors]:
        store.forget(user)
    assert [p.name for p in (tmp_path / "users").iterdir()] == ["index.sqlite"]


def test_a_user_is_not_silently_replaced(tmp_path: Path) -> None:
    """The bank would keep the former adapter."""
    fill(tmp_path, count=1)
    store = Store(tmp_path)
    with pytest.raises(sqlite3.IntegrityError):
        store.add([Entry(user="user-000000", note="", rows=1)], {"user-000000": torch.zeros(40)})


def test_a_hundred_thousand_users(tmp_path: Path) -> None:
    """Written in 100 banks; a lookup takes milliseconds, and so does forgetting."""
    vectors = fill(tmp_path, count=100_000, size=64, block=1000)
    store = Store(tmp_path)
    assert len(store.entries()) == 100_000
    started = time.perf_counter()
    for n in range(0, 100_000, 997):
        user = f"user-{n:06}"
        assert torch.equal(store.vector(store.require(user)), vectors[user])
    assert (time.perf_counter() - started) / 101 < 0.05
    started = time.perf_counter()
    store.forget("user-050000")
    assert time.perf_counter() - started < 10
    assert len(store.entries()) == 99_999
