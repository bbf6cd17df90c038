"""Two ranks do what a process alone does, and end together whatever happens to one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from safetensors.torch import load_file

from tunesmith_torch import ranks
from tunesmith_torch.tiny import save_tiny_model

RANKS = 2


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two ranks have carried out all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_model(folder / "model")
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"]
    names = [*rank_cases.EQUAL, *rank_cases.FAULTS]
    done = subprocess.run(
        [*torchrun, rank_cases.__file__, str(folder), *names],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def ends(place: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((place / name / f"rank-{n}.json").read_text()) for n in range(RANKS)]


def told(place: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((place / name / "told.json").read_text())
    return found


def same(one: Any, two: Any, where: str) -> None:
    """The same but for rounding, number by number."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=2e-5, abs=2e-6), where
    else:
        assert one == two, where


@pytest.mark.parametrize("name", rank_cases.EQUAL)
def test_ranks_come_to_what_a_process_alone_comes_to(
    place: Path, tmp_path: Path, name: str
) -> None:
    """Losses, norms, counts, figures and looks of every step; and all weights in the end."""
    rank_cases.carry_out([name], tmp_path, place / "model")
    (alone,) = [json.loads((tmp_path / name / "rank-0.json").read_text())]
    assert alone["ended"] == ""
    assert [end["ended"] for end in ends(place, name)] == [""] * RANKS
    theirs, ours = told(place, name), told(tmp_path, name)
    assert len(theirs) == len(ours) > 1
    for number, (one, two) in enumerate(zip(theirs, ours, strict=True)):
        same(one, two, str(number))
    weights = load_file(tmp_path / name / "weights")
    for key, tensor in load_file(place / name / "weights").items():
        torch.testing.assert_close(tensor, weights[key], rtol=2e-5, atol=2e-5, msg=key)


@pytest.mark.parametrize("name", [*rank_cases.EQUAL, "memory"])
def test_all_ranks_have_the_same_bits(place: Path, name: str) -> None:
    one, *others = ends(place, name)
    assert all(other["digest"] == one["digest"] for other in others)


def test_memory_that_runs_out_on_one_rank_changes_nothing(place: Path) -> None:
    """It halves its own micro-batches, and all compute the batch again."""
    assert [end["ended"] for end in ends(place, "memory")] == [""] * RANKS
    for one, two in zip(told(place, "memory"), told(place, "full"), strict=True):
        same(one, two, "memory")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("not a number", "TrainingError: step 2: the loss is not finite"),
        ("a bug", "TrainingError: rank 1: KeyError: 'where'"),
        ("other weights", "TrainingError: rank 1: the weights differ from those of rank 0"),
    ],
)
def test_what_goes_wrong_on_one_rank_ends_all_with_one_error(
    place: Path, name: str, said: str
) -> None:
    first, *others = ends(place, name)
    assert first["ended"].startswith(said)
    assert [end["ended"].partition(":")[0] for end in others] == ["Dismissed"] * len(others)


def test_a_post_mortem_is_written_once(place: Path) -> None:
    found = json.loads((place / "not a number" / "run" / "postmortem.json").read_text())
    assert found["step"] == 2
    assert "nan" in found["losses"]
    assert len(found["rows"]) == 4


def test_shares_are_even_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def dealt(sizes: list[int], count: int) -> list[list[int]]:
        found = []
        for number in range(count):
            monkeypatch.setattr(ranks, "_team", ranks._Team(number, count))
            found.append(ranks.deal(sizes))
        monkeypatch.setattr(ranks, "_team", None)
        return found

    assert dealt([5, 5, 5, 5, 5], 2) == [[0, 2, 4], [1, 3]]
    assert dealt([7], 3) == [[0], [], []]
    for count in (1, 2, 3, 7):
        sizes = [1 + n * n % 13 for n in range(20)]
        shares = dealt(sizes, count)
        assert sorted(place for share in shares for place in share) == list(range(20))
        loads = [sum(sizes[place] for place in share) for share in shares]
        assert max(loads) - min(loads) <= max(sizes)
    assert ranks.deal([3, 1, 2]) == [0, 1, 2]
