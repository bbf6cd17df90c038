"""The lane of installed wheels: what each distribution declares for it, and recorded results."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from environment import Environment
from pydantic import ValidationError
from tests import installed
from wheels import ROOT

PROJECTS = [ROOT, *installed.list_projects()]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_the_readme_shows_the_commands_that_are_run(project: Path, tmp_path: Path) -> None:
    readme = installed.Readme.read(project, tmp_path / "x.whl", tmp_path / "tiny", tmp_path)
    assert {*readme.options.commands} <= readme.list_commands()
    files = dict(readme.list_files())
    options = readme.options
    everything = "\n".join([*files.values(), *options.commands, *options.installs])
    assert all(old in everything for old in options.replace), "a text does not occur"
    assert not [name for name, text in files.items() if text.isalpha()], "no block is a file"


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    text = '[tool.tunesmith.readme]\ncomands = ["tunesmith run run.toml"]\n'
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValidationError, match="comands"):
        installed.read_options(tmp_path)


def test_results_are_those_of_existing_distributions() -> None:
    tested = json.loads(installed.TESTED.read_text(encoding="utf-8"))
    names = {"tunesmith" if project == ROOT else project.name for project in PROJECTS}
    assert tested.keys() <= names
    keys = {"version", "date", "python", "packages", "kit", "readme", "not_shown"}
    assert all(about.keys() == keys for about in tested.values())


def test_the_scripts_of_a_cloned_environment_start_its_own_python(tmp_path: Path) -> None:
    first = Environment.create(tmp_path / "first", only=())
    script = first.folder / "bin" / "where"
    script.write_text(f"#!{first.python}\nimport sys\nprint(sys.prefix)\n", encoding="utf-8")
    script.chmod(0o755)
    library = next(first.folder.glob("lib/python*/site-packages"))
    (library / "shared.py").write_text("", encoding="utf-8")
    second = installed.clone(first, tmp_path / "second")
    for environment in (first, second):
        done = subprocess.run(
            [environment.folder / "bin" / "where"], capture_output=True, text=True
        )
        assert done.stdout.strip() == str(environment.folder)
    (copied,) = second.folder.glob("lib/python*/site-packages/shared.py")
    assert copied.stat().st_ino == (library / "shared.py").stat().st_ino, "files are not shared"


def test_commands_of_a_readme_run_outside_of_the_checkout(tmp_path: Path) -> None:
    """Its file is written, its command runs with the adapted texts, and the result is read."""
    project, place = tmp_path / "project", tmp_path / "place"
    project.mkdir()
    place.mkdir()
    fence = "```"
    (project / "README.md").write_text(
        f"{fence}console\n$ python copy.py s3://bucket/a   # copies\n{fence}\n"
        f"{fence}python\nimport sys\nopen('a', 'w').write(sys.argv[1])\n{fence}\n",
        encoding="utf-8",
    )
    (project / "pyproject.toml").write_text(
        '[tool.tunesmith.readme]\ncommands = ["python copy.py s3://bucket/a"]\n'
        'files = { "copy.py" = "python" }\nreplace = { "s3://bucket" = "{folder}/bucket" }\n'
        'reads = """\nprint(open("a").read())\n"""\n',
        encoding="utf-8",
    )
    environment = Environment.create(tmp_path / "venv", only=())
    readme = installed.Readme.read(project, tmp_path / "x.whl", tmp_path / "tiny", place)
    readme.write_files()
    done = readme.run_commands(environment)
    assert done == f"`python copy.py s3://bucket/a`; reads: {place}/bucket/a"
    assert str(tmp_path / "tiny") in (place / "run.toml").read_text(encoding="utf-8")
    with pytest.raises(AssertionError, match="does not show"):
        replace(readme, text="").run_commands(environment)
