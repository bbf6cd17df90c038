"""``tunesmith seeds``, with a plugin that needs no tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Tunesmith = Callable[..., Result]


@pytest.fixture
def trained(tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,zero-shot,seeds,runs,verdict")
    assert tunesmith("run", "run.toml", "--out", "one").exit_code == 0
    return tunesmith


def test_seeds_share_the_rows_of_the_run(trained: Tunesmith, tmp_path: Path) -> None:
    done = trained("seeds", "one", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [run["seed"] for run in found["seeds"]] == [42, 43, 44]
    assert found["baseline"] == "zero-shot" and found["n"] == 4
    assert [run["difference"] for run in found["seeds"]] == [1.0, 1.0, 1.0]
    assert (found["difference"], found["spread"]) == (1.0, 0.0)
    rows = []
    for name in ("one", "one-seed-43", "one-seed-44"):
        text = (tmp_path / name / "evaluations" / "tuned.same.jsonl").read_text()
        rows.append([json.loads(line)["source"] for line in text.splitlines()])
        plan = (tmp_path / name / "run.toml").read_text()
        assert f"seed = {name[-2:] if '-' in name else 42}" in plan
    assert rows[0] == rows[1] == rows[2]
    assert not list((tmp_path / "one-seed-43" / "evaluations").glob("zero-shot*"))


def test_finished_seeds_are_not_repeated(trained: Tunesmith, tmp_path: Path) -> None:
    assert trained("seeds", "one", "--count", "2", "-q").exit_code == 0
    events = (tmp_path / "one-seed-43" / "events.jsonl").read_text()
    done = trained("seeds", "one", "--count", "2", "-q")
    assert "over 2 seeds, the tuned model's mean difference from" in " ".join(done.stdout.split())
    assert (tmp_path / "one-seed-43" / "events.jsonl").read_text() == events


@pytest.mark.parametrize(
    ("row", "sets", "reason"),
    [
        ("", ["--set", "technique.steps=4"], "technique.steps was 6, is now 4"),
        ("say more\tSAY MORE\n", [], "training + validation + test rows were"),
        ("", ["--set", "run.seed=41"], "training + validation + test rows were"),
    ],
)
def test_a_seed_of_another_run_is_not_pooled(
    trained: Tunesmith, tmp_path: Path, row: str, sets: list[str], reason: str
) -> None:
    """A run of the same name as one that was deleted finds that one's seeds beside it."""
    assert trained("seeds", "one", "--count", "2", "-q").exit_code == 0
    shutil.rmtree(tmp_path / "one")
    with (tmp_path / "data.tsv").open("a") as file:
        file.write(row)
    assert trained("run", "run.toml", "--out", "one", *sets).exit_code == 0
    count = "3" if "run.seed=41" in sets else "2"  # of 41, 43 is the third
    done = trained("seeds", "one", "--count", count, "-q")
    shown = " ".join(done.output.split())
    assert done.exit_code == 2 and "one-seed-43: more than the seed of this run differs" in shown
    assert reason in shown
    shutil.rmtree(tmp_path / "one-seed-43")
    assert trained("seeds", "one", "--count", count, "-q").exit_code == 0


def test_what_cannot_be_pooled(trained: Tunesmith, tmp_path: Path) -> None:
    with (tmp_path / "data.tsv").open("a") as file:
        file.write("say more\tSAY MORE\n")
    done = trained("seeds", "one")
    assert done.exit_code == 2 and "the data has changed" in done.output
    (tmp_path / "none.toml").write_text(
        (tmp_path / "run.toml").read_text() + "[baselines]\nuse = []\n"
    )
    assert trained("run", "none.toml", "--out", "none").exit_code == 0
    done = trained("seeds", "none")
    assert done.exit_code == 2 and "no verdict that compares with a baseline" in done.output
