"""Two ranks: one run, one report; and whatever happens to one of them, nothing hangs or is lost."""

from __future__ import annotations

import json
import shutil
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torchrun

from tunesmith.errors import DataError
from tunesmith.execution import worker_rank
from tunesmith.storage import Checkpoints, read_events
from tunesmith_torch.training import loop, training_state

SETTING = {"micro_batch_tokens": 120, "epochs": 2}
"""Ten steps, of one or two micro-batches on each rank."""
LET_GO = (0, -signal.SIGTERM)
"""How a rank ends that another rank's end leaves without work: by itself, or by torchrun, whichever
comes first."""


@pytest.fixture(scope="session")
def setting(real: Any) -> Any:
    return real.Setting(**SETTING)


@pytest.fixture(scope="session")
def whole(workshop: Any, setting: Any) -> Path:
    """A run of two ranks that nothing happened to."""
    out: Path = workshop.place / "ranks" / "run"
    done = torchrun.command("run", workshop.run_file(setting), "--out", out)
    assert done.codes == [0, 0], done.said
    return out


def fresh(workshop: Any, name: str) -> Path:
    run: Path = workshop.place / f"ranks-{name}" / "run"
    shutil.rmtree(run, ignore_errors=True)
    return run


def resumed(real: Any, run: Path, whole: Path) -> None:
    done = torchrun.command("resume", run)
    assert done.codes == [0, 0], done.said
    assert real.evidence(run) == real.evidence(whole)


def test_one_run_one_log_one_report(real: Any, workshop: Any, setting: Any, whole: Path) -> None:
    """Everything that a process alone leaves, once; the same numbers but for rounding."""
    alone = workshop.whole(setting)
    assert {p.name for p in whole.iterdir()} == {p.name for p in alone.iterdir()}
    kinds = [
        [event["event"] for event in read_events(run / "events.jsonl")] for run in (whole, alone)
    ]
    assert kinds[0] == kinds[1]
    for one, two in zip(*(real.events(run, "stepped") for run in (whole, alone)), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)  # dropout has other streams
        assert [one[k] for k in ("rows", "tokens", "trained_tokens", "learning_rate")] == [
            two[k] for k in ("rows", "tokens", "trained_tokens", "learning_rate")
        ]
    found = [json.loads((run / "report.json").read_text()) for run in (whole, alone)]
    verdicts = [report["verdict"] for report in found]
    assert verdicts[0]["rival"] == verdicts[1]["rival"]
    assert verdicts[0]["tuned"] == pytest.approx(verdicts[1]["tuned"], rel=0.02)


def test_the_real_torchrun(real: Any, workshop: Any, setting: Any, whole: Path) -> None:
    """The command of the manual: rank 0 alone shows the result, and it is that of forked ranks."""
    run = fresh(workshop, "real")
    begun = torchrun.really("run", workshop.run_file(setting), "--out", run)
    said, _ = begun.communicate(timeout=200)
    assert begun.returncode == 0, said
    assert said.count("run folder:") == 1
    assert real.evidence(run) == real.evidence(whole)


def test_ctrl_c_at_the_real_torchrun(real: Any, workshop: Any, whole: Path, setting: Any) -> None:
    """Its signal reaches all ranks; they finish the step, save, and end."""
    run = fresh(workshop, "interrupted")
    begun = torchrun.really("run", workshop.run_file(setting), "--out", run)
    while not real.events(run, "stepped") and begun.poll() is None:
        time.sleep(0.002)
    begun.send_signal(signal.SIGINT)
    said, _ = begun.communicate(timeout=100)
    assert begun.returncode != 0, said
    assert said.count("stopped by SIGINT") == 1, said
    newest = Checkpoints(run / "checkpoints").newest(repair=False)
    assert newest is not None
    assert newest.step == real.events(run, "stepped")[-1]["step"]
    resumed(real, run, whole)


@pytest.mark.parametrize(("rank", "call"), [(0, 4), (1, 1), (1, 9)])
def test_a_rank_is_killed(
    faults: Any, real: Any, workshop: Any, setting: Any, whole: Path, rank: int, call: int
) -> None:
    """kill -9 in the middle of a step: the others end, and the run resumes to the same bits."""
    run = fresh(workshop, "killed")
    kill = torchrun.on_rank(rank, real.before_call(loop._Stepper, "_accumulate", call, faults.die))
    done = torchrun.command("run", workshop.run_file(setting), "--out", run, prepare=kill)
    assert done.codes[rank] == real.KILLED, done.said
    if rank == 1:
        assert done.codes[0] == 5, done.said
        assert "a process of this training is gone" in done.said[0]
    else:
        assert done.codes[1] == 0, done.said
        assert "error" not in done.said[1], done.said
    resumed(real, run, whole)
    faults.count("a rank killed in training")


