"""``tunesmith compare``: runs that were scored alike, row by row."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from tunesmith.catalog import Catalog
from tunesmith.execution.report import Report
from tunesmith.plugins import Selection, find_plugins
from tunesmith_evidence.comparison import MetricDifference, RunResults
from tunesmith_evidence.pairs import list_metrics
from tunesmith_plugins.commands.compare.command import (
    describe_power,
    last_turn,
    list_joint_metrics,
)
from tunesmith_plugins.commands.compare.difference import RunDifference
from tunesmith_plugins.commands.compare.overview import name_folders, show_metric

Tunesmith = Callable[..., Result]


@pytest.fixture
def two(tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    """The command, with a good run and one that learned nothing, of the same data."""
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,compare,runs")
    sets = ["--set", "technique.generalizes=false", "--set", "run.name=other"]
    assert tunesmith("run", "run.toml", "--out", "good").exit_code == 0
    assert tunesmith("run", "run.toml", "--out", "bad", *sets).exit_code == 0
    return tunesmith


def test_runs_are_compared_row_by_row(two: Tunesmith) -> None:
    done = two("compare", "bad", "good", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "tunesmith.compare/2"
    (comparison,) = found["comparisons"]
    same = comparison["metrics"]["same"]
    assert (same["first"], same["second"], same["difference"]) == (0, 1, 1)
    assert (same["won"], same["lost"], same["n"]) == (4, 0, 4)
    assert same["p_value"] == same["p_value_holm"] == 0.125
    assert comparison["options"] == {"technique.generalizes": {"first": False, "second": True}}
    assert len(comparison["rows"]) == 4 and comparison["rows"][0]["gain"] == 1


def test_text(two: Tunesmith) -> None:
    done = two("compare", "bad", "good", "--items", "1")
    assert done.exit_code == 0, done.output
    for text in (
        "good minus bad", "+1.000", "unclear", "4 won, 0 lost of 4 rows, p = 0.125 (Holm)",
        "technique.generalizes: False -> True", "4 rows won", "0 rows lost", "prompt:   say",
        "expected: SAY",
    ):  # fmt: skip
        assert text in done.stdout
    assert done.stdout.count("prompt:") == 1


def test_p_values_are_adjusted_for_all_runs(two: Tunesmith) -> None:
    assert two("run", "run.toml", "--out", "third").exit_code == 0
    found = json.loads(two("compare", "bad", "good", "third", "--json").stdout)
    p_values = [c["metrics"]["same"]["p_value_holm"] for c in found["comparisons"]]
    assert p_values == [0.25, 0.25]


def test_other_rows_are_refused(two: Tunesmith) -> None:
    assert two("run", "run.toml", "--out", "rows", "--set", "data.test_size=5").exit_code == 0
    refused = two("compare", "good", "rows")
    assert refused.exit_code == 2 and "the test rows differ: 4 and 5 rows" in refused.stderr
    shared = two("compare", "good", "rows", "--shared-rows", "--json")
    assert shared.exit_code == 0, shared.output
    (comparison,) = json.loads(shared.stdout)["comparisons"]
    assert 0 < comparison["metrics"]["same"]["n"] <= 4


def test_another_scorer_is_refused(two: Tunesmith, tmp_path: Path) -> None:
    text = (tmp_path / "run.toml").read_text() + "other_models = 1\n"
    (tmp_path / "strict.toml").write_text(text)
    assert two("run", "strict.toml", "--out", "strict").exit_code == 0
    refused = two("compare", "good", "strict", "--shared-rows")
    assert refused.exit_code == 2
    assert "the options of evaluator same differ: other_models" in refused.stderr


def test_what_cannot_be_compared(two: Tunesmith, tmp_path: Path) -> None:
    assert two("compare", "good").exit_code == 2
    assert two("run", "run.toml", "--out", "failed", "--set", "run.seed=666").exit_code == 2
    (tmp_path / "all").mkdir()
    (tmp_path / "failed").rename(tmp_path / "all" / "failed")
    none = two("compare", "all")
    assert none.exit_code == 2 and "needs at least two runs" in none.stderr
    assert "skipped: all/failed: the tuned model has not been evaluated" in none.stderr
    refused = two("compare", "good", "all/failed")
    assert refused.exit_code == 2 and "has not been evaluated" in refused.stderr


def test_the_last_turn_of_a_prompt() -> None:
    assert last_turn({"prompt": [["system", "s"], ["user", "u"]]}) == "u"
    assert last_turn({"prompt": "p"}) == "p"
    assert last_turn({}) == ""


def test_no_row_is_won_by_a_metric_of_all_rows() -> None:
    catalog = Catalog(find_plugins(Selection(allowed=frozenset())))
    assert {"macro-f1", "bleu", "chrf"} <= list_joint_metrics(list_metrics(catalog))
    assert not {"accuracy", "exact-match", "loss"} & list_joint_metrics(list_metrics(catalog))
    found = MetricDifference(
        evaluator="e", metric="m", unit="", higher_is_better=True, first=0, second=1,
        difference=1, low=0, high=1, n=9, p_value=1, outcome="unclear", won=5, lost=4,
    )  # fmt: skip
    assert describe_power(found, is_joint=False).startswith("5 won, 4 lost of 9 rows")
    assert describe_power(found, is_joint=True).startswith("9 rows")


def test_of_equal_differences_without_bounds_the_power_is_not_known() -> None:
    found = MetricDifference(
        evaluator="e", metric="m", unit="nats", higher_is_better=False, first=1, second=1,
        difference=0, low=0, high=0, n=500, p_value=1, outcome="unclear",
    )  # fmt: skip
    assert describe_power(found, is_joint=False).endswith("detectable difference is unknown")
    assert describe_power(replace(found, high=1), is_joint=False).endswith("any difference")


def test_folders_of_one_name_are_distinguished() -> None:
    def names(*folders: str) -> list[str]:
        return name_folders([*map(Path, folders)])

    assert names("/a/good", "/a/bad") == ["good", "bad"]
    assert names("/a/second/run", "/a/run") == ["second/run", "a/run"]
    assert names("/a/run", "/a/run", "/b/run") == ["a/run", "a/run", "b/run"]


def test_on_unlike_rows_the_best_is_the_one_with_the_largest_difference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run on easy rows, worse than the first one there, and a better one on hard rows."""

    def differ(folder: str, before: float, after: float) -> RunDifference:
        found = MetricDifference(
            evaluator="e", metric="m", unit="", higher_is_better=True, first=before, second=after,
            difference=after - before, low=after - before, high=after - before, n=9, p_value=0.001,
            outcome="better" if after > before else "worse",
        )  # fmt: skip
        return RunDifference(RunResults(Path(folder), Report()), {"m": found}, {}, ())

    found = [differ("easy", 0.95, 0.9), differ("hard", 0.5, 0.7)]
    names = {Path(name): name for name in ("first", "easy", "hard")}
    assert show_metric("m", Path("first"), found, names, 1) == [Path("hard")]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3][0] == "hard" and lines[4] == ["first", "place", "2", "of", "3"]


