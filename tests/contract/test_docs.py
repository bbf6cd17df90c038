"""The documentation is true: reference pages come from the code, examples run, links lead on."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says() -> None:
    for name, text in generator().pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, (
            f"docs/{name} is out of date: python docs/generate.py"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_is_toml(page: Path) -> None:
    for block in blocks(page, "toml"):
        tomllib.loads(block)


def test_the_readme_example_is_a_run_file(tmp_path: Path) -> None:
    """Its keys are real; only the model has to be one that is here."""
    from tunesmith import plugins
    from tunesmith.catalog import Catalog
    from tunesmith.config import read_plan, run_file
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    text = blocks(ROOT / "README.md", "toml")[0]
    (tmp_path / "run.toml").write_text(text)
    (tmp_path / "tickets.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    model = save_tiny_model(tmp_path / "model")
    read = run_file.read_run_file(
        tmp_path / "run.toml", sets=[f"model.base={model}"], environment={}
    )
    made = read_plan.make(read, Catalog(plugins.find()))
    assert made.technique.offer.name == "lora"


def test_the_readme_plugin_is_short_and_works(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from tunesmith.cli.app import app
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    (tmp_path / "brief.py").write_text(code)
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_tiny_model(tmp_path / "model")
    settings = next(block for block in blocks(ROOT / "README.md", "toml") if "brief" in block)
    (tmp_path / "run.toml").write_text(
        f'{settings}\n[model]\nbase = "{model}"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\n'
        '[technique]\nuse = "lora"\nmax_steps = 1\n'
    )
    result = CliRunner().invoke(app, ["run", str(tmp_path / "run.toml"), "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert {e["metric"] for e in report["evaluations"]} == {"brief"}
