"""Every kind of tampering with log, report, data and artifact is found, and named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from project import Project, list_files, write_keys

from tunesmith.storage import commit_folder
from tunesmith_regulated.audit_log import Entry, append, decode, digest
from tunesmith_regulated.signing import sign_bytes, sign_folder

KINDS: dict[str, tuple[Callable[[Path], None], str]] = {}
"""Each kind of tampering with a project, and the text that names it."""
LOG, HEAD, RUN = "audit/log.jsonl", "audit/head.json", "runs/second"


def kind(named: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def register(function: Callable[[Path], None]) -> Callable[[Path], None]:
        KINDS[function.__name__] = function, named
        return function

    return register


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first match of a pattern, which must exist."""
    text = path.read_text(encoding="utf-8")
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    path.write_text(changed, encoding="utf-8")


def lines_of(project: Path) -> list[bytes]:
    return (project / LOG).read_bytes().splitlines(keepends=True)


def rewrite_log(project: Path, lines: list[bytes]) -> None:
    (project / LOG).write_bytes(b"".join(lines))


def chain(project: Path, entries: list[Entry], key: Path) -> None:
    """Write these entries as a valid chain that is signed with a key, and its head."""
    lines: list[bytes] = []
    for number, entry in enumerate(entries, 1):
        previous = digest(lines[-1].strip()) if lines else ""
        entry = replace(entry, number=number, previous=previous)
        entry = replace(entry, signature=sign_bytes(key, entry.signed_content))
        lines.append(entry.encode() + b"\n")
    rewrite_log(project, lines)
    head = {"number": len(lines), "sha256": digest(lines[-1].strip())}
    (project / HEAD).write_text(json.dumps(head))


def cut_log(project: Path, count: int) -> None:
    """Keep this number of lines, and change the head accordingly."""
    lines = lines_of(project)[:count]
    rewrite_log(project, lines)
    head = {"number": count, "sha256": digest(lines[-1].strip())}
    (project / HEAD).write_text(json.dumps(head))


def other_key(project: Path) -> Path:
    folder = project.parent / "other-keys"
    folder.mkdir()
    return write_keys(folder) / "key.pem"


# --- log ---------------------------------------------------------------------------------------


@kind("line 1 was changed")
def account_changed(project: Path) -> None:
    edit(project / LOG, r'"account": "\w+"', '"account": "nobody"')


@kind("line 1 was changed")
def time_changed(project: Path) -> None:
    edit(project / LOG, r'"time": "\d+', '"time": "1999')


@kind("was changed")
def fact_changed(project: Path) -> None:
    edit(project / LOG, '"reason": "good"', '"reason": "bad"')


@kind("line 1 has entry 2")
def first_entry_removed(project: Path) -> None:
    rewrite_log(project, lines_of(project)[1:])


@kind("line 4 has entry 5")
def middle_entry_removed(project: Path) -> None:
    lines = lines_of(project)
    rewrite_log(project, [*lines[:3], *lines[4:]])


@kind("knows line")
def last_entry_removed(project: Path) -> None:
    rewrite_log(project, lines_of(project)[:-1])


@kind("line 2 has entry 3")
def entries_swapped(project: Path) -> None:
    lines = lines_of(project)
    rewrite_log(project, [lines[0], lines[2], lines[1], *lines[3:]])


@kind("line 3 has entry 2")
def entry_repeated(project: Path) -> None:
    lines = lines_of(project)
    rewrite_log(project, [*lines[:2], lines[1], *lines[2:]])


@kind("signed with another key")
def entry_forged(project: Path) -> None:
    lines = lines_of(project)
    last = decode(lines[-1].strip())
    forged = replace(last, number=last.number + 1, previous=digest(lines[-1].strip()))
    signature = sign_bytes(other_key(project), forged.signed_content)
    rewrite_log(project, [*lines, replace(forged, signature=signature).encode() + b"\n"])


@kind("line 4 does not follow the line before it")
def entry_of_another_log_with_this_key(project: Path) -> None:
    lines = lines_of(project)
    entry = replace(decode(lines[2].strip()), previous=digest(b"another log"), account="ada")
    signature = sign_bytes(project / "audit" / "key.pem", entry.signed_content)
    lines[2] = replace(entry, signature=signature).encode() + b"\n"
    rewrite_log(project, lines)


