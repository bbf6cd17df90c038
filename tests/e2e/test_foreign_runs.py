"""Run folders and data from strangers: refused or shown harmlessly, by every command."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign
import pytest
import tomli_w
from foreign import linked, replaced, special
from tests.e2e.test_foreign_models import RUN

Build = Callable[[Path], object]
COMMANDS: dict[str, tuple[str, ...]] = {
    "report": ("report", "runs/foreign"),
    "failures": ("report", "runs/foreign", "--failures", "5"),
    "verify": ("verify", "runs/foreign"),
    "resume": ("resume", "runs/foreign"),
    "chat": ("chat", "runs/foreign", "--prompt", "hi", "--tokens", "2"),
    "export": ("export", "runs/foreign", "--to", "safetensors"),
}
FOLDER_COMMANDS = tuple(COMMANDS)
FROM = ("run", "from.toml", "--out", "runs/from")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a model, rows, run files, and a finished run in ``runs/foreign``."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copytree(tiny_folder, folder / "model")
    rows = ({"prompt": f"q {n}", "completion": f"a {n % 3}"} for n in range(12))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.toml").write_text(RUN.replace("FROM\n", ""))
    (folder / "from.toml").write_text(RUN.replace("FROM", 'from = "runs/foreign"'))
    around = foreign.Surroundings(folder)
    done = around.run("run", "run.toml", "--out", "runs/foreign")
    assert done.code == 0, done.output
    return folder


@pytest.fixture
def around(finished: Path, tmp_path: Path) -> foreign.Surroundings:
    """A copy that a test may change, with private things beside it."""
    folder = tmp_path / "here"
    shutil.copytree(finished, folder)
    (folder / "private").write_text("-----BEGIN PRIVATE KEY-----\n")
    shutil.copytree(folder / "runs" / "foreign" / "adapter", folder / "elsewhere")
    return foreign.Surroundings(folder)


def event(kind: str, **changes: Any) -> Build:
    """Return a function that changes fields of the events of a kind."""

    def build(run: Path) -> None:
        path = run / "events.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        changed = [{**line, **changes} if line["event"] == kind else line for line in lines]
        assert changed != lines
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))

    return build


def adapter_elsewhere(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    (run / "adapter").symlink_to("../../elsewhere")


ARTIFACT = "refers to a file outside the run folder"
CASES: dict[str, tuple[Build, int, str]] = {
    "lock is a link": (linked("lock", "../../private"), 2, "points outside the run folder"),
    "lock is a pipe": (special("lock", os.mkfifo), 2, "is not the folder of a run"),
    "events.jsonl is a link": (linked("events.jsonl", "../../private"), 2, "symbolic link out"),
    "events.jsonl is a pipe": (special("events.jsonl", os.mkfifo), 2, "is a pipe"),
    "report.json is a pipe": (special("report.json", os.mkfifo), 2, "is a pipe"),
    "run.toml is a pipe": (special("run.toml", os.mkfifo), 2, "is a pipe"),
    "a file is a device": (linked("notes.txt", "/dev/zero"), 2, "symbolic link out"),
    "the adapter is elsewhere": (adapter_elsewhere, 2, "points outside the run folder"),
    "the artifact leads out": (event("training-finished", artifact="../../elsewhere"), 7, ARTIFACT),
    "the artifact is an absolute path": (event("training-finished", artifact="/etc"), 7, ARTIFACT),
    "the artifact is a number": (event("training-finished", artifact=5), 7, ARTIFACT),
    "the values lead out": (event("measured", records="../../private"), 7, ARTIFACT),
    "the log is nested without end": (
        replaced("events.jsonl", '{"a":' * 5_000 + "1" + "}" * 5_000 + "\n"), 7, "events.jsonl:1"
    ),
    "the log lacks a field": (
        replaced("events.jsonl", '{"event": "run-started"}\n'), 7, "the log is damaged"
    ),
}  # fmt: skip
FAST = {"lock is a link", "events.jsonl is a pipe", "the artifact leads out", "the values lead out"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in FAST else pytest.mark.long, id=case) for case in CASES],
)
def test_every_command_refuses_the_folder(around: foreign.Surroundings, case: str) -> None:
    build, code, text = CASES[case]
    build(around.folder / "runs" / "foreign")
    for name in ("chat", "verify") if case in FAST else COMMANDS:
        around.refused(code, text, *COMMANDS[name])


def adapter_config(run: Path) -> Path:
    return run / "adapter" / "adapter_config.json"


TAMPERED: dict[str, Build] = {
    "a changed adapter": lambda run: foreign.edit(adapter_config(run), r=1),
    "an artifact that is a link": adapter_elsewhere,
    "an artifact with a link": lambda run: linked("README.md", "../../../private")(run / "adapter"),
    "an artifact with a pipe": lambda run: special("x.json", os.mkfifo)(run / "adapter"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", TAMPERED)
def test_training_does_not_begin_with_a_changed_artifact(
    around: foreign.Surroundings, case: str
) -> None:
    TAMPERED[case](around.folder / "runs" / "foreign")
    around.refused(7, "", *FROM)


@pytest.mark.long
def test_the_untouched_folder_is_used_by_every_command(around: foreign.Surroundings) -> None:
    """Otherwise the cases above could be refused for another reason."""
    for name, args in COMMANDS.items():
        done = around.run(*args)
        assert done.code == (2 if name == "resume" else 0), done.output
    assert around.run(*FROM).code == 0


CODE: dict[str, dict[str, Any]] = {
    "a plugin file": {"plugins": {"files": ["evil.py"]}},
    "a function of a table": {"technique": {"rewards": [{"function": "evil.py:score"}]}},
    "a reporter that writes elsewhere": {"reporters": [{"use": "html", "path": "../../private"}]},
    "a model in a package that is not installed": {"model": {"base": "wheel:evil"}},
    "a model of an address": {"model": {"base": "https://me:hunter2hunter2@example.org/x"}},
    "a private file as a model": {"model": {"base": "../../private"}},
}


@pytest.mark.long
@pytest.mark.parametrize("case", CODE)
def test_what_a_stored_run_file_names_is_not_followed(
    around: foreign.Surroundings, case: str
) -> None:
    run = around.folder / "runs" / "foreign"
    (run / "evil.py").write_text(foreign.python_code(around.canary))
    (around.folder / "state").exists() and shutil.rmtree(around.folder / "state")
    import tomllib

    tables = tomllib.loads((run / "run.toml").read_text())
    for name, table in CODE[case].items():
        old = tables.get(name)
        tables[name] = {**old, **table} if isinstance(old, dict) else table
    (run / "run.toml").write_text(tomli_w.dumps(tables))
    for name in ("resume", "chat", "export"):
        done = around.run(*COMMANDS[name])
        assert done.code in (2, 4), done.output
        assert "hunter2hunter2" not in done.output


# ------------------------------------------------------------ what is shown

HOSTILE = "\x1b]0;title\x07\x1b[2J<script>alert(1)</script>"
SECRETS = {
    "hugging face": "hf_" + "a1B2" * 8,
    "aws": "AKIA" + "A1B2C3D4" * 2,
    "key": "-----BEGIN PRIVATE KEY-----\nMIIEv\n-----END PRIVATE KEY-----",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "password": "https://me:hunter2hunter2@example.org/x",
}


@pytest.mark.long
def test_hostile_texts_and_secrets_of_rows_and_log(around: foreign.Surroundings) -> None:
    rows = [
        {"prompt": f"{HOSTILE} {n}", "completion": list(SECRETS.values())[n % len(SECRETS)]}
        for n in range(20)
    ]
    (around.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (("check", "run.toml"), ("run", "run.toml", "--out", "runs/x")):
        done = around.run(*command)
        assert done.code == 0, done.output
        for secret in SECRETS.values():
            assert secret not in done.output
    run = around.folder / "runs" / "x"
    event("run-started", name=HOSTILE)(run)
    event("training-finished", technique=HOSTILE)(run)
    for args in (("report", "runs/x"), ("report", "runs/x", "--failures", "20")):
        assert around.run(*args).code == 0
    assert around.run("report", "runs/x", "--to", "html").code == 0
    page = (run / "report.html").read_text()
    assert "<script" not in page and "\x1b" not in page
    for path in (run / "report.html", run / "report.json", run / "events.jsonl"):
        for secret in ("hunter2hunter2", *SECRETS.values()):
            assert secret not in path.read_text(), path


@pytest.mark.long
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (gzip.compress(b" " * (1 << 26)) * 40, "unpacks to more than"),
        (b" " * (1 << 30), "row larger than"),
        (b'{"prompt": ' + b"[" * 10**6, "nested deeper"),
        (b'{"prompt": "' + b"x" * 10**8, "rows.jsonl"),
        (b'{"a": ' + b"9" * 10**6 + b"}\n", "digits"),
        (gzip.compress(gzip.compress(b"{}")), "gzip inside gzip"),
        (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
    ],
    ids=[
        "gzip bomb",
        "1 GB of spaces",
        "JSON bomb",
        "a line of 100 MB",
        "a number",
        "gzip in gzip",
        "zip",
    ],
)
def test_data_that_explodes(around: foreign.Surroundings, content: bytes, text: str) -> None:
    (around.folder / "rows.jsonl").write_bytes(content)
    around.refused(3, text, "check", "run.toml")


@pytest.mark.long
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_data_that_never_ends(around: foreign.Surroundings, make: Callable[[Path], object]) -> None:
    special("rows.jsonl", make)(around.folder)
    around.refused(3, "is not a regular file", "check", "run.toml")
