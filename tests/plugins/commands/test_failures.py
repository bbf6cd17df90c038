"""``tunesmith failures``: weak slices and rows to read, with their prompts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.benchmarks.slices import PLANTS, draw, hide_topic, make_rows

from tunesmith_plugins.commands.failures.find import choose_metric, find_failures, open_results

Tunesmith = Callable[..., Result]


@pytest.fixture
def failing(tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    """The command, with a finished run that has 600 rows and is weak on those of one channel."""
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,failures,zero-shot,runs")
    assert tunesmith("run", "run.toml", "--out", "done").exit_code == 0
    rng = random.Random(8)
    rows = hide_topic(draw(make_rows(600, rng), rng, PLANTS["column, 20 % of the rows"][2], 0.5))
    for model, values in (("tuned", [r.value for r in rows]), ("zero-shot", [1.0, *[0.0] * 599])):
        lines = [
            {
                "row": row.number,
                "source": row.source,
                "prompt": row.prompt,
                "expected": row.expected,
                "output": row.expected if value else f"{row.expected}!",
                "slices": dict(row.columns),
                "same": {"value": value, "weight": 1.0},
            }
            for row, value in zip(rows, values, strict=True)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "done" / "evaluations" / f"{model}.same.jsonl").write_text(text)
    return tunesmith


def test_the_weak_slice_is_found(failing: Tunesmith) -> None:
    done = failing("failures", "done", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "tunesmith.failures/1"
    confirmed = [part for part in found["slices"] if part["confirmed"]]
    assert "channel = mail" in [part["name"] for part in confirmed]
    assert all(row["prompt"] for row in found["wrong"]) and found["wrong"]
    assert len(found["near_misses"]) == len(found["wrong"])


def test_text(failing: Tunesmith) -> None:
    done = failing("failures", "done", "--items", "2")
    assert done.exit_code == 0, done.output
    for text in ("channel = mail", "weak", "the worst rows", "near-misses", "only in case"):
        assert text in done.stdout
    base = done.stdout.partition("the base model was better")[2].partition("near-misses")[0]
    columns = {
        line.index(":") + len(line.partition(":")[2]) - len(line.partition(":")[2].lstrip())
        for line in base.splitlines()
        if line.startswith("    ")
    }
    assert "    base:     " in base and len(columns) == 1, "the labels are aligned"
    assert done.stdout.count("    prompt:") in (4, 5)  # one row at most got worse


def test_rows_are_exported_once_with_their_reasons(failing: Tunesmith, tmp_path: Path) -> None:
    assert failing("failures", "done", "--export", "rows.jsonl").exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len({row["source"] for row in rows}) == len(rows) > 60
    assert any("weak slice: channel = mail" in row["reasons"] for row in rows)
    assert rows[0]["messages"][0]["role"] == "user" and rows[0]["columns"]
    again = failing("failures", "done", "--export", "rows.jsonl")
    assert again.exit_code == 2 and "already exists" in again.stderr


def test_a_half_is_not_chosen_without_a_file(failing: Tunesmith) -> None:
    refused = failing("failures", "done", "--for-next")
    assert (
        refused.exit_code == 2 and "--for-next: this option needs --export FILE" in refused.stderr
    )


def test_metrics(failing: Tunesmith, tmp_path: Path) -> None:
    refused = failing("failures", "done", "--metric", "loss")
    assert refused.exit_code == 2 and "the measured metrics: same" in refused.stderr
    assert failing("failures", "done", "--metric", "same").exit_code == 0


def test_failures_of_an_evaluation(
    tunesmith: Tunesmith, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,failures,evaluate")
    (tmp_path / "new.tsv").write_text("say lion\tSAY LION\nsay bear\tGrrr\n")
    for arguments, wrong in (([], ["Grrr"]), (["--base-only"], ["SAY LION", "Grrr"])):
        out = f"results-{len(wrong)}"
        done = tunesmith("evaluate", finished, "--data", "new.tsv", "--out", out, *arguments)
        assert done.exit_code == 0, done.output
        found = json.loads(tunesmith("failures", out, "--json").stdout)
        assert [row["expected"] for row in found["wrong"]] == wrong
        shown = tunesmith("failures", out).stdout
        is_unknown = "the base model was better: not measured with this metric" in shown
        assert is_unknown == (not arguments)
    assert tunesmith("failures", tmp_path).exit_code == 2


def test_a_run_without_weak_slices(tunesmith: Tunesmith, finished: Path) -> None:
    folder, report = open_results(finished)
    assert folder == finished
    assert choose_metric(report, None).metric == "same"
    found = find_failures(finished, report, None)
    assert found.confirmed == [] and found.wrong == [] and len(found.rows) == 4
    shown = tunesmith("failures", finished).stdout
    assert "weak slices were not searched for, because this needs at least 40 rows" in shown


def add_joint_metric(folder: Path, metrics: dict[str, bool]) -> None:
    """Give the rows other metrics than their own, by name; True: it is of all rows together."""
    (path,) = (folder / "evaluations").glob("tuned.same.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        value = line.pop("same")
        line |= {name: value | ({"counts": {}} if joint else {}) for name, joint in metrics.items()}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = folder / "events.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (measured,) = (
        e
        for e in events
        if (e["event"], e.get("model"), e.get("metric")) == ("measured", "tuned", "same")
    )
    others = [e for e in events if e["event"] != "measured"]
    added = [measured | {"metric": name} for name in metrics]
    log.write_text("".join(json.dumps(event) + "\n" for event in [*added, *others]))


def test_a_metric_of_all_rows_together_judges_none(failing: Tunesmith, tmp_path: Path) -> None:
    add_joint_metric(tmp_path / "done", {"bleu": True})
    done = failing("failures", "done", "--metric", "bleu")
    assert done.exit_code == 2 and "has no per-row scores" in done.output


def test_another_metric_judges_rows_in_its_place(failing: Tunesmith, tmp_path: Path) -> None:
    add_joint_metric(tmp_path / "done", {"bleu": True, "rouge": False})
    done = failing("failures", "done", "--metric", "bleu")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("rouge ")
    assert "bleu has no per-row scores, so this output uses another metric" in done.stdout
