"""The audit log: written by several processes, and refused if its end is damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from project import Project

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_regulated.audit_log import append, read_entries
from tunesmith_regulated.options import read_policy


def write_entries(policy: Path, count: int) -> None:
    for number in range(count):
        append(read_policy(policy), "canaries", finding=number)


def test_processes_share_one_chain(new_project: Project) -> None:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=write_entries, args=(new_project.policy_file, 15)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    entries, problems = read_entries(new_project.policy)
    assert not problems and [e.number for e in entries] == list(range(1, 61))
    assert {e.facts["finding"] for e in entries} == set(range(15))


def test_a_damaged_end_gets_no_further_entry(project: Project) -> None:
    content = project.log.read_bytes()
    project.log.write_bytes(content[:-10])
    with pytest.raises(IntegrityError, match="audit verify"):
        try:
            append(project.policy, "canaries")
        except IntegrityError as error:
            raise IntegrityError(error.hint or "") from None
    assert project.log.read_bytes() == content[:-10]


def test_a_crash_before_the_head_is_written_is_no_damage(project: Project) -> None:
    head = project.policy.head
    before = head.read_bytes()
    append(project.policy, "canaries")
    head.write_bytes(before)
    assert not read_entries(project.policy)[1]
    append(project.policy, "canaries")
    assert not read_entries(project.policy)[1]


def test_a_full_disk_is_explained(new_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnvironmentProblem, match="full"):
        append(new_project.policy, "canaries")


@pytest.mark.parametrize("text", ["", "7", "x:" + "0" * 64, "0:" + "0" * 64, "7:abc"])
def test_a_head_of_another_form_is_refused(project: Project, text: str) -> None:
    done = project.call("audit", "verify", project.policy_file, "--after", text)
    assert done.exit_code == 2 and "NUMBER:SHA256" in done.stderr


def test_the_log_has_no_text_of_rows(project: Project) -> None:
    content = project.log.read_text()
    assert "rows.jsonl" in content and "ticket 3" not in content and "case-0" not in content


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_a_key_that_cannot_be_used_is_named(new_project: Project, content: str) -> None:
    new_project.policy.key.write_text(content)
    done = new_project.run("first", check=False)
    assert done.exit_code == 2 and "key.pem" in done.stderr
    assert not (new_project.folder / "runs" / "first" / "model").exists()


def test_show_prints_all_entries(project: Project) -> None:
    done = project.call("audit", "show", project.policy_file)
    assert done.exit_code == 0 and "promote" in done.stdout and "runs/second" in done.stdout
    shown = json.loads(project.call("audit", "show", project.policy_file, "--json").stdout)
    assert [e["number"] for e in shown["entries"]] == [1, 2, 3, 4, 5]