@kind("signed with another key")
def chain_rewritten_with_another_key(project: Path) -> None:
    entries = [decode(line.strip()) for line in lines_of(project)]
    chain(project, [replace(e, account="nobody") for e in entries], other_key(project))


@kind("is incomplete")
def line_cut(project: Path) -> None:
    content = (project / LOG).read_bytes()
    (project / LOG).write_bytes(content[:-1])


@kind("is not an entry")
def line_half_written(project: Path) -> None:
    content = (project / LOG).read_bytes()
    (project / LOG).write_bytes(content[:-40] + b"\n")


@kind("is not an entry")
def spaces_added(project: Path) -> None:
    lines = lines_of(project)
    rewrite_log(project, [*lines[:-1], lines[-1].replace(b'": ', b'":  ', 1)])


@kind("is not an entry")
def key_repeated(project: Path) -> None:
    lines = lines_of(project)
    rewrite_log(project, [*lines[:-1], lines[-1].replace(b"{", b'{"account": "nobody", ', 1)])


@kind("line 2 was changed")
def signature_of_another_entry(project: Path) -> None:
    lines = lines_of(project)
    signature = decode(lines[0].strip()).signature
    changed = replace(decode(lines[1].strip()), signature=signature)
    rewrite_log(project, [lines[0], changed.encode() + b"\n", *lines[2:]])


@kind("is not an entry")
def garbage_appended(project: Path) -> None:
    rewrite_log(project, [*lines_of(project), b'"trust me"\n'])


@kind("has no entries")
def log_emptied(project: Path) -> None:
    rewrite_log(project, [])


@kind("has no entries")
def log_and_head_deleted(project: Path) -> None:
    (project / LOG).unlink()
    (project / HEAD).unlink()


@kind("head.json is missing")
def head_deleted(project: Path) -> None:
    (project / HEAD).unlink()


@kind("differs from")
def head_changed(project: Path) -> None:
    edit(project / HEAD, r'"sha256": "\w{4}', '"sha256": "0000')


@kind("second: the run has not ended")
def end_of_a_run_removed_with_the_head(project: Path) -> None:
    cut_log(project, len(lines_of(project)) - 1)


@kind("is not an entry")
def line_ends_of_windows(project: Path) -> None:
    rewrite_log(project, [line.replace(b"\n", b"\r\n") for line in lines_of(project)])


@kind("line 3 is not an entry")
def empty_line_inserted(project: Path) -> None:
    lines = lines_of(project)
    rewrite_log(project, [*lines[:2], b"\n", *lines[2:]])


@kind("line 1 is not an entry")
def keys_in_another_order(project: Path) -> None:
    first, *rest = lines_of(project)
    rewrite_log(
        project, [json.dumps(dict(sorted(json.loads(first).items()))).encode() + b"\n", *rest]
    )


@kind("line 5 was changed")
def last_signature_in_another_encoding(project: Path) -> None:
    """Characters outside of Base64, which lenient decoders skip, and a head that agrees."""
    lines = lines_of(project)
    entry = decode(lines[-1].strip())
    lines[-1] = replace(entry, signature=entry.signature + "!").encode() + b"\n"
    rewrite_log(project, lines)
    head = {"number": len(lines), "sha256": digest(lines[-1].strip())}
    (project / HEAD).write_text(json.dumps(head))


@kind("log.jsonl: cannot be read")
def log_replaced_by_a_folder(project: Path) -> None:
    (project / LOG).unlink()
    (project / LOG).mkdir()


@kind("head.json cannot be read")
def head_replaced_by_a_folder(project: Path) -> None:
    (project / HEAD).unlink()
    (project / HEAD).mkdir()


@kind("head.json is damaged")
def head_nested_deeply(project: Path) -> None:
    (project / HEAD).write_text("[" * 100_000)


# --- report ------------------------------------------------------------------------------------


@kind("second: signature.json does not match")
def score_changed(project: Path) -> None:
    edit(project / RUN / "report.json", r'"value": [\d.]+', '"value": 0.99')


@kind("changed file: report.html")
def page_changed(project: Path) -> None:
    edit(project / RUN / "report.html", "<body", "<body >\nApproved.")


