"""Retention periods: what is due, what is kept, and what its deletion leaves in the log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from project import Project

from tunesmith.errors import IntegrityError
from tunesmith_regulated.retention import delete_due, find_due

LATER = datetime.now(UTC) + timedelta(days=40)


def due(project: Project) -> list[tuple[str, str, str]]:
    found = find_due(project.policy, project.entries(), LATER)
    return sorted((item.run, item.what, item.kept) for item in found)


def test_nothing_is_due_without_a_period(project: Project) -> None:
    assert due(project) == []
    project.write_policy(keep_runs=100, keep_checkpoints=41)
    assert due(project) == []


def test_runs_and_checkpoints_are_due(project: Project) -> None:
    project.write_policy(keep_runs=100, keep_checkpoints=30)
    assert due(project) == [("runs/first", "checkpoints", ""), ("runs/second", "checkpoints", "")]
    project.write_policy(keep_runs=30, keep_checkpoints=30)
    assert due(project) == [("runs/first", "run", "promoted"), ("runs/second", "run", "")]
    project.write_policy(keep_runs=30, hold=["second"])
    assert due(project)[1] == ("runs/second", "run", "on hold")


@pytest.mark.parametrize("what", ["run", "checkpoints"])
def test_deleting_what_is_due_leaves_an_intact_project(project: Project, what: str) -> None:
    project.write_policy(**{"keep_runs" if what == "run" else "keep_checkpoints": 30})
    entries = project.entries()
    items = list(find_due(project.policy, entries, LATER))
    for item in items:
        if not item.kept:
            delete_due(project.policy, entries, item)
    run = project.folder / "runs" / "second"
    assert run.exists() == (what == "checkpoints") and not (run / "checkpoints").exists()
    assert "expire" in [entry.action for entry in project.entries()]
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 0, done.output
    assert ("runs/second" in done.stdout) == (what == "checkpoints")
    assert due(project) == ([("runs/first", "run", "promoted")] if what == "run" else [])


def test_a_changed_run_is_not_deleted(project: Project) -> None:
    project.write_policy(keep_runs=30)
    (project.folder / "runs" / "second" / "report.json").write_text("{}")
    item = next(i for i in find_due(project.policy, project.entries(), LATER) if not i.kept)
    with pytest.raises(IntegrityError, match="does not match"):
        delete_due(project.policy, project.entries(), item)
    assert (project.folder / "runs" / "second").exists()


def test_a_deleted_run_that_comes_back_is_found(project: Project) -> None:
    project.write_policy(keep_runs=30)
    run = project.folder / "runs" / "second"
    run.rename(project.folder / "kept")
    entries = project.entries()
    item = next(i for i in find_due(project.policy, entries, LATER) if not i.kept)
    with pytest.raises(IntegrityError, match="missing"):
        delete_due(project.policy, entries, item)
    (project.folder / "kept").rename(run)
    delete_due(project.policy, entries, item)
    (run.parent / "first").rename(run)
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 7 and "was deleted according to the log" in done.stdout


def test_the_command_lists_and_needs_a_role_to_delete(project: Project) -> None:
    project.write_policy(keep_runs=1, roles={"delete": []})
    assert project.call("audit", "due", project.policy_file).exit_code == 0
    assert project.call("audit", "due", project.policy_file, "--delete").exit_code == 2
