"""Malformed files: no crash, no silent change; each row is used, or skipped with file and line."""

from __future__ import annotations

import ast
import os
import resource
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from malformed_files import CASES, ELSEWHERE, Case, Refused, SkippedRow, Used

from tunesmith.catalog import Catalog
from tunesmith.errors import DataError
from tunesmith.offers import DataLoaderOffer
from tunesmith.plugins import Selection, find_plugins
from tunesmith_cli.app import app

ROOT = Path(__file__).parents[2]
RUN_FILE = """
[model]
base = "fake:one"
[data]
train = "{file}"
test_size = 1
[technique]
use = "lora"
"""


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog(find_plugins(Selection(allowed=frozenset())))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.number}-{case.name}")
def test_a_malformed_file_has_its_outcome(tmp_path: Path, catalog: Catalog, case: Case) -> None:
    path = tmp_path / case.file
    path.write_bytes(case.content())
    started = time.process_time()
    use = catalog.recognize([str(path)])
    assert use is not None
    offer = catalog.find(DataLoaderOffer, use).offer
    loader = offer.build(offer.config(train=str(path), max_skipped=0.5))
    match case.outcome:
        case Refused(message):
            with pytest.raises(DataError) as caught:
                loader.load()
            assert caught.value.exit_code == 3
            assert message in caught.value.message and case.file in caught.value.message
        case SkippedRow(cause):
            dataset = loader.load()
            line = 2 if path.suffix == ".jsonl" else 3
            assert [(x.where, x.cause) for x in dataset.skipped] == [(f"{path}:{line}", cause)]
            assert len(dataset.skipped[0].detail) <= 80
            assert len(dataset.train) == 2
        case Used(rows):
            dataset = loader.load()
            assert (len(dataset.train), list(dataset.skipped)) == (rows, [])
    assert time.process_time() - started < 10


def test_every_case_of_the_list_is_tested() -> None:
    numbers = {case.number for case in CASES} | set(ELSEWHERE)
    assert numbers == set(range(1, 66))
    assert not {case.number for case in CASES} & set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, place


def check(folder: Path, case: Case) -> tuple[int, str]:
    """Run ``tunesmith check`` on the file of a case, and return exit code and output."""
    (folder / case.file).write_bytes(case.content())
    (folder / "run.toml").write_text(RUN_FILE.format(file=case.file))
    fake = ROOT / "tests" / "core" / "fake_plugin.py"
    arguments = ["--plugin", str(fake), "check", "run.toml", "--set", "data.max_skipped=0.5"]
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("number", [1, 29, 46])
def test_the_command_line_names_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.chdir(tmp_path)
    case = next(case for case in CASES if case.number == number)
    exit_code, output = check(tmp_path, case)
    if isinstance(case.outcome, Refused):
        assert exit_code == 3
    assert f"{case.file}:" in output


@pytest.mark.long
def test_every_file_ends_the_command_line_with_a_documented_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in CASES:
        exit_code, output = check(tmp_path, case)
        expected = {3} if isinstance(case.outcome, Refused) else {0, 3}
        assert exit_code in expected, (case.name, output)
        assert "Traceback" not in output and "\x1b" not in output, case.name
        os.unlink(case.file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
