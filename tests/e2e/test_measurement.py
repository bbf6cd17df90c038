"""Through the command line: every model is measured by the same rules, and clusters are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tunesmith_cli.app import app
from tunesmith_torch.testing.tiny_model import save_tiny_model

pytestmark = pytest.mark.processes

QUESTIONS = (
    "How do I change the billing address of my company account?",
    "Which ports does the printer on the second floor need?",
    "The export of last month's invoices stops after three pages.",
    "Can two people share one license for the drawing program?",
    "My badge opens the garage but not the office door.",
    "Where is the form for business trips outside of Europe?",
)
RUN = """
[model]
base = "model"
[data]
train = "train.jsonl"
test = "test.jsonl"
[technique]
use = "full"
max_steps = 1
learning_rate = 1e-12
[baselines]
use = ["majority", "zero-shot"]
rows = 10
[[evaluators]]
use = "exact-match"
"""


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def call(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has learned nothing: base and tuned model are one."""
    folder = tmp_path_factory.mktemp("measurement")
    save_tiny_model(folder / "model")
    write_rows(
        folder / "train.jsonl",
        [(f"what is in box {n * n}?", f"tin {n}" if n % 3 else "paper") for n in range(40)],
    )
    # Five forms of each question; one answer is longer than all others.
    test = [
        (
            f"{opening}{question}",
            "a" * 90 if question == QUESTIONS[5] and not n else "paper" if n % 2 else f"tin {n}",
        )
        for question in QUESTIONS
        for n, opening in enumerate(("", "Hello, ", "Please help: ", "Hi! ", "Question: "))
    ]
    write_rows(folder / "test.jsonl", test)
    (folder / "run.toml").write_text(RUN, encoding="utf-8")
    call("run", str(folder / "run.toml"), "--out", str(folder / "out"))
    return folder / "out"


def read_rows(folder: Path, name: str) -> dict[int, Any]:
    lines = (folder / "evaluations" / name).read_text(encoding="utf-8").splitlines()
    return {row["row"]: row for row in map(json.loads, lines)}


def test_a_model_gives_the_same_answers_on_some_rows_and_on_all(run: Path) -> None:
    base, tuned = (read_rows(run, f"{name}.exact-match.jsonl") for name in ("zero-shot", "tuned"))
    assert len(base) == 10 and len(tuned) == 30
    assert 25 not in base, "the longest answer is not among the rows of the baseline"
    assert {n: row["output"] for n, row in base.items()} == {n: tuned[n]["output"] for n in base}
    found = call("report", str(run))["verdict"]["comparisons"]["zero-shot"]
    assert found["difference"] == 0.0 and found["outcome"] == "unclear"


def test_clusters_of_a_test_file_are_the_units(run: Path) -> None:
    events = {e["model"]: e for e in call("report", str(run))["evaluations"]}
    assert (events["tuned"]["n"], events["tuned"]["units"]) == (30, 6)
    groups = [row["group"] for row in read_rows(run, "tuned.exact-match.jsonl").values()]
    assert groups == [groups[n - n % 5] for n in range(30)] and len(set(groups)) == 6
    again = call("evaluate", str(run), "--out", str(run.parent / "again"))["measured"][0]
    assert again["units"] == 6
    ends = ("value", "low", "high")
    assert [again[end] for end in ends] == [events["tuned"][end] for end in ends]
    text = CliRunner().invoke(app, ["report", str(run)]).output
    assert "30 of 6 groups" in text


def test_cut_answers_are_counted_and_foreseen(run: Path) -> None:
    events = {e["model"]: e for e in call("report", str(run))["evaluations"]}
    rows = read_rows(run, "tuned.exact-match.jsonl").values()
    assert events["tuned"]["cut"] == sum(row.get("cut", False) for row in rows) > 0
    assert events["majority"]["cut"] == 0
    short = ["--set", "evaluators.0.max_new_tokens=2"]
    done = CliRunner().invoke(app, ["check", str(run.parent / "run.toml"), *short])
    assert "exact-match generates at most 2 tokens" in " ".join(done.output.split())
    out = ["--out", str(run.parent / "cut")]
    verdict = call("run", str(run.parent / "run.toml"), *short, *out)["verdict"]
    assert "were cut off before they reached the length of the expected" in verdict["sentence"]