@pytest.mark.parametrize(
    ("number", "code", "place"),
    [(signal.SIGINT, 130, "training"), (signal.SIGTERM, 143, "saving")],
)
def test_a_signal_ends_all_after_the_step(
    faults: Any,
    real: Any,
    workshop: Any,
    setting: Any,
    whole: Path,
    number: int,
    code: int,
    place: str,
) -> None:
    run = fresh(workshop, "signalled")
    begun: list[Any] = []
    owner, name = {"training": (loop._Stepper, "gradient"), "saving": (training_state, "save")}[
        place
    ]

    def reach() -> None:
        (workshop.place / "reached").touch()
        while (workshop.place / "reached").exists():
            time.sleep(0.002)

    stop = torchrun.on_rank(0, real.before_call(owner, name, 3, reach))
    begun = torchrun.begin("run", workshop.run_file(setting), "--out", run, prepare=stop)
    while not (workshop.place / "reached").exists():
        assert begun.children[0].running(), begun.end().said
        time.sleep(0.002)
    begun.signal(number)
    (workshop.place / "reached").unlink()
    done = begun.end()
    assert done.codes[0] == code, done.said
    assert done.codes[1] in LET_GO, done.said
    assert done.said[1] == ""
    newest = Checkpoints(run / "checkpoints").newest(repair=False)
    assert newest is not None
    assert newest.step == real.events(run, "stepped")[-1]["step"]
    resumed(real, run, whole)
    faults.count("a signal to all ranks")


def test_a_limit_stops_all(real: Any, workshop: Any, setting: Any, whole: Path) -> None:
    run = fresh(workshop, "limited")
    file = workshop.run_file(setting)
    done = torchrun.command("run", file, "--out", run, "--set", "run.max_minutes=0.0001")
    assert done.codes[0] == 75, done.said
    assert done.codes[1] in LET_GO, done.said
    assert [event["step"] for event in real.events(run, "stepped")] == [1]
    resumed_again = torchrun.command("resume", run)
    assert resumed_again.codes[0] == 75, resumed_again.said
    assert resumed_again.codes[1] in LET_GO, resumed_again.said
    assert [event["step"] for event in real.events(run, "stepped")] == [1, 2]


def test_a_run_that_fails_before_training_ends_all(real: Any, workshop: Any, setting: Any) -> None:
    """Told once; the ranks that wait are ended by torchrun, or by rank 0's end."""
    run = fresh(workshop, "bad")
    bad = workshop.run_file(setting, max_length=8)
    done = torchrun.command("run", bad, "--out", run)
    assert done.codes[0] == 3, done.said
    assert "no row can be learned from" in done.said[0]
    assert "error" not in done.said[1], done.said
    missing = torchrun.command("run", workshop.place / "nothing.toml", "--out", run)
    assert missing.codes[0] == 2
    assert missing.codes[1] in LET_GO
    assert "error" not in missing.said[1], missing.said


def test_a_rank_that_fails_before_it_trains_ends_all(
    faults: Any, real: Any, workshop: Any, setting: Any
) -> None:
    """Rank 0 waits for it, hears torchrun's signal, and leaves a report."""
    run = fresh(workshop, "other-rows")

    def fail() -> None:
        raise DataError("data", "rank 1 reads other rows than rank 0")

    prepare = torchrun.on_rank(1, real.before_call(worker_rank, "train", 1, fail))
    begun = torchrun.begin("run", workshop.run_file(setting), "--out", run, prepare=prepare)
    done = begun.end(seconds=40)
    assert done.codes == [143, 3], done.said
    assert "stopped by SIGTERM" in done.said[0]
    assert "reads other rows" in done.said[1]
    assert real.events(run, "run-finished")[-1]["status"] == "stopped"
    assert (run / "report.json").is_file()
    faults.count("a rank that fails before training")


