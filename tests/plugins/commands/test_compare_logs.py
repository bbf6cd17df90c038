"""``tunesmith compare`` reads sample logs that lm-evaluation-harness and inspect really wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from scipy.optimize import brentq
from scipy.stats import norm

from tunesmith.errors import UsageError
from tunesmith_evidence.comparison import RunResults
from tunesmith_plugins.commands.compare.sample_logs import match_run, read_sample_log

Tunesmith = Callable[..., Result]
LOGS = Path(__file__).parents[2] / "fixtures" / "sample_logs"
OLD, NEW = (next((LOGS / "lm_eval" / name).glob("results_*.json")) for name in ("old", "new"))
OLD_INSPECT, NEW_INSPECT = LOGS / "inspect" / "old.eval", LOGS / "inspect" / "new.json"


def find_tango(won: int, lost: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of (won - lost) / n, after Tango (1998), equations 12 to 15."""

    def statistic(delta: float) -> float:
        b = -won - lost + (2 * n - won + lost) * delta
        q = ((b * b + 8 * n * lost * delta * (1 - delta)) ** 0.5 - b) / (4 * n)
        variance = max(n * (2 * q + delta * (1 - delta)), 1e-12)
        return float((won - lost - n * delta) / variance**0.5)

    z, value = float(norm.ppf(0.975)), (won - lost) / n
    low = brentq(lambda delta: statistic(delta) - z, -1 + 1e-9, value - 1e-9)
    high = brentq(lambda delta: statistic(delta) + z, value + 1e-9, 1 - 1e-9)
    return float(low), float(high)


