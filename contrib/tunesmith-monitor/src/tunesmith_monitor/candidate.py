"""Train the next run with new rows, and compare it with the run in service on old and new rows.

The steps are the commands `next`, `run` and `evaluate`. A step whose result exists is not repeated,
so an interrupted retraining continues, and the run can be trained by any launcher.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunesmith import api
from tunesmith.errors import GateError, RunStopped, TrainingError, UsageError
from tunesmith.events import JSON
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.run_data import load_data
from tunesmith.storage import write_atomic
from tunesmith_data.splits import PromptTexts, normalize_text
from tunesmith_evidence.comparison import RunResults, compare_metric
from tunesmith_evidence.number_text import format_estimate
from tunesmith_evidence.statistics import compare
from tunesmith_monitor.decision import TEST_SHARE
from tunesmith_monitor.reference import find_score

MIN_TEST_ROWS = 20
STOPPED = (75, 130, 143)
STDERR = 2
CONFIDENCE_NEW, CONFIDENCE_OLD = 0.99, 0.9
"""Levels of the two-sided intervals; one of the two sides counts."""


@dataclass(frozen=True)
class SplitRows:
    """New labeled rows, skipping those whose prompts the run in service already has."""

    train: Sequence[JSON]
    test: Sequence[JSON]
    known: int
    """Number of skipped rows."""


def split_rows(path: Path, run: Path, *, files: Sequence[str] = ()) -> SplitRows:
    """Split new labeled rows into training and test rows, and keep equal prompts together.

    Rows whose prompt the run already contains are skipped.

    Raises:
        UsageError: there are too few new rows.
    """
    _, plan, _ = api.load_run(run, files=files)
    parts = load_data(plan)[1]
    known = {
        normalize_text(text)
        for records in (parts.train, parts.validation, parts.test)
        for text in PromptTexts(records)
    }
    tables = {name: plan.to_json()[name] for name in ("model", "technique", "plugins")}
    new, _ = api.load_plan({**tables, "data": {"train": str(path.resolve())}}, runnable=False)
    texts = [*PromptTexts(new.data.offer.build(new.data.config).load().train)]
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    try:
        rows = [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        rows = []
    if len(texts) != len(rows):
        raise UsageError(f"{path}: some rows are unusable", hint=f"tunesmith data check {path}")
    train: list[JSON] = []
    test: list[JSON] = []
    for text, row in zip(map(normalize_text, texts), rows, strict=True):
        if text not in known:
            (train if zlib.crc32(text.encode()) % TEST_SHARE else test).append(row)
    if len(test) < MIN_TEST_ROWS or not train:
        raise UsageError(
            f"{path}: only {len(train) + len(test):,} rows are new",
            hint=f"label about {TEST_SHARE * MIN_TEST_ROWS} or more; a third become test rows",
        )
    return SplitRows(train, test, len(rows) - len(train) - len(test))


def prepare(run: Path, rows: SplitRows, out: Path, options: Sequence[str] = ()) -> None:
    """Write the run file of the next run, with the new rows, unless it exists."""
    write_rows(rows, out)
    if not (out / "run.toml").is_file():
        added = str(rows_folder(out) / "added.jsonl")
        call("next", str(run), "--add", added, "--out", str(out), *options)


def write_rows(rows: SplitRows, out: Path) -> None:
    """Write the new rows beside the folder of the next run.

    Other rows than before make the earlier evaluations useless, so these are deleted.

    Raises:
        UsageError: the next run has already been prepared with other rows.
    """
    folder = rows_folder(out)
    parts = {folder / "added.jsonl": rows.train, folder / "test.jsonl": rows.test}
    texts = {path: "".join(json.dumps(row) + "\n" for row in part) for path, part in parts.items()}
    if all(p.is_file() and p.read_text(encoding="utf-8") == text for p, text in texts.items()):
        return
    if (out / "run.toml").is_file():
        raise UsageError(
            f"{out}: has already been prepared with other rows",
            hint="choose a new folder with --out, or give the rows of that time",
        )
    folder.mkdir(parents=True, exist_ok=True)
    for evaluated in folder.glob("*/"):
        shutil.rmtree(evaluated)
    for path, text in texts.items():
        write_atomic(path, text)


def train(out: Path, options: Sequence[str] = ()) -> Path:
    """Run the next run, or continue it; return its folder.

    Raises:
        GateError: it misses an exit criterion of its run file.
    """
    run = out / "run"
    if not run.exists():
        call("run", str(out / "run.toml"), "--out", str(run), *options)
    else:
        status = api.read_report(run)
        if status.finished and status.finished.exit_code == GateError.exit_code:
            raise GateError(f"{run}: the new run misses an exit criterion of its run file")
        if status.status != "ok":
            call("resume", str(run), *options)
    return run


@dataclass(frozen=True)
class Judgement:
    """The comparison of a new run with the one in service."""

    old: str
    """The difference on the old test rows, as text."""
    new: str
    """The difference on the new test rows, as text."""
    reasons: Sequence[str]
    """Reasons not to promote the new run; empty: it is promoted."""


def judge(
    service: Path, candidate: Path, out: Path, margin: float, options: Sequence[str] = ()
) -> Judgement:
    """Compare two runs: better on new rows, and not worse by a margin on old rows.

    By chance, a model that is not better on new rows passes the first condition in at most 0.5 % of
    cases. One that is worse by the margin on old rows passes the second in at most 5 %.

    Raises:
        UsageError: the runs measured no share of right answers.
    """
    first, second = RunResults.read(service), RunResults.read(candidate)
    measured = find_score(first.report)
    if measured is None:
        raise UsageError(f"{service}: the run has no metric that is a share of right answers")
    key = measured.evaluator, measured.metric
    if key not in second.measured:
        raise UsageError(f"{candidate}: {measured.metric} was not measured")
    old = compare_metric(first, second, key, confidence=CONFIDENCE_OLD)
    before, after = (
        evaluate_new_rows(run, out, "test", key, options) for run in (service, candidate)
    )
    new = compare(before, after, True, confidence=CONFIDENCE_NEW)
    reasons = []
    if new.outcome != "better":
        reasons.append(f"on new rows it is not clearly better ({new.outcome})")
    if old is None or old.low < -margin:
        reasons.append(f"on old rows it may be worse by more than {margin:g}")
    found = new.difference
    shown = old and format_estimate(old.difference, old.low, old.high, signed=True)
    return Judgement(
        f"{shown} on {old.n:,} old test rows" if old else "no old test row in common",
        f"{format_estimate(found.value, found.low, found.high, signed=True)} on {found.n:,} new "
        "test rows",
        reasons,
    )


def evaluate_new_rows(
    run: Path,
    out: Path,
    part: Literal["added", "test"],
    key: tuple[str, str],
    options: Sequence[str] = (),
) -> list[float]:
    """Return the value of each new row; an evaluation of this run that exists is not repeated."""
    started = api.read_report(run).started
    stamp = zlib.crc32(f"{run.resolve()} {started and started.started}".encode())
    folder = rows_folder(out) / f"{part}-{stamp:08x}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")  # of an evaluation that was killed
        shutil.rmtree(partial, ignore_errors=True)
        data = str(rows_folder(out) / f"{part}.jsonl")
        call("evaluate", str(run), "--data", data, "--out", str(partial), *options)
        partial.rename(folder)
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["measured"]
    event = next(m for m in measured if (m["evaluator"], m["metric"]) == key)
    rows = read_rows(folder / event["records"], key[1])
    return [float(row[key[1]]["value"]) for row in rows]


def rows_folder(out: Path) -> Path:
    """Return the folder of the new rows, beside that of the next run."""
    return out.with_name(f"{out.name}.rows")


def call(*arguments: str) -> None:
    """Run a tunesmith command, whose output goes to this terminal's stderr.

    Raises:
        GateError: a run missed an exit criterion.
        RunStopped: it was stopped by a signal or a limit.
        TrainingError: it failed.
    """
    command = [sys.executable, "-P", "-m", "tunesmith", *arguments]
    code = subprocess.run(command, stdout=STDERR, check=False).returncode
    if code == GateError.exit_code:
        raise GateError("the new run misses an exit criterion of its run file")
    if code in STOPPED:
        text = f"tunesmith {arguments[0]} was stopped; repeat this command to continue"
        raise RunStopped(text, exit_code=code)
    if code:
        raise TrainingError(f"tunesmith {arguments[0]} failed with exit code {code}; see above")
