"""Checks of recipes: the project is complete, and `tunesmith check` finds no error in it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import make_plan
from tunesmith.config.run_file import read_run_file
from tunesmith.errors import TunesmithError
from tunesmith.execution.run_data import load_data
from tunesmith.plugins import Selection, find_plugins
from tunesmith.testing.checks import NotApplicable, Subject, check, require

MAX_BYTES = 5_000_000
"""Largest size of a project; its data should be a small example."""
GENERATOR = "generate.py"
ANY_MODEL = {"model.base": "organization/model"}
"""The project is also checked where its base model is not installed."""


@check("recipe")
def has_the_files_of_a_project(subject: Subject) -> None:
    """The project has a run file and a README, and is small."""
    files = subject.offer.read_files()
    for name in ("run.toml", "README.md"):
        require(bool(files.get(name)), f"the project has no {name}")
    size = sum(map(len, files.values()))
    require(size <= MAX_BYTES, f"the files have {size:,} bytes, more than {MAX_BYTES:,}")


@check("recipe")
def passes_its_own_check(subject: Subject) -> None:
    """The run file is valid, its data can be read, and no review of the data finds an error.

    The run file can name components of all installed plugins.
    """
    file = subject.module.__file__
    files = [file] if subject.module.__name__.startswith("tunesmith_file_") else []
    catalog = Catalog(find_plugins(Selection(files=tuple(files))))
    with _copy_project(subject) as folder:
        try:
            run_file = read_run_file(Path(folder, "run.toml"), sets=ANY_MODEL)
            plan = make_plan(run_file, catalog, runnable=False)
            dataset, parts = load_data(plan)
        except TunesmithError as error:
            raise AssertionError(f"run.toml: {error}") from None
        findings = catalog.review_data(
            dataset,
            plan,
            evaluators=plan.evaluators,
            train=parts.train,
            validation=parts.validation,
            test=parts.test,
        )
        errors = [finding.message for _, finding in findings if finding.level == "error"]
    require(not errors, f"`tunesmith check` finds an error: {' '.join(errors):.200}")


@check("recipe")
def generates_its_files_again(subject: Subject) -> None:
    """If the project has a ``generate.py``, it writes the project's files with the same content."""
    files = subject.offer.read_files()
    if GENERATOR not in files:
        raise NotApplicable(f"the project has no {GENERATOR}")
    with _copy_project(subject) as folder:
        for path in folder.rglob("*.jsonl"):
            path.unlink()
        command = [sys.executable, "-B", GENERATOR]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        require(done.returncode == 0, f"{GENERATOR} fails: {done.stderr[-200:]}")
        written = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        differ = {n for n, p in written.items() if p.read_bytes() != files.get(n)}
    differ |= files.keys() - written.keys()
    require(not differ, f"{GENERATOR} writes other content: {', '.join(sorted(differ)):.200}")


@contextmanager
def _copy_project(subject: Subject) -> Iterator[Path]:
    """Copy the project to a folder that exists in the block."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in subject.offer.read_files().items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(folder)
