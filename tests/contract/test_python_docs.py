"""The notebook and the Python blocks of the documentation run as they are printed.

They run with a tiny model, one training step and few baselines, which environment variables set.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
PYTHON_PAGE = DOCS / "how-to" / "python.md"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("docs") / "tiny")


@pytest.fixture
def workplace(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder in which runs take a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH__MODEL__BASE", str(tiny))
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__MAX_STEPS", "1")
    monkeypatch.setenv("TUNESMITH__BASELINES__USE", '["zero-shot"]')
    # Neither runs of earlier tests nor other programs of the machine decide if a run fits.
    monkeypatch.setenv("TUNESMITH_CALIBRATION", "0")
    monkeypatch.setattr("tunesmith_torch.runtime.machine.available_memory", lambda: None)
    return tmp_path


def execute(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; return the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def cells(path: Path) -> dict[str, str]:
    """Return the source of each code cell by the cell's id."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        cell["id"]: "".join(cell["source"])
        for cell in content["cells"]
        if cell["cell_type"] == "code"
    }


@pytest.mark.processes
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_results(path: Path) -> None:
    """Stored results would not be checked by anything; ids are unique, as notebooks need."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    for cell in content["cells"]:
        assert {"id", "cell_type", "metadata", "source"} <= cell.keys()
        assert cell["cell_type"] == "markdown" or (
            cell["outputs"] == [] and cell["execution_count"] is None
        )
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.processes
def test_the_notebook_runs(workplace: Path) -> None:
    names: dict[str, Any] = {}
    shown = {
        name: execute(source, names)
        for name, source in cells(DOCS / "tutorials" / "notebook.ipynb").items()
    }
    assert shown["data"] == 36
    assert [line.partition(":")[0] for line in shown["check"]] == ["info", "info"]
    assert 0 < shown["estimate"]["low"] <= shown["estimate"]["high"]
    assert "exact-match" in shown["run"]._repr_html_()
    assert shown["report"][0] == shown["later"] == "ok"
    assert len(shown["model"]) == 2
    assert shown["compare"]["exact-match"].n == 12
    assert shown["compare"].first.name == "rank-16"
    assert 0 <= shown["evaluate"]["exact-match"].value <= 1


@pytest.mark.processes
def test_the_recipes_run_in_order(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("run.toml").write_text(
        '[model]\nbase = "x"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\ntest_size = 4\n'
        '[technique]\nuse = "lora"\n'
    )
    blocks = re.findall(r"```python\n(.*?)```", PYTHON_PAGE.read_text("utf-8"), re.DOTALL)
    for block in blocks:
        execute(block, {})
    printed = capsys.readouterr().out
    assert re.search(r"^exact-match: .*, (better|worse|unclear)$", printed, re.MULTILINE)
    assert printed.rstrip().endswith("ok") and "Interval(value=" in printed


def test_the_functions_in_the_table_exist() -> None:
    import tunesmith

    named = re.findall(r"`tunesmith\.(\w+)\(", PYTHON_PAGE.read_text("utf-8"))
    assert {"check", "run", "resume", "open_run"} <= {*named} <= {*tunesmith.__all__}


@pytest.mark.parametrize("source", ["1 +", "undefined_name", "1 / 0"])
def test_a_wrong_cell_fails(source: str) -> None:
    run: Callable[[str, dict[str, Any]], Any] = execute
    with pytest.raises((SyntaxError, NameError, ZeroDivisionError)):
        run(source, {})