def read_lines(path: Path, name: str) -> list[dict[str, Any]]:
    (file,) = path.parent.glob(f"samples_{name}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def compare(tunesmith: Tunesmith, *options: str | Path) -> dict[str, Any]:
    done = tunesmith("compare", *options, "--json")
    assert done.exit_code == 0, done.output
    (comparison,) = json.loads(done.stdout)["comparisons"]
    return dict(comparison["metrics"])


@pytest.mark.parametrize(("task", "metric"), [("tickets", "exact_match"), ("queues", "acc")])
def test_lm_eval_equals_a_computation_by_hand(tunesmith: Tunesmith, task: str, metric: str) -> None:
    values = [[row[metric] for row in read_lines(path, task)] for path in (OLD, NEW)]
    won = sum(before < after for before, after in zip(*values, strict=True))
    lost = sum(before > after for before, after in zip(*values, strict=True))
    found = compare(tunesmith, OLD, NEW)[metric]
    assert (found["won"], found["lost"], found["n"]) == (won, lost, 12)
    assert found["difference"] == pytest.approx((won - lost) / 12)
    interval = [found["low"], found["high"]]
    assert interval == pytest.approx(find_tango(won, lost, 12), abs=1e-6)
    # The files of one task, and their mean in the harness's own results.
    alone = [next(path.parent.glob(f"samples_{task}_*.jsonl")) for path in (OLD, NEW)]
    again = compare(tunesmith, *alone)
    assert [*again] == [metric] and again[metric]["low"] == found["low"]
    reported = [json.loads(p.read_text())["results"][task][f"{metric},none"] for p in (OLD, NEW)]
    assert [found["first"], found["second"]] == pytest.approx(reported)


def test_metrics_that_are_no_means_over_rows_are_left_out(tunesmith: Tunesmith) -> None:
    assert set(compare(tunesmith, OLD, NEW)) == {"exact_match", "acc"}


def test_a_number_that_is_combined_otherwise_is_left_out(tmp_path: Path) -> None:
    """If the harness reports another value than the mean of the rows, an interval misleads."""
    shutil.copytree(OLD.parent, tmp_path / "old")
    path = tmp_path / "old" / OLD.name
    results = json.loads(path.read_text())
    results["results"]["tickets"]["exact_match,none"] += 0.01
    path.write_text(json.dumps(results))
    assert [*read_sample_log(path).measured] == [("queues", "acc")]


def test_a_line_separator_within_a_text_ends_no_line(tmp_path: Path) -> None:
    """The harness writes texts as they are, and U+2028 is a line boundary for Python."""
    shutil.copytree(OLD.parent, tmp_path / "old")
    (samples,) = (tmp_path / "old").glob("samples_tickets_*")
    lines = [json.loads(line) for line in samples.read_text().split("\n") if line]
    for line in lines:
        line["doc"]["note"] = "one\u2028two\x85three"
    written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    samples.write_text(written, encoding="utf-8")
    found = read_sample_log(samples).measured["tickets", "exact_match"]
    assert found.n == len(lines)
    assert found.value == read_sample_log(OLD).measured["tickets", "exact_match"].value


def test_filters_are_metrics_of_their_own(tmp_path: Path) -> None:
    shutil.copytree(OLD.parent, tmp_path / "old")
    path = tmp_path / "old" / OLD.name
    (samples,) = path.parent.glob("samples_tickets_*")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    both = [*lines, *({**line, "filter": "strict", "exact_match": 0.0} for line in lines)]
    samples.write_text("".join(json.dumps(line) + "\n" for line in both))
    results = json.loads(path.read_text())
    results["results"]["tickets"]["exact_match,strict"] = 0.0
    results["higher_is_better"]["tickets"]["exact_match"] = False
    path.write_text(json.dumps(results))
    log = read_sample_log(path)
    found = {metric: event for (task, metric), event in log.measured.items() if task == "tickets"}
    assert {*found} == {"exact_match", "exact_match,strict"}
    assert not any(event.higher_is_better for event in found.values())
    assert values_of(log, "tickets", "exact_match") == [row["exact_match"] for row in lines]
    assert values_of(log, "tickets", "exact_match,strict") == [0.0] * 12


def values_of(log: RunResults, task: str, metric: str) -> list[float]:
    return [row[metric]["value"] for row in log.rows(task, metric).values()]


def test_inspect_equals_a_computation_by_hand() -> None:
    """The epochs of a sample are averaged; its letters are numbers."""
    pytest.importorskip("backports.zstd")
    samples = json.loads(NEW_INSPECT.read_text())["samples"]
    new = {
        number: sum(s["scores"]["exact"]["value"] == "C" for s in samples if s["id"] == number) / 2
        for number in range(1, 13)
    }
    logs = [read_sample_log(path) for path in (OLD_INSPECT, NEW_INSPECT)]
    assert values_of(logs[1], "tickets", "exact") == [*new.values()] and 0.5 in new.values()
    means = [sum(values_of(log, "tickets", "exact")) / 12 for log in logs]
    assert means == pytest.approx([5 / 12, 1 / 3])  # the harness's own results


def test_inspect_logs_are_compared(tunesmith: Tunesmith) -> None:
    pytest.importorskip("backports.zstd")
    found = compare(tunesmith, OLD_INSPECT, NEW_INSPECT)
    assert found["exact"]["difference"] == pytest.approx(1 / 3 - 5 / 12)
    assert found["exact"]["low"] < 1 / 3 - 5 / 12 < found["exact"]["high"]
    assert set(found) == {"exact", "f1"}


def make_run(tmp_path: Path, rows: Sequence[dict[str, str]]) -> RunResults:
    """Return a run that answers every row with "parcel", in another order than the log."""
    answered = [
        {
            "source": f"test.jsonl:{n}",
            "prompt": [["system", "be brief"], ["user", row["prompt"]]],
            "expected": row["completion"], "group": "one", "output": "parcel",
            "exact-match": {"value": float(row["completion"] == "parcel"), "weight": 1.0},
        }
        for n, row in reversed([*enumerate(rows)])
    ]  # fmt: skip
    event = replace(
        read_sample_log(OLD).measured["tickets", "exact_match"],
        evaluator="exact", metric="exact-match",
    )  # fmt: skip
    return RunResults.of_rows(tmp_path, {"technique": {"use": "lora"}}, [(event, answered)])


def test_a_log_and_a_run_are_paired_by_their_rows(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (LOGS / "test.jsonl").read_text().splitlines()]
    run, log = make_run(tmp_path, rows), read_sample_log(OLD)
    matched = match_run(log, run).rows("exact", "exact-match")
    assert [*matched] == [*run.rows("exact", "exact-match")]
    by_prompt = {row["doc"]["prompt"]: row for row in read_lines(OLD, "tickets")}
    for row in matched.values():
        logged = by_prompt[row["prompt"][-1][1]]
        assert row["exact-match"]["value"] == logged["exact_match"] and row["group"] == "one"
        assert row["output"] == logged["filtered_resps"][0]
    assert len(match_run(read_sample_log(NEW_INSPECT), run).rows("exact", "exact-match")) == 12
    other = make_run(tmp_path, [{"prompt": "another", "completion": "parcel"}])
    with pytest.raises(UsageError, match="no test row with the same metric in common"):
        match_run(log, other)
    changed = make_run(tmp_path, [{**row, "completion": "other"} for row in rows])
    with pytest.raises(UsageError, match="no test row"):
        match_run(log, changed)


def test_a_run_and_a_log_on_the_command_line(tunesmith: Tunesmith, finished: Path) -> None:
    refused = tunesmith("compare", finished, OLD)
    assert refused.exit_code == 2 and "the run's metrics are same" in refused.stderr
    refused = tunesmith("compare", OLD, finished)
    assert refused.exit_code == 2 and "list the run before the log" in refused.stderr
    refused = tunesmith("compare", OLD, NEW, "--page", "page.html")
    assert refused.exit_code == 2 and "--page" in refused.stderr


def test_other_tasks_are_refused(tunesmith: Tunesmith, tmp_path: Path) -> None:
    shutil.copytree(OLD.parent, tmp_path / "old")
    (samples,) = (tmp_path / "old").glob("samples_tickets_*")
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:8]))
    path = tmp_path / "old" / OLD.name
    results = json.loads(path.read_text())
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    mean = sum(line["exact_match"] for line in lines) / 8
    results["results"]["tickets"]["exact_match,none"] = mean
    path.write_text(json.dumps(results))
    refused = tunesmith("compare", path, NEW)
    assert refused.exit_code == 2 and "8 and 12 rows, 8 in both" in refused.stderr
    assert compare(tunesmith, path, NEW, "--shared-rows")["exact_match"]["n"] == 8


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.json", "[]"), ("log.json", '{"samples": []}'), ("results_1.json", "{"),
     ("log.jsonl", '{"prompt": "x"}'), ("log.eval", "no zip"), ("samples_a_1.jsonl", "{}")],
)  # fmt: skip
def test_another_file_is_refused(tunesmith: Tunesmith, name: str, text: str) -> None:
    Path(name).write_text(text)
    refused = tunesmith("compare", name, OLD)
    assert refused.exit_code == 2, refused.output
    assert "sample log" in refused.stderr or "cannot be read" in refused.stderr
