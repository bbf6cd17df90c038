"""Roles: who may start, promote and export, and what a policy file must be like."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest
from project import Project

from tunesmith.errors import UsageError
from tunesmith_regulated.options import current_account, is_member, read_policy
from tunesmith_regulated.review import review_use


def test_a_run_by_an_account_without_the_role_is_refused(new_project: Project) -> None:
    new_project.write_policy(roles={"start": ["somebody-else"]})
    done = new_project.run("first", check=False)
    assert done.exit_code == 2 and "does not have the role start" in done.stderr
    run = new_project.folder / "runs" / "first"
    assert not (run / "model").exists() and not (run / "evaluations").exists()
    assert '"data-loaded"' not in (run / "events.jsonl").read_text()
    refused, signed = new_project.entries()
    assert (refused.action, refused.account) == ("refuse", current_account())
    assert (signed.action, signed.facts["status"]) == ("sign", "failed")
    checked = new_project.call("check", new_project.folder / "run.toml")
    assert checked.exit_code == 2 and "role start" in checked.output
    verified = new_project.call("audit", "verify", new_project.policy_file)
    assert verified.exit_code == 0, verified.output


def test_nobody_has_a_role_by_default(new_project: Project) -> None:
    new_project.policy_file.write_text('plugins = ["file"]\n')
    assert new_project.run("first", check=False).exit_code == 2


def test_a_resume_needs_the_role_too(new_project: Project) -> None:
    stopped = new_project.run("first", "run.max_minutes=1e-9", check=False)
    assert stopped.exit_code == 75, stopped.output
    run = new_project.folder / "runs" / "first"
    new_project.write_policy(roles={"start": []})
    done = new_project.call("resume", run, "--trust-plugins")
    assert done.exit_code == 2 and "role start" in done.stderr
    new_project.write_policy()
    done = new_project.call("resume", run, "--trust-plugins", "--accept-changes")
    actions = [entry.action for entry in new_project.entries()]
    assert actions.count("start") == 2 and actions.count("sign") == 3, done.output
    verified = new_project.call("audit", "verify", new_project.policy_file)
    assert verified.exit_code == 0, verified.output


def test_a_log_that_cannot_be_written_ends_the_run(new_project: Project) -> None:
    new_project.log.mkdir()
    done = new_project.run("first", check=False)
    assert done.exit_code not in (0, 1), done.output
    assert not (new_project.folder / "runs" / "first" / "model").exists()


def exporting(folder: Path) -> list[str]:
    return [f.message for f in review_use(folder, "export") if f.level == "error"]


def test_an_export_needs_the_role_and_a_promotion(new_project: Project) -> None:
    new_project.run("first")
    run = new_project.folder / "runs" / "first"
    assert ["not promoted" in text for text in exporting(run)] == [True]
    assert new_project.call("push", run, "team/model", "--trust-plugins").exit_code == 2
    assert new_project.call("audit", "promote", run, "--reason", "good").exit_code == 0
    new_project.write_policy(roles={"export": []})
    assert ["role export" in text for text in exporting(run)] == [True]
    new_project.write_policy()
    assert exporting(run) == []
    assert new_project.entries()[-1].action == "export"
    (run / "report.json").write_text("{}")
    assert ["does not match" in text for text in exporting(run)] == [True]


def test_a_promotion_needs_the_role_another_person_and_an_intact_run(new_project: Project) -> None:
    new_project.run("first")
    run = new_project.folder / "runs" / "first"
    new_project.write_policy(four_eyes=True)
    done = new_project.call("audit", "promote", run, "--reason", "good")
    assert done.exit_code == 2 and "somebody else" in done.stderr
    new_project.write_policy(roles={"promote": []})
    done = new_project.call("audit", "promote", run, "--reason", "good")
    assert done.exit_code == 2 and "role promote" in done.stderr
    new_project.write_policy()
    (run / "report.json").write_text("{}")
    assert new_project.call("audit", "promote", run, "--reason", "good").exit_code == 7


def test_an_export_of_a_signed_run_without_its_policy_is_refused(new_project: Project) -> None:
    new_project.run("first")
    run = new_project.folder / "runs" / "first"
    (run / "run.toml").write_text((run / "run.toml").read_text().replace("policy =", "# policy ="))
    assert ["names no policy" in text for text in exporting(run)] == [True]
    done = new_project.call("audit", "promote", run, "--reason", "good")
    assert done.exit_code == 2 and "names no policy" in done.stderr


@pytest.mark.parametrize("command", ["run", "baselines", "advise"])
def test_every_command_that_trains_needs_the_role(new_project: Project, command: str) -> None:
    new_project.write_policy(roles={"start": []})
    done = new_project.call(command, new_project.folder / "run.toml")
    assert done.exit_code == 2 and "role start" in done.stderr, done.output
    assert not list(new_project.folder.rglob("model"))


@pytest.mark.parametrize("name", ["tunesmith-regulated", "regulated"])
def test_a_run_without_the_plugin_is_refused(
    new_project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    new_project.write_policy(roles={"start": []})
    arguments = ("run", new_project.folder / "run.toml")
    done = new_project.call("--no-plugin", name, *arguments)
    assert done.exit_code == 2 and "regulated: unknown table" in done.stderr
    monkeypatch.setenv("TUNESMITH_PLUGINS", "ngram_plugin")
    done = new_project.call(*arguments)
    assert done.exit_code == 2 and "unknown table" in done.stderr
    assert not (new_project.folder / "runs").exists() or not list(
        (new_project.folder / "runs").rglob("model")
    )


def test_a_run_without_the_policy_is_not_in_the_log(new_project: Project) -> None:
    """Nothing can require the table, so `audit verify` finds the folder of such a run."""
    new_project.run("first")
    new_project.run("second", "regulated={}")
    done = new_project.call("audit", "verify", new_project.policy_file)
    assert done.exit_code == 7 and "second: the run is not in the log" in done.stdout


def test_a_run_without_a_policy_is_not_affected(new_project: Project) -> None:
    text = (new_project.folder / "run.toml").read_text()
    (new_project.folder / "run.toml").write_text(text.partition("[regulated]")[0])
    new_project.run("free")
    run = new_project.folder / "runs" / "free"
    assert not (run / "signature.json").exists() and not new_project.log.exists()
    assert exporting(run) == []
    done = new_project.call("audit", "promote", run, "--reason", "good")
    assert done.exit_code == 2 and "no policy" in done.stderr


def test_groups_count() -> None:
    own = grp.getgrgid(os.getgid()).gr_name
    assert is_member("nobody", [f"@{own}"]) and is_member("ada", ["ada"])
    assert not is_member("ada", [own, "@no-such-group", "Ada"])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("keep_runs = 0", "keep_runs"),
        ("keep_run = 3", "keep_run"),
        ("[roles]\nroot = []", "roles.root"),
        ("log = ", "not valid TOML"),
        ("\udcff", "not valid TOML"),
    ],
)
def test_a_wrong_policy_is_refused(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=named):
        read_policy(path)


def test_a_policy_that_others_can_change_is_refused(project: Project) -> None:
    project.policy_file.chmod(0o666)
    with pytest.raises(UsageError, match="other accounts can change"):
        read_policy(project.policy_file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_policy(project.folder / "none.toml")
