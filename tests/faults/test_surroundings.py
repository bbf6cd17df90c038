"""A run in damaged surroundings: right bits or none, the exit code of the last event, no "bug".

The cases, and the law that they must obey, are in :mod:`surroundings`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import surroundings
from surroundings import CASES, QUICK, WITH_TENSORS, Case, find_faults, play
from trials import count_trials

from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.testing.tiny_project import write_project


@pytest.fixture(scope="module")
def bits(memory: Path) -> str:
    """The bits of a run that nothing disturbs."""
    outcome = play(Case(), memory / "undamaged")
    assert outcome.code == outcome.event["exit_code"] == 0
    return outcome.bits


def test_there_are_a_hundred_cases() -> None:
    assert len(CASES) >= 100
    assert {*QUICK, *WITH_TENSORS} <= CASES.keys()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.processes if name in QUICK else pytest.mark.faults)
        for name in CASES
    ],
)
def test_damaged_surroundings(name: str, tmp_path: Path, bits: str) -> None:
    outcome = play(CASES[name], tmp_path / "case")
    assert not find_faults(CASES[name], outcome, bits), outcome.stderr[-2000:]
    count_trials(f"damaged surroundings: {name.partition(':')[0].partition(',')[0]}")


@pytest.fixture(scope="module")
def model(memory: Path) -> Path:
    return save_tiny_model(memory / "tiny")


@pytest.fixture(scope="module")
def trained_bits(memory: Path, model: Path) -> str:
    """The bits of a real training that nothing disturbs."""
    outcome = play(Case(), memory / "trained", lambda folder: write_training(folder, model))
    assert outcome.code == outcome.event["exit_code"] == 0
    return outcome.bits


def write_training(folder: Path, model: Path) -> None:
    (folder / "home").mkdir(parents=True)
    write_project(folder, model, epochs=1, batch_size=16, every=2)


@pytest.mark.faults
@pytest.mark.parametrize("name", WITH_TENSORS)
def test_a_training_in_damaged_surroundings(
    name: str, tmp_path: Path, model: Path, trained_bits: str
) -> None:
    case = CASES[name]
    outcome = play(case, tmp_path / "case", lambda folder: write_training(folder, model))
    assert not find_faults(case, outcome, trained_bits), outcome.stderr[-2000:]
    assert "plugin" not in outcome.stderr or outcome.code == 0
    count_trials("damaged surroundings: with a real training")


@pytest.mark.faults
def test_a_training_without_docstrings_is_refused(tmp_path: Path, model: Path) -> None:
    for command, codes in (("check", (2,)), ("run", (2,))):
        case = Case({"PYTHONOPTIMIZE": "2"}, arguments=(command, "run.toml"), codes=codes)
        outcome = play(case, tmp_path / command, lambda folder: write_training(folder, model))
        assert outcome.code == 2
        assert "error: python: python -OO removes docstrings" in outcome.stderr


def test_the_law_finds_what_breaks_it(bits: str) -> None:
    """Every way to break the law is found."""
    good = surroundings.Outcome(0, "", "", {"exit_code": 0}, bits)
    case = Case()
    assert not find_faults(case, good, bits)
    for changes in (
        {"code": 1},
        {"event": {}},
        {"event": {"exit_code": 5}},
        {"bits": "other"},
        {"stderr": "this is a bug"},
        {"code": 4, "event": {"exit_code": 4}},
    ):
        broken = surroundings.Outcome(**{**vars(good), **changes})
        assert find_faults(case, broken, bits), changes
