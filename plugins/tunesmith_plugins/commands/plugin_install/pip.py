"""Call pip in this environment. Pip's environment variables and configuration files apply."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tunesmith.errors import EnvironmentProblem
from tunesmith.text import one_line

PROTECTED = ("torch", "transformers", "peft")
"""Distributions that affect the results of all runs, so a plugin must not change them silently."""


@dataclass(frozen=True)
class Change:
    """A distribution that pip installs, with its versions before (None if new) and after."""

    name: str
    before: str | None
    after: str
    publisher: str = ""
    """Author and home page from its metadata, and the download URL."""
    is_requested: bool = False
    """True if a requirement named the distribution; False if it is a dependency."""

    def __str__(self) -> str:
        return f"{self.name} {self.before or 'not installed'} -> {self.after}"


def plan_install(requirements: Sequence[str]) -> list[Change]:
    """Return the changes that pip would make, without making them.

    Raises:
        EnvironmentProblem: pip is missing, or finds no matching versions.
    """
    with TemporaryDirectory(prefix="tunesmith-") as folder:
        report = Path(folder) / "report.json"
        run_pip(["install", "--dry-run", "--report", str(report), *requirements])
        planned: list[dict[str, Any]] = json.loads(report.read_bytes())["install"]
    changes = []
    for item in planned:
        name, after = item["metadata"]["name"], item["metadata"]["version"]
        changes.append(
            Change(
                canonicalize_name(name),
                find_installed_version(name),
                after,
                publisher=describe_publisher(item),
                is_requested=item.get("requested", False),
            )
        )
    return sorted(changes, key=lambda change: change.name)


def describe_publisher(item: dict[str, Any]) -> str:
    """Return the author, home page and URL of a distribution in pip's report."""
    metadata_ = item["metadata"]
    people = [metadata_.get(key) for key in ("author", "author_email", "maintainer")]
    pages = [metadata_.get("home_page"), *metadata_.get("project_url", [])]
    said = [next(filter(None, people), "an unnamed author"), *filter(None, pages[:2])]
    return one_line(f"{', '.join(said)}; from {item['download_info']['url']}", 300)


def is_pinned(requirement: str) -> bool:
    """Return True for a path, a URL, or a name with one exact version."""
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return True  # a path or a URL; pip rejects anything else
    exact = (s for s in parsed.specifier if s.operator in ("==", "===") and "*" not in s.version)
    return parsed.url is not None or next(exact, None) is not None


def find_installed_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def find_protected_changes(changes: Sequence[Change]) -> list[Change]:
    """Return the changes of protected distributions."""
    return [c for c in changes if c.name in PROTECTED and c.before != c.after]


def run_pip(arguments: Sequence[str]) -> None:
    """Run pip without showing its output.

    Raises:
        EnvironmentProblem: pip is missing or failed; the message is pip's last error.
    """
    if util.find_spec("pip") is None:
        raise EnvironmentProblem(
            f"{sys.executable} has no pip", hint=f"install it with: {sys.executable} -m ensurepip"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*command, *arguments, "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reasons = [one_line(line.removeprefix("ERROR: "), 300) for line in lines]
        raise EnvironmentProblem("pip: " + ("; ".join(reasons) or one_line(done.stderr, 500)))
