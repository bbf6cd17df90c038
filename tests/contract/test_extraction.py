"""A built-in plugin, copied into a distribution of another name, passes the kit."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from environment import Environment

pytestmark = pytest.mark.environment

PLUGINS = Path(__file__).parents[2] / "plugins" / "tunesmith_plugins"

PROJECT = """
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "tunesmith-copied"
version = "0.1"
dependencies = ["tunesmith>=0.1"]

[project.entry-points.tunesmith]
copied = "tunesmith_copied:PLUGIN"
"""

CONTRACT = """
from tunesmith_copied import PLUGIN
from tunesmith.testing import parametrize_checks

@parametrize_checks(PLUGIN)
def test_contract(check):
    check()
"""
TECHNIQUE_CONTRACT = """
from tunesmith_copied import PLUGIN
from tunesmith.testing import parametrize_checks
from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

QUICK = {"epochs": 6.0, "batch_size": 4, "learning_rate": 1e-2}

@parametrize_checks(PLUGIN, model=get_tiny_model_folder, samples={"copied": QUICK})
def test_contract(check):
    check()
"""
LOADER_CONTRACT = """
from pathlib import Path
from tempfile import mkdtemp

from tunesmith_copied import PLUGIN
from tunesmith.records import Completion
from tunesmith.testing import LoaderExample, parametrize_checks

FOLDER = Path(mkdtemp())
(FOLDER / "good.jsonl").write_text('{"prompt": "a", "completion": "b"}\\n' * 3)
(FOLDER / "broken.jsonl").write_text('{"prompt": "a"}\\n')
GOOD = {"train": str(FOLDER / "good.jsonl")}
ROWS = [Completion(source="x", prompt="a", completion="b")] * 3

@parametrize_checks(
    PLUGIN,
    samples={"copied": GOOD},
    broken={"copied": {"train": str(FOLDER / "broken.jsonl")}},
    examples={"copied": [LoaderExample(options=GOOD, train=ROWS)]},
)
def test_contract(check):
    check()
"""


@pytest.mark.parametrize(
    ("built_in", "offer", "hooks", "contract"),
    [
        (
            "evaluators/exact_match.py",
            "exact-match",
            {"tunesmith_evaluators": ".exact_match:EXACT_MATCH"},
            CONTRACT,
        ),
        ("reporters/console", "console", {"tunesmith_reporters": ".offer:CONSOLE"}, CONTRACT),
        (
            "techniques/lora",
            "lora",
            {"tunesmith_techniques": ".offer:LORA", "tunesmith_review_plan": ".offer:review_plan"},
            TECHNIQUE_CONTRACT,
        ),
        ("loaders/jsonl", "jsonl", {"tunesmith_data_loaders": ".offer:JSONL"}, LOADER_CONTRACT),
    ],
)
def test_a_built_in_works_as_a_separate_distribution(
    built_in: str, offer: str, hooks: dict[str, str], contract: str, tmp_path: Path
) -> None:
    pytest.importorskip("hatchling")
    project = tmp_path / "project"
    package = project / "tunesmith_copied"
    if (PLUGINS / built_in).is_file():
        package.mkdir(parents=True)
        copy(PLUGINS / built_in, package)
    else:
        copytree(PLUGINS / built_in, package, ignore=ignore_patterns("__pycache__"))
    strings = "".join(f", {hook}={name!r}" for hook, name in hooks.items())
    (package / "__init__.py").write_text(
        f"from tunesmith.hookspecs import lazy_plugin\nPLUGIN = lazy_plugin(__name__{strings})\n",
        encoding="utf-8",
    )
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        renamed = text.replace(
            f"tunesmith_plugins.{built_in.replace('/', '.')}", "tunesmith_copied"
        )
        path.write_text(renamed.replace(f'name="{offer}"', 'name="copied"'), encoding="utf-8")
        assert "tunesmith_plugins" not in renamed, f"{path.name} imports another built-in"
    (project / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (project / "test_contract.py").write_text(contract, encoding="utf-8")
    environment = Environment.create(tmp_path / "venv")
    environment.install(project)
    tests = tmp_path / "tests"
    tests.mkdir()
    (project / "test_contract.py").rename(tests / "test_contract.py")
    found = environment.tunesmith("plugins", "show", "copied", cwd=tests)
    assert found.returncode == 0 and "tunesmith-copied 0.1" in found.stdout, found.stderr
    done = environment.run(["-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tests)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) > 12, done.stdout
