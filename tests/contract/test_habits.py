"""Habits of the project: CI runs the contributors' command, and changes have names that fit."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_ci_runs_the_same_command_on_every_supported_python() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    assert job["strategy"]["matrix"]["python"] == re.findall(r":: (3\.\d+)", classifiers)


def test_each_change_has_a_type_that_the_changelog_knows() -> None:
    known = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changes").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"[a-z0-9-]+\.(?:{'|'.join(known)})\.md", path.name), path.name


def test_the_changelog_has_the_place_where_releases_begin() -> None:
    start = PROJECT["tool"]["towncrier"]["start_string"]
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").count(start) == 1