@kind("changed file: events.jsonl")
def event_changed(project: Path) -> None:
    edit(project / RUN / "events.jsonl", '"seed": 42', '"seed": 43')


@kind("changed file: events.jsonl")
def event_removed(project: Path) -> None:
    edit(project / RUN / "events.jsonl", r'.*"event": "measured".*\n', "")


@kind("changed file: run.toml")
def profile_removed_from_the_run_file(project: Path) -> None:
    edit(project / RUN / "run.toml", r"\[regulated\]\npolicy = .*\n", "")


@kind("changed file: evaluations/tuned.exact-match.jsonl")
def answer_changed(project: Path) -> None:
    edit(project / RUN / "evaluations" / "tuned.exact-match.jsonl", '"value": 0.0', '"value": 1.0')


@kind("Missing files")
def answers_deleted(project: Path) -> None:
    (project / RUN / "evaluations" / "tuned.exact-match.jsonl").unlink()


@kind("signature.json: is missing")
def signature_deleted(project: Path) -> None:
    (project / RUN / "signature.json").unlink()


@kind("signature.json: differs from the log")
def signature_made_with_another_key(project: Path) -> None:
    edit(project / RUN / "report.json", r'"value": [\d.]+', '"value": 0.99')
    sign_folder(project / RUN, other_key(project))


@kind("signature.json: differs from the log")
def signature_of_another_run(project: Path) -> None:
    shutil.copy(project / "runs" / "first" / "signature.json", project / RUN)


@kind("signature.json: is missing")
def signature_is_a_link(project: Path) -> None:
    path = project / RUN / "signature.json"
    path.rename(project / "elsewhere.json")
    path.symlink_to(project / "elsewhere.json")


@kind("second: signature.json does not match")
def reports_of_two_runs_swapped(project: Path) -> None:
    first, second = (project / "runs" / name / "report.json" for name in ("first", "second"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@kind("changed file: report.json")
def spaces_of_the_report_changed(project: Path) -> None:
    path = project / RUN / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text())))


@kind("changed file: report.json")
def key_of_the_report_repeated(project: Path) -> None:
    edit(project / RUN / "report.json", r"\{", '{"schema": "other",')


@kind("Extra files found")
def report_renamed_to_other_letters(project: Path) -> None:
    """A Cyrillic letter looks like the Latin one."""
    (project / RUN / "report.json").rename(project / RUN / "r\u0435port.json")


@kind("Extra files found")
def report_renamed_to_another_case(project: Path) -> None:
    (project / RUN / "report.json").rename(project / RUN / "Report.json")


# --- data --------------------------------------------------------------------------------------


@kind("rows.jsonl: was changed")
def row_changed(project: Path) -> None:
    edit(project / "rows.jsonl", "facilities", "payroll")


@kind("rows.jsonl: was changed")
def row_added(project: Path) -> None:
    with (project / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "new", "completion": "it"}\n')


@kind("test.jsonl: was changed")
def row_of_the_test_file_removed(project: Path) -> None:
    edit(project / "test.jsonl", r".*\n", "")


@kind("rows.jsonl: is missing")
def data_deleted(project: Path) -> None:
    (project / "rows.jsonl").unlink()


@kind("test.jsonl: was changed")
def rows_of_the_test_file_replaced(project: Path) -> None:
    shutil.copy(project / "rows.jsonl", project / "test.jsonl")


@kind("rows.jsonl: was changed")
def rows_reordered(project: Path) -> None:
    path = project / "rows.jsonl"
    path.write_bytes(b"".join(sorted(path.read_bytes().splitlines(keepends=True))))


@kind("rows.jsonl: was changed")
def line_ends_of_the_rows_changed(project: Path) -> None:
    path = project / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


# --- artifact ----------------------------------------------------------------------------------


def artifact(project: Path) -> Path:
    return project / RUN / "model" / "ngram.json"


@kind("changed file: model/ngram.json")
def weight_changed(project: Path) -> None:
    edit(artifact(project), r": \d+", ": 77")


@kind("changed file: model/MANIFEST.json")
def weights_replaced_with_a_valid_manifest(project: Path) -> None:
    """`tunesmith verify` alone compares the files only with their manifest."""
    folder = artifact(project).parent
    commit_folder(folder, lambda staging: (staging / "ngram.json").write_text("{}") and None)


