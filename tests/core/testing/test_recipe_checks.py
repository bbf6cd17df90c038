"""Faults of recipes, each with the check of the kit that finds it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tunesmith.testing import recipes
from tunesmith.testing.kit import run_checks

PLUGIN = """
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import RecipeOffer

@hookimpl
def tunesmith_recipes():
    return [RecipeOffer(name="triage", summary="a project", package=__name__, folder="triage")]
"""
RUN = """
[model]
base = "wheel:not-installed"
[data]
use = "jsonl"
train = "rows/train.jsonl"
test_size = 2
[technique]
use = "lora"
[[evaluators]]
use = "exact-match"
"""
ROWS = "".join(f'{{"prompt": "question {n}", "completion": "{n} is it"}}\n' for n in range(10))
GENERATE = f"from pathlib import Path\nPath('rows/train.jsonl').write_text({ROWS!r})\n"
AGAIN = "generates_its_files_again"
FAULTS = {
    "no fault": ({}, None),
    "no readme": ({"README.md": ""}, "has_the_files_of_a_project"),
    "too large": ({"README.md": "x" * (recipes.MAX_BYTES + 1)}, "has_the_files_of_a_project"),
    "unknown key": ({"run.toml": RUN + "epoch = 3\n"}, "passes_its_own_check"),
    "no data": ({"rows/train.jsonl": ""}, "passes_its_own_check"),
    "a generator": ({"generate.py": GENERATE}, None),
    "other rows": ({"generate.py": GENERATE.replace("is it", "it is")}, AGAIN),
    "rows that nothing generates": ({"generate.py": GENERATE, "old.jsonl": ROWS}, AGAIN),
    "a new file": ({"generate.py": GENERATE + "Path('new.md').write_text('')\n"}, AGAIN),
    "a generator that fails": ({"generate.py": "import missing_module"}, AGAIN),
    "an error of a review": (
        {"run.toml": RUN + "max_length = 8\n"},
        "passes_its_own_check",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, expected = FAULTS[fault]
    name = f"recipe_of_{fault.replace(' ', '_')}"
    package = tmp_path / name
    files = {"README.md": "A project.", "run.toml": RUN, "rows/train.jsonl": ROWS, **changed}
    for path, text in files.items():
        (package / "triage" / path).parent.mkdir(parents=True, exist_ok=True)
        (package / "triage" / path).write_text(text, encoding="utf-8")
    (package / "__init__.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = run_checks(__import__(name))
    sys.modules.pop(name)
    failed = [result.check for result in found if result.state == "failed"]
    details = [result.detail for result in found if result.state == "failed"]
    assert failed == ([expected] if expected else []), details