def test_ranks_end_where_there_is_nothing_left_to_train(
    real: Any, workshop: Any, whole: Path
) -> None:
    """A run that was killed in its evaluation, resumed: rank 0 evaluates, the other one leaves."""
    run = workshop.copy(whole, "ranks-evaluating")
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if json.loads(line)["event"] == "trained")
    (run / "events.jsonl").write_text("".join(lines[: end + 1]))
    for file in (run / "evaluations").glob("tuned*"):
        file.unlink()
    done = torchrun.command("resume", run)
    assert done.codes == [0, 0], done.said
    assert done.said[1] == ""
    assert real.evidence(run) == real.evidence(whole)
    finished = torchrun.command("resume", run)
    assert finished.codes[0] == 2
    assert "the run is finished" in finished.said[0]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_may_go_on(
    faults: Any, real: Any, workshop: Any, before: int, after: int
) -> None:
    """The same rows in the same order; without dropout the same weights but for rounding."""
    setting = real.Setting(technique="full", **SETTING)
    run = fresh(workshop, f"from-{before}-to-{after}")
    kill = torchrun.on_rank(0, real.before_call(loop._Stepper, "_accumulate", 6, faults.die))
    begun = torchrun.command(
        "run", workshop.run_file(setting), "--out", run, prepare=kill, count=before
    )
    assert begun.codes[0] == real.KILLED
    done = torchrun.command("resume", run, count=after)
    assert done.codes == [0] * after, done.said
    alone = workshop.whole(setting)
    last = [real.events(folder, "stepped")[-1] for folder in (run, alone)]
    assert last[0]["loss"] == pytest.approx(last[1]["loss"], rel=1e-4)
    assert last[0]["step"] == last[1]["step"]


# --- three stages ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stages(workshop: Any) -> Path:
    """A run file for supervised tuning, a reward model and a policy, a few steps each."""
    words = ["card", "refund", "answer", "delivery", "invoice"]
    rows = [
        {
            "prompt": f"What is {n}?" * (1 + n % 3),
            "chosen": f"please {words[n % 5]}",
            "rejected": f"never {words[n % 4]}",
        }
        for n in range(26)
    ]
    (workshop.place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {
        "batch_size": 4,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "save_every": 1,
        "rank": 4,
    }
    policy = {
        "algorithm": "ppo",
        "num_generations": 2,
        "max_new_tokens": 4,
        "mask_truncated_completions": False,
        "num_iterations": 2,
        "kl_target": 2.0,
        "monitor_every": 2,
        "monitor_rows": 5,
        "max_steps": 3,
    }
    tables = {
        "reporters": [],
        "run": {"seed": 3, "device": "cpu"},
        "model": {"base": "model"},
        "data": {"use": "jsonl", "train": ["pairs.jsonl"], "holdout": 12},
        "technique": {
            "use": "rlhf",
            "supervised": {**quick, "dropout": 0.1, "max_steps": 2},
            "reward": {**quick, "max_steps": 2, "accept_weak": True},
            "policy": {**quick, **policy},
        },
        "evaluators": [{"use": "loss"}],
        "baselines": {"zero_shot": False, "shots": 0},
    }
    file: Path = workshop.place / "stages.toml"
    file.write_text(tomli_w.dumps(tables))
    return file


def left_by_stages(real: Any, run: Path) -> dict[str, Any]:
    """Artifacts of all stages, and what was told of steps and measurements."""
    folders = {
        name: real.digests(run / name / "adapter") for name in ("supervised", "reward", "policy")
    }
    return {**folders, "told": real.told(run)}


def test_stages_of_ranks_resume_to_the_same_bits(
    faults: Any, real: Any, workshop: Any, stages: Path
) -> None:
    """Killed in the second stage and in the third."""
    whole, run = fresh(workshop, "stages"), fresh(workshop, "stages-killed")
    done = torchrun.command("run", stages, "--out", whole)
    assert done.codes == [0, 0], done.said
    assert done.said[1] == ""
    kill = torchrun.on_rank(1, real.before_call(loop._Stepper, "_accumulate", 4, faults.die))
    begun = torchrun.command("run", stages, "--out", run, prepare=kill)
    assert begun.codes == [5, real.KILLED], begun.said
    kill = torchrun.on_rank(0, real.before_call(loop._Stepper, "_accumulate", 4, faults.die))
    again = torchrun.command("resume", run, prepare=kill)
    assert again.codes == [real.KILLED, 0], again.said
    last = torchrun.command("resume", run)
    assert last.codes == [0, 0], last.said
    assert left_by_stages(real, run) == left_by_stages(real, whole)


def test_a_backend_that_trains_alone_is_refused(workshop: Any, stages: Path) -> None:
    """Before the first stage, and once."""
    tables = tomllib.loads(stages.read_text())
    policy = {
        "backend": "trl",
        "algorithm": "grpo",
        "num_generations": 2,
        "max_new_tokens": 4,
        "batch_size": 4,
    }
    tables["technique"]["policy"] = policy
    file = stages.with_name("trl.toml")
    file.write_text(tomli_w.dumps(tables))
    done = torchrun.command("run", file, "--out", fresh(workshop, "trl"))
    assert done.codes[0] == 2, done.said
    assert done.codes[1] in LET_GO, done.said
    assert "technique.policy.backend: one process trains" in done.said[0]
    assert done.said[1] == ""
