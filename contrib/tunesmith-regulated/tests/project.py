"""A project with a policy, whose model is an n-gram model, so that a run takes a second."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tunesmith.testing import ngram
from tunesmith_cli.app import app
from tunesmith_regulated.audit_log import Entry, read_entries
from tunesmith_regulated.options import Policy, current_account, read_policy

NGRAM = "from tunesmith.testing.ngram import tunesmith_find_model, tunesmith_techniques\n"
ROLES = ("start", "promote", "export", "delete")
ANSWERS = ("facilities", "it", "payroll")


def write_keys(folder: Path) -> Path:
    """Write a new private and public key to a folder; return the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "key.pub").write_bytes(public)
    return folder


@dataclass
class Project:
    """A folder with ``policy.toml``, ``run.toml``, rows, keys and runs."""

    folder: Path

    @property
    def policy_file(self) -> Path:
        return self.folder / "policy.toml"

    @property
    def policy(self) -> Policy:
        return read_policy(self.policy_file)

    @property
    def log(self) -> Path:
        return self.folder / "audit" / "log.jsonl"

    def entries(self) -> list[Entry]:
        return read_entries(self.policy)[0]

    def write_policy(self, **options: Any) -> None:
        """Write the policy: this account has all roles, except where the options differ."""
        given = {role: [current_account()] for role in ROLES}
        roles = {**given, **options.pop("roles", {})}
        text = tomli_w.dumps({"plugins": ["file"], **options, "roles": roles})
        self.policy_file.write_text(text, encoding="utf-8")
        self.policy_file.chmod(0o644)

    def call(self, *arguments: str | Path) -> Result:
        """Run ``tunesmith`` with the n-gram technique."""
        plugin = self.folder / "ngram_plugin.py"
        return CliRunner().invoke(app, ["--plugin", str(plugin), *map(str, arguments)])

    def run(self, name: str, *sets: str, check: bool = True) -> Result:
        """Start a run in ``runs/NAME``."""
        out = self.folder / "runs" / name
        options = [text for value in sets for text in ("--set", value)]
        done = self.call("run", self.folder / "run.toml", "--out", out, "-q", *options)
        assert not check or done.exit_code == 0, done.output
        return done


def write_rows(path: Path, first: int = 0, count: int = 30) -> None:
    """Write different rows with one of three answers."""
    rows = [
        {"prompt": f"ticket {n} about {n * n}", "completion": ANSWERS[n % 3], "id": f"case-{n:05}"}
        for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_project(folder: Path, keys: Path) -> Project:
    """Write a project without runs."""
    project = Project(folder)
    (folder / "audit").mkdir()
    for name in ("key.pem", "key.pub"):
        shutil.copy(keys / name, folder / "audit" / name)
    (folder / "ngram_plugin.py").write_text(NGRAM, encoding="utf-8")
    ngram.save_ngram_model(folder / "base")
    write_rows(folder / "rows.jsonl")
    write_rows(folder / "test.jsonl", first=100, count=12)
    tables = {
        "run": {"side_effects": False, "folder": "runs"},
        "model": {"base": "base"},
        "data": {"use": "jsonl", "train": "rows.jsonl", "test": "test.jsonl"},
        "technique": {"use": "ngram"},
        "baselines": {"use": ["majority"]},
        "evaluators": [{"use": "exact-match"}],
        "regulated": {"policy": "policy.toml"},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    project.write_policy()
    return project


def list_files(*folders: Path) -> list[Path]:
    """Return all files in folders, hidden ones too."""
    return [
        Path(here, name)
        for folder in folders
        for here, _, names in os.walk(folder)
        for name in names
    ]
