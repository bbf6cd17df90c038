"""Users' adapters: isolation bit for bit, early stopping, the pull, and too few rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from people import make_job, make_options, make_rows
from torch import Tensor

from tunesmith.events import Event, FindingReported
from tunesmith_personal.store import Store
from tunesmith_personal.technique import SHARED_ADAPTER, Personal, UserTrainer, group_by_user
from tunesmith_personal.training import UserTraining

OPTIONS = make_options(epochs=1.0, users={"learning_rate": 2e-2, "epochs": 3.0, "batch_size": 4})
ROWS = make_rows(20, 10)


def train(model: Path, out: Path, options: Any = OPTIONS, **changes: Any) -> dict[str, Tensor]:
    """Train in a folder, and return the users' adapters."""
    Personal(options).train(make_job(options, model, out, **changes))
    return read(out)


def read(out: Path) -> dict[str, Tensor]:
    store = Store(out)
    return {e.user: store.vector(e) for e in store.entries() if e.has_adapter}


@pytest.fixture(scope="module")
def together(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of twenty users, and their adapters."""
    out = tmp_path_factory.mktemp("together") / "run"
    return out, train(tiny_model, out, rows=ROWS)


def retrain(
    model: Path, run: Path, out: Path, rows: Any, options: Any = OPTIONS
) -> dict[str, Tensor]:
    """Train other users' adapters from the shared adapter of a run, in another folder."""
    (out / "shared").mkdir(parents=True)
    (out / SHARED_ADAPTER).symlink_to(run / SHARED_ADAPTER)
    job = make_job(options, model, out, rows=rows)
    trainer = UserTrainer.open(out, model, options, "cpu", job.seed)
    trainer.train(group_by_user(job.train), group_by_user(job.validation), job.emit)
    return read(out)


@pytest.mark.parametrize("user", ["user-00", "user-07", "user-19"])
def test_a_user_trained_alone_has_the_same_bits(
    tiny_model: Path, tmp_path: Path, together: tuple[Path, Any], user: str
) -> None:
    run, vectors = together
    alone = retrain(tiny_model, run, tmp_path / "alone", [r for r in ROWS if r["user"] == user])
    assert alone.keys() == {user} and torch.equal(alone[user], vectors[user])


def test_a_user_among_changed_users_has_the_same_bits(
    tiny_model: Path, tmp_path: Path, together: tuple[Path, Any]
) -> None:
    """All other users have other texts, of other lengths, and some have more rows."""
    run, vectors = together
    others = [
        {**row, "prompt": row["prompt"] * (1 + n % 4), "completion": "seven eight nine"}
        for n, row in enumerate(ROWS * 2)
        if row["user"] != "user-07"
    ]
    rows = [*others[:150], *(r for r in ROWS if r["user"] == "user-07"), *others[150:]]
    changed = retrain(tiny_model, run, tmp_path / "changed", rows)
    assert torch.equal(changed["user-07"], vectors["user-07"])
    assert not torch.equal(changed["user-08"], vectors["user-08"])


def test_small_passes_and_one_user_after_the_other_give_the_same_bits(
    tiny_model: Path, tmp_path: Path, together: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, vectors = together
    rows = [row for row in ROWS if row["user"] < "user-06"]
    single = OPTIONS.users.model_copy(update={"together": False})
    serial = OPTIONS.model_copy(update={"users": single})
    for name, options in (("small", OPTIONS), ("serial", serial)):
        if name == "small":
            monkeypatch.setattr(UserTrainer, "_choose_budget", lambda *args: 300)
        found = retrain(tiny_model, run, tmp_path / name, rows, options)
        monkeypatch.undo()
        assert len(found) == 6
        assert all(torch.equal(found[user], vectors[user]) for user in found)


def test_new_users_later_leave_the_old_ones_as_they_are(
    tiny_model: Path, tmp_path: Path, together: tuple[Path, Any]
) -> None:
    run, vectors = together
    first = [row for row in ROWS if row["user"] < "user-05"]
    out = tmp_path / "run"
    retrain(tiny_model, run, out, first)
    files = {path: path.read_bytes() for path in (out / "users").glob("bank-*")}
    job = make_job(OPTIONS, tiny_model, out, rows=[r for r in ROWS if r["user"] >= "user-05"])
    trainer = UserTrainer.open(out, tiny_model, OPTIONS, "cpu", job.seed)
    trainer.train(group_by_user(job.train), group_by_user(job.validation), job.emit)
    assert all(path.read_bytes() == content for path, content in files.items())
    found = read(out)
    assert all(torch.equal(found[user], vectors[user]) for user in vectors)


def test_too_few_rows_keep_the_shared_adapter_and_the_report_says_so(
    tiny_model: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    rows = [*make_rows(2, 20), *({**r, "user": "new"} for r in make_rows(1, 4))]
    vectors = train(tiny_model, tmp_path / "run", rows=rows, emit=events.append)
    entry = Store(tmp_path / "run").require("new")
    assert "new" not in vectors and entry.note == "fewer than 4 rows" and entry.rows == 3
    texts = [event.message for event in events if isinstance(event, FindingReported)]
    (text,) = [text for text in texts if "own adapter" in text]
    assert text.startswith("2 of 3 users") and "1 fewer than 4 rows" in text


def test_rows_without_a_user_train_only_the_shared_adapter(
    tiny_model: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    events: list[Event] = []
    job = make_job(OPTIONS, tiny_model, tmp_path / "run", emit=events.append)
    rows = [replace(record, group=None) for record in job.train]
    Personal(OPTIONS).train(replace(job, train=rows, validation=()))
    assert not Store(tmp_path / "run").entries()
    assert any(isinstance(e, FindingReported) and "no row has a group" in e.message for e in events)


# --------------------------------------------------------------------------- one user


def make_training(**users: Any) -> UserTraining:
    options = make_options(users={"epochs": 4.0, "batch_size": 2, "patience": 2, **users})
    examples: Any = [type("Row", (), {"trained": [0, 1, 1], "weights": None})() for _ in range(4)]
    return UserTraining("ann", examples, examples, torch.ones(5), options, seed=0)


def test_the_best_epoch_is_kept_and_patience_ends_the_training() -> None:
    user = make_training()
    user.first_loss = user.best_loss = 2.0
    for loss, value in ((1.0, 2.0), (1.5, 3.0), (1.2, 4.0)):
        with torch.no_grad():
            user.vector_P.fill_(value)
        user.end_epoch(loss)
    assert user.is_finished and user.best_loss == 1.0
    assert user.best_P is not None and user.best_P.tolist() == [2.0] * 5


def test_an_adapter_that_is_never_better_than_the_shared_one_is_not_kept() -> None:
    user = make_training()
    user.best_loss = 1.0
    user.end_epoch(1.0)
    user.end_epoch(1.1)
    assert user.is_finished and user.best_P is None


def test_without_validation_rows_the_last_epoch_is_kept() -> None:
    user = make_training()
    user.validation = ()
    for value in (2.0, 3.0):
        with torch.no_grad():
            user.vector_P.fill_(value)
        user.end_epoch(float("nan"))
    assert user.best_P is not None and user.best_P.tolist() == [3.0] * 5 and not user.is_finished


def test_a_validation_loss_that_is_not_a_number_is_no_progress() -> None:
    user = make_training()
    user.best_loss = 2.0
    user.end_epoch(float("nan"))
    assert user.best_P is None and user.best_loss == 2.0


def test_a_user_that_diverges_ends_nobody_elses_training(
    tiny_model: Path, tmp_path: Path, together: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, vectors = together
    update = UserTraining.update

    def spoil(self: UserTraining) -> None:
        if self.user == "user-01" and self.steps == 2:
            assert self.vector_P.grad is not None
            self.vector_P.grad.fill_(float("inf"))
        update(self)

    monkeypatch.setattr(UserTraining, "update", spoil)
    rows = [row for row in ROWS if row["user"] < "user-03"]
    found = retrain(tiny_model, run, tmp_path / "run", rows)
    assert found.keys() == {"user-00", "user-02"}
    assert all(torch.equal(found[user], vectors[user]) for user in found)
    assert Store(tmp_path / "run").require("user-01").note.startswith("training diverged")


def test_an_update_is_adamw_then_the_pull() -> None:
    """Compared with AdamW's formulas for one step, computed by hand."""
    user = make_training(learning_rate=0.1, pull=0.5)
    user._rows = [0, 1]
    user.vector_P.grad = torch.tensor([4.0, -4.0, 0.0, 0.0, 0.0])
    rate = user.schedule.learning_rate_at(0)
    user.update()
    stepped = torch.tensor([1 - rate, 1 + rate, 1.0, 1.0, 1.0])  # first step: the sign, times lr
    expected = stepped + (1.0 - stepped) * rate * 0.5
    torch.testing.assert_close(user.vector_P.detach(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_per_user() -> None:
    norms = []
    for scale in (1.0, 1e6):
        user = make_training()
        user._rows = [0]
        user.vector_P.grad = torch.full((5,), scale)
        user.update()
        state = user.optimizer.state[user.vector_P]
        norms.append(float(state["exp_avg"].norm()) / 0.1)
    assert norms[0] == pytest.approx(1.0, rel=1e-4) and norms[1] == pytest.approx(1.0, rel=1e-4)


def test_each_user_has_an_own_order_of_rows() -> None:
    orders = []
    for name in ("ann", "ben"):
        options = make_options(users={"batch_size": 1, "epochs": 1.0})
        examples: Any = [None] * 30
        user = UserTraining(name, examples, (), torch.ones(2), options, seed=0)
        orders.append([rows for _, rows in user.order.batches()])
    assert orders[0] != orders[1]
