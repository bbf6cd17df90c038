"""Every test is in exactly one lane, every lane is run by something, markers are documented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
RULES = {
    target: (prerequisites.split(), recipe)
    for target, prerequisites, recipe in re.findall(
        r"^([a-z-]+):(.*)\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M
    )
}
"""Prerequisites and recipe of each target of the Makefile."""
LANES = {
    target: expression
    for target, (_, recipe) in RULES.items()
    for expression in re.findall(r'\$\(PYTEST\) -m "(.*)"', recipe)
}
"""The expression that selects the tests of each lane of this project's own tests."""


def markers() -> dict[str, str]:
    """Return the text of each marker in pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = settings["tool"]["pytest"]["ini_options"]["markers"]
    return dict(line.split(": ", 1) for line in lines)


def lanes_of(marks: set[str]) -> list[str]:
    """Return the lanes that run a test with these marks."""
    return [
        lane
        for lane, expression in LANES.items()
        if Expression.compile(expression).evaluate(lambda name, /, **_: name in marks)
    ]


def test_each_combination_of_markers_is_in_exactly_one_lane() -> None:
    assert set(LANES) == {"test", "test-ci", "test-faults", "test-long", "test-gpu"}
    for chosen in product([False, True], repeat=len(markers())):
        marks = {name for name, is_set in zip(markers(), chosen, strict=True) if is_set}
        assert len(lanes_of(marks)) == 1, f"a test with the marks {marks} runs in {lanes_of(marks)}"


def test_a_test_without_a_mark_is_in_the_quick_lane() -> None:
    assert lanes_of(set()) == ["test"]


@pytest.mark.parametrize("marker", markers())
def test_a_marker_is_documented_with_its_lane(marker: str) -> None:
    (lane,) = lanes_of({marker})
    assert markers()[marker].endswith(f"(make {lane})")
    assert re.search(rf"^\| `make {lane}` \|.*`{marker}`.*\|$", CONTRIBUTING, re.MULTILINE)


def test_each_lane_is_documented_and_run() -> None:
    """By the continuous integration or by the heavy lane."""
    lanes = {target for target in RULES if target.startswith("test")} | {"lint"}
    (in_ci,) = re.findall(r"for lane in (.*);", CI)
    heavy, _ = RULES["test-heavy"]
    assert set(in_ci.split()) == {"lint", "test", "test-ci"}
    assert {*in_ci.split(), *heavy, "test-heavy"} == lanes
    for lane in lanes:
        assert f"| `make {lane}` |" in CONTRIBUTING, f"{lane} is not in CONTRIBUTING.md"


@pytest.mark.parametrize("tool", ["ruff check", "ruff format", "mypy", "lint-imports"])
def test_lint_runs_every_tool(tool: str) -> None:
    """Import contracts, style and types are laws too; they are checked in a lane of their own."""
    assert f"$(BIN)/{tool}" in RULES["lint"][1]


# --------------------------------------------------------------------------- contrib/


def run_contrib(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / ".ci" / "contrib"],
        env={**os.environ, "CONTRIB": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def write_distribution(folder: Path, test: str) -> None:
    """Write a distribution whose environment is ready: it has the Python of this one."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    (folder / "test_it.py").write_text(test, encoding="utf-8")
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    (folder / ".venv" / ".installed").touch()


def test_no_distribution_in_contrib_is_said_and_no_failure(tmp_path: Path) -> None:
    done = run_contrib(tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        f"{tmp_path}/ holds no distribution: nothing to test\n",
    )


def test_each_distribution_in_contrib_is_tested(tmp_path: Path) -> None:
    """Also after one that fails; the failed ones are named at the end."""
    write_distribution(tmp_path / "a", "def test(): assert False\n")
    write_distribution(tmp_path / "b", "def test(): pass\n")
    done = run_contrib(tmp_path)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "1 passed" in done.stdout
    assert done.stdout.splitlines()[-1] == f"failed: {tmp_path / 'a'}"
    (tmp_path / "a" / "test_it.py").write_text("def test(): pass\n", encoding="utf-8")
    assert run_contrib(tmp_path).returncode == 0
