"""The ablation: equal arms, words, resumption, and rows with wrong answers never help."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import make_rows, write_lines
from generation import invoke, read_lines, request_of, write_generation

from tunesmith import api
from tunesmith.errors import DataError
from tunesmith.records import Completion
from tunesmith.storage import lock
from tunesmith_synthetic.ablation import ARMS, Ablation, Score, conclude
from tunesmith_synthetic.commands.ablate import show
from tunesmith_synthetic.commands.generate import generate
from tunesmith_synthetic.loader import SyntheticLoader, SyntheticOptions, add_rows
from tunesmith_synthetic.request import Request

CLASSIFIER = {"train": "classifier", "classifier": "linear", "rows": "test"}
RULES = {"use": "rules", "rules": ["typos"], "rounds": 3}


def pseudo_label(project: Path, **tables: Any) -> Request:
    """Generate pseudo-labels for a project with few labels, where they help."""
    write_lines(project / "rows.jsonl", make_rows(0, 12))
    write_lines(project / "test.jsonl", make_rows(400, 90))
    (project / "pool.txt").write_text("".join(f"{row['prompt']}\n" for row in make_rows(200, 90)))
    generator = {"use": "pseudo-label", "pool": "pool.txt", "labelers": ["nearest"]}
    request = request_of(project, generator, share=0.95, ablate=CLASSIFIER, **tables)
    generate(request)
    return request


def relabel(request: Request, wrong: float) -> None:
    """Label the synthetic rows by their word, with a share of wrong labels."""
    path, rng = request.folder / "synthetic.jsonl", random.Random(0)
    right = {row["prompt"]: row["completion"] for row in make_rows(200, 90)}
    rows = read_lines(path)
    for row in rows:
        label = right[row["prompt"]]
        others = sorted({*right.values()} - {label})
        row["completion"] = rng.choice(others) if rng.random() < wrong else label
    write_lines(path, rows)


def test_the_arms_have_equally_many_rows() -> None:
    real = [Completion(source=f"r:{n}", prompt=f"p{n}", completion="ab"[n % 2]) for n in range(10)]
    new = [Completion(source=f"s:{n}", prompt=f"q{n}", completion="a") for n in range(24)]
    added = {arm: add_rows(real, new, arm, 1) for arm in ARMS}
    assert {len(rows) for rows in added.values()} == {24} and added["synthetic"] == new
    counts = Counter(record.source for record in added["real"])
    assert set(counts.values()) == {2, 3} and len(counts) == 10
    assert {record.completion for record in added["upsampled"]} == {"a"}  # type: ignore[attr-defined]
    assert {*added["upsampled"]} <= {*real}
    assert add_rows(real, new, "upsampled", 2) != added["upsampled"]
    assert add_rows(real, new, "upsampled", 1) == added["upsampled"]


def test_right_rows_help_and_wrong_ones_do_not(project: Path) -> None:
    request = pseudo_label(project)
    words = {}
    for wrong in (0.0, 0.9):
        relabel(request, wrong)
        ablation = Ablation(request)
        result = conclude(ablation, {job: ablation.measure(*job) for job in ablation.jobs()})
        words[wrong] = result["word"]
        assert result["sentence"].startswith(result["word"])
    assert words == {0.0: "helped", 0.9: "harmed"}


class Given:
    """An ablation with given scores."""

    def __init__(self, request: Request) -> None:
        self.ablation = Ablation(request)

    def word(self, **gains: float) -> str:
        rng = random.Random(0)
        base = [rng.random() for _ in range(100)]
        scores: Any = {
            (arm, seed): Score(
                {
                    str(n): value + gains.get(arm, 0.0) + rng.gauss(0, 0.05)
                    for n, value in enumerate(base)
                },
                {str(n): 1.0 for n in range(100)},
                {str(n): None for n in range(100)},
            )
            for arm, seed in self.ablation.jobs()
        }
        word: str = conclude(self.ablation, scores)["word"]
        return word


def test_the_word_needs_both_controls(project: Path) -> None:
    given = Given(request_of(project, RULES, ablate={"rows": "test"}))
    generate(given.ablation.request)
    assert given.word(synthetic=0.2) == "helped"
    assert given.word() == "not shown"
    assert given.word(synthetic=0.2, upsampled=0.2) == "not shown"
    assert given.word(synthetic=0.2, real=0.2) == "not shown"
    assert given.word(synthetic=0.2, upsampled=0.4) == "harmed"
    assert given.word(real=0.1, upsampled=0.1) == "harmed"


def test_validation_rows_decide_if_there_are_any(project: Path) -> None:
    assert Ablation(request_of(project, RULES)).part == "test"
    text = (project / "run.toml").read_text()
    (project / "run.toml").write_text(
        text.replace('test.jsonl"', 'test.jsonl"\nvalidation = "v.jsonl"')
    )
    write_lines(project / "v.jsonl", make_rows(600, 12))
    ablation = Ablation(request_of(project, RULES))
    assert ablation.part == "validation" and len(ablation.scored) == 12
    assert Ablation(request_of(project, RULES, ablate={"rows": "test"})).part == "test"


def test_the_command_trains_resumes_and_writes_the_card(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_generation(project, RULES, ablate={"rows": "test"})
    assert invoke("data", "generate", path).exit_code == 0
    planned = invoke("data", "ablate", path, "--dry-run")
    assert "9 trainings (ngram)" in planned.output and "scored on 30 test rows" in planned.output
    real, count = api.create_run_folder, 0

    def fail_at_the_fifth(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            raise DataError("x:1", "simulated")
        return real(*given)

    monkeypatch.setattr(api, "create_run_folder", fail_at_the_fifth)
    assert invoke("data", "ablate", path).exit_code == 3
    assert "4 already done" in invoke("data", "ablate", path, "--dry-run").output
    done = invoke("data", "ablate", path, "--json")
    assert done.exit_code == 0, done.output
    assert count == 5 + 5, "a finished arm was trained again"
    result = json.loads(done.stdout)
    card = json.loads((project / "synthetic" / "card.json").read_text())
    assert card["ablation"] == result and result["word"] in ("helped", "not shown", "harmed")
    steps = set()
    for folder in (project / "synthetic" / "ablation").glob("*/*-*/"):
        report = api.read_report(folder)
        steps.add(len(report.steps))
        assert report.data is not None and report.data.test == 30
    assert len(steps) == 1, "the arms have different numbers of optimizer steps"


def test_an_interrupted_training_continues(project: Path) -> None:
    request = request_of(project, RULES, ablate={"rows": "test"})
    generate(request)
    ablation = Ablation(request)
    plan, _ = api.load_plan(ablation._tables("real", 42))
    path = ablation._file("real", 42).with_suffix("")
    path.parent.mkdir(parents=True)
    folder = api.create_run_folder(plan, path)
    assert folder.path == path
    (path / "run.toml").write_text(plan.to_toml())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_TRUST_PLUGINS", "1")
        first = ablation.measure("real", 42)
    assert first == ablation.measure("real", 42) and len(first.values) == 30


def test_one_arm_can_be_a_job_of_its_own(project: Path) -> None:
    path = write_generation(project, RULES, ablate=CLASSIFIER)
    assert invoke("data", "generate", path).exit_code == 0
    done = invoke("data", "ablate", path, "--only", "synthetic-43")
    assert done.exit_code == 0 and done.stdout.startswith("synthetic-43: "), done.output
    assert "1 already done" in invoke("data", "ablate", path, "--dry-run").output
    wrong = invoke("data", "ablate", path, "--only", "synthetic-9")
    assert wrong.exit_code == 2 and "one of real-42" in wrong.output


def test_changed_rows_are_measured_again(project: Path) -> None:
    request = request_of(project, RULES, ablate=CLASSIFIER)
    generate(request)
    ablation = Ablation(request)
    ablation.measure("real", 42)
    assert ablation.is_done("real", 42) and not ablation.is_done("real", 43)
    rows = read_lines(request.folder / "synthetic.jsonl")
    write_lines(request.folder / "synthetic.jsonl", rows[1:])
    assert not ablation.is_done("real", 42)


def test_rows_of_other_data_are_refused(project: Path) -> None:
    path = write_generation(project, RULES)
    assert invoke("data", "ablate", path).exit_code == 2
    assert invoke("data", "generate", path).exit_code == 0
    write_lines(project / "rows.jsonl", make_rows(1, 30))
    done = invoke("data", "ablate", path)
    assert done.exit_code == 2 and "do not belong to this data" in done.output
    with pytest.raises(DataError, match="have changed since"):
        SyntheticLoader(SyntheticOptions(folder=str(project / "synthetic"))).load()


def test_the_result_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    difference = {"value": 0.1, "low": 0.06, "high": 0.14, "units": 90}
    show(
        {
            "word": "helped",
            "metric": "exact-match",
            "n": 90,
            "rows": "test",
            "seeds": [1, 2, 3],
            "scores": {"real": [0.5], "upsampled": [0.5], "synthetic": [0.6]},
            "differences": {"real": difference, "upsampled": difference},
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert "helped" in lines and max(map(len, lines)) <= 80
    assert sum("+0.100 [+0.060, +0.140]" in line for line in lines) == 2


def test_rows_that_were_not_scored_are_left_out(project: Path) -> None:
    """A row of weight 0 has a value without meaning."""
    given = Given(request_of(project, RULES, ablate={"rows": "test"}))
    keys = [str(n) for n in range(20)]
    gain = {"synthetic": 1.0, "real": 0.0, "upsampled": 0.0}
    scores: Any = {
        (arm, seed): Score(
            {key: gain[arm] if int(key) < 12 else 0.5 for key in keys},
            {key: float(int(key) < 12 or arm != "real") for key in keys},
            dict.fromkeys(keys),
        )
        for arm, seed in given.ablation.jobs()
    }
    generate(given.ablation.request)
    result = conclude(given.ablation, scores)
    assert result["differences"]["real"]["value"] == 1.0
    assert result["scores"]["real"] == [0.0] * 3


def test_rows_that_changed_after_the_ablation_did_not_help(project: Path) -> None:
    path = write_generation(project, RULES, ablate=CLASSIFIER)
    assert invoke("data", "generate", path).exit_code == 0
    assert invoke("data", "ablate", path).exit_code == 0
    rows = read_lines(project / "synthetic" / "synthetic.jsonl")
    write_lines(project / "synthetic" / "synthetic.jsonl", rows[1:])
    done = invoke("check", project / "synthetic" / "run.toml")
    assert "they have changed since the ablation" in " ".join(done.output.split())


def test_two_processes_do_not_generate_into_one_folder(project: Path) -> None:
    path = write_generation(project, RULES)
    (project / "synthetic").mkdir()
    with lock(project / "synthetic"):
        done = invoke("data", "generate", path)
    assert done.exit_code != 0 and "in use" in done.output
    assert not (project / "synthetic" / "synthetic.jsonl").exists()