@kind("Extra files found")
def file_added_to_the_model(project: Path) -> None:
    (artifact(project).parent / "tokenizer.py").write_text("import os\n")


@kind("it is a symlink")
def weights_are_a_link(project: Path) -> None:
    path = artifact(project)
    path.rename(project / "elsewhere.json")
    path.symlink_to(project / "elsewhere.json")


@kind("Missing files")
def model_deleted(project: Path) -> None:
    shutil.rmtree(artifact(project).parent)


@kind("changed file: checkpoints")
def checkpoint_changed(project: Path) -> None:
    path = max((project / RUN / "checkpoints").rglob("*.json"))
    path.write_bytes(path.read_bytes() + b" ")


@kind("Extra files found")
def git_folder_added(project: Path) -> None:
    """Signatures of models ignore git's files by default."""
    (project / RUN / ".git").mkdir()
    (project / RUN / ".git" / "hook").write_text("#!/bin/sh\n")


@kind("Extra files found")
def file_with_an_unsigned_name_in_the_model(project: Path) -> None:
    """A model card and a lock are only unsigned at the top of a run."""
    (artifact(project).parent / "README.md").write_text("Approved.")


@kind("it is a symlink")
def model_is_a_link(project: Path) -> None:
    folder = artifact(project).parent
    folder.rename(project / "elsewhere")
    folder.symlink_to(project / "elsewhere")


@kind("pipe")
def pipe_in_the_model(project: Path) -> None:
    os.mkfifo(artifact(project).parent / "pipe")


@kind("Second: the run is not in the log")
def run_renamed(project: Path) -> None:
    (project / RUN).rename(project / "runs" / "Second")


@kind("third: the run is not in the log")
def run_added_far_below(project: Path) -> None:
    shutil.copytree(project / RUN, project / ".a" / "b" / "c" / "d" / "e" / "f" / "third")


@kind("second: the run is missing")
def run_deleted(project: Path) -> None:
    shutil.rmtree(project / RUN)


@kind("third: the run is not in the log")
def run_added(project: Path) -> None:
    shutil.copytree(project / RUN, project / "runs" / "third")


@kind("second: signature.json does not match")
def runs_swapped(project: Path) -> None:
    runs = project / "runs"
    signature = (runs / "second" / "signature.json").read_bytes()
    (runs / "second").rename(runs / "x")
    shutil.copytree(runs / "first", runs / "second")
    (runs / "second" / "signature.json").write_bytes(signature)
    shutil.rmtree(runs / "x")


# -----------------------------------------------------------------------------------------------


def test_an_untouched_project_is_intact(project: Project) -> None:
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 0, done.output
    assert "ok   runs/first" in done.stdout and "ok   rows.jsonl" in done.stdout


def test_what_is_not_tampering_raises_no_alarm(project: Project) -> None:
    for path in list_files(project.folder):
        os.utime(path, (1, 1))
    (project.folder / RUN / "report.json").chmod(0o600)
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 0 and "note" not in done.stdout, done.output


def test_a_changed_policy_is_noted(project: Project) -> None:
    """A policy may change, such as for a new colleague, so this is not a failure."""
    project.write_policy(four_eyes=True)
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 0
    assert "note policy.toml was changed between entry 5 and now" in done.stdout
    append(project.policy, "canaries")
    project.write_policy()
    append(project.policy, "canaries")
    done = project.call("audit", "verify", project.policy_file, "--json")
    assert json.loads(done.stdout)["notes"] == [
        "policy.toml was changed between entry 5 and entry 6",
        "policy.toml was changed between entry 6 and entry 7",
    ]


def test_a_clock_that_was_set_back_is_noted(project: Project) -> None:
    entries = project.entries()
    entries[3] = replace(entries[3], time="2001-02-03T04:05:06+00:00")
    chain(project.folder, entries, project.policy.key)
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 0 and "note entry 4 is dated before entry 3" in done.stdout


def test_there_are_at_least_thirty_kinds() -> None:
    assert len(KINDS) >= 30