def test_several_runs_are_listed_with_the_best_first(two: Tunesmith) -> None:
    sets = ["--set", "technique.generalizes=false"]
    for name in "cdefg":
        assert two("run", "run.toml", "--out", name, *sets).exit_code == 0
    done = two("compare", "bad", "good", *"cdefg", "--top", "2")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "same, higher is better, on 4 rows"
    assert lines[3].split()[:3] == ["good", "1.000", "+1.000"]
    assert [line.split()[0] for line in lines[3:6]] == ["good", "bad", "c"]
    assert "place 2 of 7" in lines[4] and lines[6] == "and 4 more runs, shown with --top 0"
    settings = lines.index("differences between the run files")
    assert lines[settings + 1].split() == ["run", "technique.generalizes"]
    assert [line.split() for line in lines[settings + 3 : settings + 6]] == [
        ["bad", "False"], ["good", "True"], ["c", "False"],
    ]  # fmt: skip
    assert "won" not in done.stdout
    assert "won" in two("compare", "bad", "good", "c").stdout


def test_a_page_compares_all_runs_of_a_folder(two: Tunesmith, tmp_path: Path) -> None:
    (tmp_path / "good").rename(tmp_path / "runs_good")
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("bad", "runs_good"):
        (tmp_path / name).rename(folder / name)
    rows = ["--set", "data.test_size=5", "--set", "run.title=<b>evil</b>"]
    done = two("run", "run.toml", "--out", "project/a-rows", *rows)
    assert done.exit_code == 0, done.output
    done = two("compare", "project", "--page", "page.html")
    assert done.exit_code == 0, done.output
    assert "skipped: project/runs_good and project/a-rows cannot be compared" in done.stderr
    text = (tmp_path / "page.html").read_text()
    assert "2 runs compared" in text and "Both runs share the first rank" in text
    assert text.index("runs_good") < text.index(">bad")
    assert "technique.generalizes" in text and "-1.000 [" in text
    assert not re.search(r"<script|https?:|src=|url\(|@import|<link", text)
    again = two("compare", "project", "--page", "page.html")
    assert again.exit_code == 2 and "page.html" in again.stderr
    shared = two("compare", "project", "--shared-rows", "--page", "all.html")
    assert shared.exit_code == 0, shared.output
    text = (tmp_path / "all.html").read_text()
    assert "3 runs compared" in text and "<b>evil" not in text and "&lt;b&gt;evil" in text
    assert two("compare", "project", "--page", "page.pdf").exit_code == 2


def test_rows_of_few_groups_are_counted_as_such(two: Tunesmith, tmp_path: Path) -> None:
    for name in ("good", "bad", "third"):
        if name == "third":
            shutil.copytree(tmp_path / "good", tmp_path / name)
            continue
        path = tmp_path / name / "evaluations" / "tuned.same.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = (json.dumps({**row, "group": f"g{n % 2}"}) + "\n" for n, row in enumerate(rows))
        path.write_text("".join(lines))
    for runs in (("bad", "good"), ("bad", "good", "third")):
        done = two("compare", *runs, "--page", f"{len(runs)}.html")
        assert done.stdout.count("lost of 4 rows of 2 groups") == len(runs) - 1
        assert ("same, higher is better, on 4 rows of 2 groups" in done.stdout) == (len(runs) > 2)
        assert "on 4 of 2 groups" in (tmp_path / f"{len(runs)}.html").read_text()
    (found,) = json.loads(two("compare", "bad", "good", "--json").stdout)["comparisons"]
    assert found["metrics"]["same"]["units"] == 2
