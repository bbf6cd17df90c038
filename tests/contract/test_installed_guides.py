"""Guides that install plugins with pip, in an environment of their own, as a stranger would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from environment import Environment
from guide import InstalledShell, play

DOCS = Path(__file__).parents[2] / "docs"
TUTORIALS = sorted(p for p in (DOCS / "tutorials").glob("first-*.md") if p.stem != "first-run")
pytestmark = pytest.mark.environment


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("guides") / "tiny")


@pytest.fixture
def shell(tiny: Path, tmp_path: Path) -> InstalledShell:
    """An environment without plugins of others, with a tiny model and one training step."""
    environment = Environment.create(tmp_path / "venv")
    environment.variables = {
        "TUNESMITH__MODEL__BASE": str(tiny),
        "TUNESMITH__TECHNIQUE__MAX_STEPS": "1",
        "TUNESMITH__BASELINES__USE": '["zero-shot"]',
        "COLUMNS": "160",
    }
    return InstalledShell(environment)


def test_a_technique_from_pip(shell: InstalledShell, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    play(DOCS / "how-to" / "technique.md", tmp_path / "work", shell)
    (path,) = tmp_path.glob("work/runs/*/report.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["training"]["technique"] == "top-layers" and report["run"]["status"] == "ok"
    (used,) = [p for p in report["plugins"] if p["distribution"] == "tunesmith-top-layers"]
    assert used["version"] == "0.1.0"


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_first_plugin(page: Path, shell: InstalledShell, tmp_path: Path) -> None:
    """Its tests pass, the kit passes, and a command or a run uses it."""
    (tmp_path / "work").mkdir()
    if page.stem in ("first-baseline", "first-encoder"):
        del shell.environment.variables["TUNESMITH__BASELINES__USE"]
    printed = play(page, tmp_path / "work", shell)
    assert " passed" in printed and " failed" not in printed
