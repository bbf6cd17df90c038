"""The README and the how-to: their files are valid, and the README's commands work."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from conftest import make_rows
from generation import invoke

from tunesmith_synthetic.options import AblateOptions
from tunesmith_synthetic.request import read_request

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT.parents[1] / "docs" / "how-to" / "synthetic.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_works(project: Path) -> None:
    (block,) = blocks(PAGES[0], "toml")
    (project / "gen.toml").write_text(block)
    pool = "".join(f"{row['prompt']}\n" for row in make_rows(200, 60))
    (project / "unlabeled.txt").write_text(pool)
    lines = [line for text in blocks(PAGES[0], "console") for line in text.splitlines()]
    commands = [line.removeprefix("$ tunesmith ") for line in lines if " data " in line]
    assert len(commands) == 2
    for command in commands:
        done = invoke(*shlex.split(command, comments=True))
        assert done.exit_code == 0, done.output
    assert re.search("^(helped|not shown|harmed)$", done.stdout, re.MULTILINE)


def test_the_files_of_the_how_to_are_valid(project: Path) -> None:
    tables = blocks(PAGES[1], "toml")
    assert len(tables) == 5
    for number, block in enumerate(tables):
        path = project / f"gen-{number}.toml"
        path.write_text(block)
        request = read_request(path)
        assert request.generator.offer.name == tomllib.loads(block)["generator"]["use"]


def test_the_how_to_names_every_option_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGES[1].read_text(encoding="utf-8"), re.M)
    named = {key: default.strip("` ") for key, default in rows if key in AblateOptions.model_fields}
    defaults = {key: str(info.default) for key, info in AblateOptions.model_fields.items()}
    assert named == defaults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_of_its_commands_exist(page: Path, project: Path) -> None:
    words = re.findall(r"tunesmith data (generate|ablate) (\S+)(.*)", page.read_text("utf-8"))
    for command, _, rest in words:
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in invoke("data", command, "--help").output