@pytest.mark.parametrize("name", KINDS)
def test_tampering_is_found(project: Project, name: str) -> None:
    tamper, named = KINDS[name]
    tamper(project.folder)
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 7, f"{name}: {done.output}"
    assert named in done.stdout, f"{name}: {done.output}"


def test_a_removed_end_is_found_with_an_earlier_head(project: Project) -> None:
    """Who can write both files removes the end without a trace: the auditor needs a note."""
    done = project.call("audit", "verify", project.policy_file)
    head = done.stdout.split("head: ")[1].strip()
    entries = project.entries()
    starts = next(n for n, e in enumerate(entries) if e.run == "runs/second")
    cut_log(project.folder, starts)
    shutil.rmtree(project.folder / "runs" / "second")
    assert project.call("audit", "verify", project.policy_file).exit_code == 0
    done = project.call("audit", "verify", project.policy_file, "--after", head)
    assert done.exit_code == 7 and "--after knows line" in done.stdout
    kept = f"1:{digest(entries[0].encode())}"
    assert project.call("audit", "verify", project.policy_file, "--after", kept).exit_code == 0


def test_a_replaced_key_is_found_with_a_copy_of_the_public_key(
    project: Project, keys: Path
) -> None:
    folder = project.folder
    forged = other_key(folder)
    changed = [asdict(entry) for entry in project.entries()]
    for run in ("first", "second"):
        signature = sign_folder(folder / "runs" / run, forged)
        for entry in changed:
            if entry["action"] == "sign" and entry["run"] == f"runs/{run}":
                entry["facts"]["signature"] = signature
    chain(folder, [Entry(**entry) for entry in changed], forged)
    for name in ("key.pem", "key.pub"):
        shutil.copy(forged.parent / name, folder / "audit" / name)
    assert project.call("audit", "verify", project.policy_file).exit_code == 0
    own = ("--public-key", keys / "key.pub")
    done = project.call("audit", "verify", project.policy_file, *own)
    assert done.exit_code == 7 and "signed with another key" in done.stdout
    assert "signature.json" in done.stdout


def test_any_changed_byte_of_the_log_is_found(project: Project) -> None:
    content = project.log.read_bytes()
    for position in range(0, len(content), 331):
        changed = bytearray(content)
        changed[position] ^= 1
        project.log.write_bytes(changed)
        done = project.call("audit", "verify", project.policy_file, "--json")
        assert done.exit_code == 7, position
    project.log.write_bytes(content)
    done = project.call("audit", "verify", project.policy_file, "--json")
    assert json.loads(done.stdout)["ok"] is True


def test_tunesmith_verify_reads_the_log(project: Project, finished: Path) -> None:
    """The policy in the run file is that of the original project, so the run is put there."""
    run = finished / "runs" / "second"
    done = project.call("verify", run)
    assert done.exit_code == 0 and "ok   regulated" in done.stdout
    report = run / "report.json"
    before = report.read_bytes()
    try:
        report.write_bytes(before.replace(b"1", b"2", 1))
        done = project.call("verify", run)
    finally:
        report.write_bytes(before)
    assert done.exit_code == 7 and "FAIL regulated" in done.stdout and "report.json" in done.stdout


def test_other_programs_verify_the_signature(project: Project) -> None:
    """The program of model-signing, without tunesmith."""
    from click.testing import CliRunner
    from model_signing._cli import main

    run = project.folder / "runs" / "first"
    ignored = [
        text
        for name in ("lock", "lease", "export", "README.md")
        for text in ("--ignore-paths", run / name)
    ]
    arguments = ["verify", "key", run, "--signature", run / "signature.json", *ignored]
    arguments += ["--ignore-paths", run / "signature.json", "--no-ignore-git-paths"]
    arguments += ["--public_key", project.policy.public_key]
    done = CliRunner().invoke(main, [str(text) for text in arguments])
    assert done.exit_code == 0, done.output
    (run / "report.json").write_text("{}")
    assert CliRunner().invoke(main, [str(text) for text in arguments]).exit_code != 0


def test_verification_opens_no_file_outside_of_the_project(project: Project) -> None:
    os.symlink("/etc", project.folder / RUN / "evaluations" / "etc")
    done = project.call("audit", "verify", project.policy_file)
    assert done.exit_code == 7 and "symlink" in done.stdout
