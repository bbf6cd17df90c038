"""Text of users, models and plugins cannot control the terminal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunesmith_cli.app import app

FAKE = Path(__file__).parents[1] / "core" / "fake_plugin.py"
HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;c2VjcmV0\x07",
    "\x1bP+q544e\x1b\\",
    "\x9b31mred",
    "rate\rFAIL",
    "back\b\b\b\bspace",
    "[bold red]markup[/bold red] [link=https://example.org]x[/link] :boom:",
    "[/]",
    "right\u202eotfel",
    "nul\x00bell\x07",
    "\u2066isolate\u2069",
    "lone \ud800 surrogate",
]
TEXTS = [" ".join(HOSTILE), *(pytest.param(text, marks=pytest.mark.processes) for text in HOSTILE)]
"""All at once in the quick lane, each alone in another."""
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def tunesmith(*args: str | Path) -> Result:
    result = CliRunner().invoke(app, ["--plugin", str(FAKE), *map(str, args)])
    for stream in (result.stdout, result.stderr):
        found = FORBIDDEN.search(stream)
        assert found is None, (args, found, stream)
    assert "this is a bug" not in result.stderr
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,evil")
    monkeypatch.setenv("FORCE_COLOR", "")
    return tmp_path


def write(here: Path, text: str) -> None:
    """Data and a run file with the text wherever a user can put it."""
    plain = text.replace("\n", " ").encode("utf-8", "replace").decode()
    rows = [f"{plain} {n}\t{plain} {n}" for n in range(12)]
    (here / "data.tsv").write_text("\n".join([plain, *rows]) + "\n", newline="")
    (here / "run.toml").write_text(
        '[model]\nbase = "fake:one"\n[data]\nuse = "lines"\ntrain = "data.tsv"\n'
        '[technique]\nuse = "by-heart"\ngeneralizes = false\n'
        f"[baselines]\nsystem_prompt = {json.dumps(plain)}\n"
    )


@pytest.mark.parametrize("text", TEXTS)
def test_data_and_options_are_shown_harmlessly(here: Path, text: str) -> None:
    write(here, text)
    assert tunesmith("check", "run.toml", "--origin").exit_code == 0
    assert tunesmith("check", "run.toml", "--json").exit_code == 0
    assert tunesmith("plan", "run.toml").exit_code == 0
    assert tunesmith("plan", "run.toml", "--resolved").exit_code == 0
    assert tunesmith("run", "run.toml", "--out", "done").exit_code == 0
    assert tunesmith("report", "done").exit_code == 0
    assert tunesmith("verify", "done").exit_code == 0
    asked = text.encode("utf-8", "replace").decode()
    chatted = tunesmith("chat", "done", "--compare", "base", "--prompt", f"{asked} 3")
    assert chatted.exit_code == 0
    assert tunesmith("chat", "done", "--json", "--prompt", asked).exit_code == 0


@pytest.mark.parametrize("text", TEXTS)
def test_names_are_shown_harmlessly(here: Path, text: str) -> None:
    write(here, "fine")
    key = json.dumps(text.encode("utf-8", "replace").decode())
    broken = (here / "run.toml").read_text().replace("[technique]", f"[technique]\n{key} = {key}")
    (here / "broken.toml").write_text(broken.replace('"fake:one"', key))
    assert tunesmith("check", "broken.toml").exit_code == 2
    assert tunesmith("check", "run.toml", "--set", f"technique.use={key}").exit_code == 2
    # No NUL reaches a process in its arguments; bytes that are no UTF-8 come as such surrogates.
    text = text.replace("\0", "").replace("\ud800", "\udc80")
    assert tunesmith("plugins", "show", text).exit_code == 2
    assert tunesmith(text).exit_code == 2
    for command in ("run", "report", "verify", "resume", "chat"):
        assert tunesmith(command, text).exit_code == 2
    assert tunesmith("run", "run.toml", f"--{text}").exit_code == 2


@pytest.mark.parametrize("text", TEXTS)
def test_plugins_are_shown_harmlessly(here: Path, text: str) -> None:
    write(here, "fine")
    (here / "evil.py").write_text(
        "from tunesmith.hookspecs import hookimpl\n"
        "from tunesmith.offers import CommandOffer, Metric\n"
        "from tunesmith.contracts import Finding\n"
        f"TEXT = {text!r}\n"
        "@hookimpl\n"
        "def tunesmith_commands():\n"
        "    return [CommandOffer(name='evil', summary=TEXT, load=lambda: None)]\n"
        "@hookimpl\n"
        "def tunesmith_review_plan(plan):\n"
        "    return [Finding(level='warning', where=TEXT, message=TEXT)]\n"
        "@hookimpl\n"
        "def tunesmith_review_data(dataset, plan):\n"
        "    raise RuntimeError(TEXT)\n"
    )
    assert tunesmith("--plugin", "evil.py", "--help").exit_code == 0
    assert tunesmith("--plugin", "evil.py", "plugins", "list").exit_code == 0
    assert tunesmith("--plugin", "evil.py", "plugins", "show", "evil").exit_code == 0
    assert tunesmith("--plugin", "evil.py", "check", "run.toml").exit_code == 0
    assert tunesmith("--plugin", "evil.py", "run", "run.toml", "--out", "done").exit_code == 0
    assert tunesmith("--plugin", "evil.py", "report", "done").exit_code == 0
    (here / "evil.py").write_text(f"raise RuntimeError({text!r})\n")
    shutil.copy(here / "evil.py", here / "evil2.py")
    assert tunesmith("--plugin", "evil.py", "plugins", "list").exit_code == 0


def test_secrets_are_not_shown(here: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    write(here, secret)
    for args in (["check", "run.toml", "--origin"], ["check", "run.toml", "--json"]):
        done = tunesmith(*args)
        assert secret not in done.output and "[redacted:hf_token]" in done.stdout
    refused = tunesmith("check", "run.toml", "--set", f"model.base={secret}")
    assert secret not in refused.output


def test_secrets_are_not_in_what_people_share(here: Path) -> None:
    """Rows stay as they are where they are needed, such as in evaluations and quarantine."""
    secret, password = "hf_" + "a1B2" * 8, "hunter2hunter2"
    write(here, f"{secret} https://me:{password}@host/x")
    done = tunesmith("run", "run.toml", "--out", "done")
    replayed = tunesmith("report", "done", "--to", "jsonlines")
    shown = tunesmith("report", "done", "--failures", "20")
    for output in (done.output, replayed.output, shown.output):
        assert secret not in output and password not in output
    assert "[redacted:hf_token]" in replayed.stdout
    leaking = {
        path.relative_to(here / "done").parts[0]
        for path in (here / "done").rglob("*")
        if path.is_file() and re.search(f"{secret}|{password}".encode(), path.read_bytes())
    }
    assert leaking <= {"run.toml", "evaluations", "artifact", "checkpoints", "skipped.jsonl"}
    assert "evaluations" in leaking
    for name in ("report.html", "report.json", "events.jsonl"):
        assert "[redacted:hf_token]" in (here / "done" / name).read_text(), name


def test_a_password_in_a_run_file_is_not_stored_in_the_log(here: Path) -> None:
    write(here, "fine")
    secret = "hunter2hunter2"
    options = ["technique.mode=raise", f"baselines.system_prompt=db://me:{secret}@host"]
    sets = [argument for option in options for argument in ("--set", option)]
    failed = tunesmith("run", "run.toml", "--out", "done", *sets)
    assert failed.exit_code == 8
    events = (here / "done" / "events.jsonl").read_text()
    assert secret not in failed.output + events and "[redacted:password]" in events
    again = tunesmith("resume", "done")
    assert again.exit_code == 8  # and not 2: the plan is the same as the redacted one of the log
    assert secret not in again.output
