"""Runs of two ranks: one log and one report, and no fault of a rank hangs or loses the run."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torchrun

from tunesmith.errors import DataError
from tunesmith.execution import worker_rank
from tunesmith.storage import Checkpoints, read_events, verify_folder
from tunesmith_torch.training import checkpoint_writer, loop, training_state

pytestmark = pytest.mark.processes

SETTING = {"micro_batch_tokens": 120, "epochs": 2}
"""Ten steps of one or two micro-batches on each rank."""
ENDED_BY_OTHERS = (0, -signal.SIGTERM)
"""Exit codes of a rank after another one ended: it ends by itself or is ended by torchrun."""


@pytest.fixture(scope="session")
def setting(real: Any) -> Any:
    return real.Setting(**SETTING)


@pytest.fixture(scope="session")
def complete_run(workshop: Any, setting: Any) -> Path:
    """An uninterrupted run of two ranks."""
    out: Path = workshop.folder / "ranks" / "run"
    done = torchrun.run_command("run", workshop.run_file(setting), "--out", out)
    assert done.codes == [0, 0], done.output
    return out


def new_run_folder(workshop: Any, name: str) -> Path:
    run: Path = workshop.folder / f"ranks-{name}" / "run"
    shutil.rmtree(run, ignore_errors=True)
    return run


def assert_resumes_to(real: Any, run: Path, complete_run: Path) -> None:
    done = torchrun.run_command("resume", run)
    assert done.codes == [0, 0], done.output
    assert real.collect_results(run) == real.collect_results(complete_run)


def test_one_run_one_log_one_report(
    real: Any, workshop: Any, setting: Any, complete_run: Path
) -> None:
    """The same files and events as those of a single process, numbers equal up to rounding."""
    single = workshop.complete_run(setting)
    assert {p.name for p in complete_run.iterdir()} == {p.name for p in single.iterdir()}
    kinds = [
        [event["event"] for event in read_events(run / "events.jsonl")]
        for run in (complete_run, single)
    ]
    assert kinds[0] == kinds[1]
    for one, two in zip(
        *(real.events(run, "step-finished") for run in (complete_run, single)), strict=True
    ):
        assert one["loss"] == pytest.approx(two["loss"], rel=0.05)  # dropout has other streams
        assert [one[k] for k in ("rows", "tokens", "trained_tokens", "learning_rate")] == [
            two[k] for k in ("rows", "tokens", "trained_tokens", "learning_rate")
        ]
    reports = [json.loads((run / "report.json").read_text()) for run in (complete_run, single)]
    verdicts = [report["verdict"] for report in reports]
    assert verdicts[0]["baseline"] == verdicts[1]["baseline"]
    assert verdicts[0]["tuned"] == pytest.approx(verdicts[1]["tuned"], rel=0.02)


def test_a_run_with_the_real_torchrun(
    real: Any, workshop: Any, setting: Any, complete_run: Path
) -> None:
    """The documented command: only rank 0 prints, and the results are those of forked ranks."""
    run = new_run_folder(workshop, "real")
    started = torchrun.start_torchrun("run", workshop.run_file(setting), "--out", run)
    output, _ = started.communicate(timeout=200)
    assert started.returncode == 0, output
    assert output.count("run folder:") == 1
    assert real.collect_results(run) == real.collect_results(complete_run)


def test_ctrl_c_in_the_real_torchrun(
    real: Any, workshop: Any, complete_run: Path, setting: Any
) -> None:
    """The signal reaches all ranks; they finish the step, save and end."""
    run = new_run_folder(workshop, "interrupted")
    started = torchrun.start_torchrun("run", workshop.run_file(setting), "--out", run)
    while not real.events(run, "step-finished") and started.poll() is None:
        time.sleep(0.002)
    started.send_signal(signal.SIGINT)
    output, _ = started.communicate(timeout=100)
    assert started.returncode != 0, output
    assert output.count("stopped by Ctrl-C") == 1, output
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    assert newest is not None
    assert newest.step == real.events(run, "step-finished")[-1]["step"]
    assert_resumes_to(real, run, complete_run)


@pytest.mark.parametrize(("rank", "call"), [(0, 4), (1, 1), (1, 9)])
def test_a_killed_rank(
    faults: Any, real: Any, workshop: Any, setting: Any, complete_run: Path, rank: int, call: int
) -> None:
    """kill -9 in a step: the others end, and the resumed run has identical results."""
    run = new_run_folder(workshop, "killed")
    kill = torchrun.on_rank(
        rank, real.before_call(loop._GradientAccumulator, "_accumulate", call, faults.die)
    )
    done = torchrun.run_command("run", workshop.run_file(setting), "--out", run, prepare=kill)
    assert done.codes[rank] == real.KILLED, done.output
    if rank == 1:
        assert done.codes[0] == 5, done.output
        assert "another rank of this run has exited" in done.output[0]
    else:
        assert done.codes[1] == 0, done.output
        assert "error" not in done.output[1], done.output
    assert_resumes_to(real, run, complete_run)
    faults.count_trials("a rank killed in training")


@pytest.mark.faults
@pytest.mark.parametrize("step", [1, 4, 7])
def test_both_ranks_killed(
    faults: Any, real: Any, workshop: Any, setting: Any, complete_run: Path, step: int
) -> None:
    """As when a machine loses power."""
    run = new_run_folder(workshop, "both-killed")
    started = torchrun.start_command("run", workshop.run_file(setting), "--out", run)
    while len(real.events(run, "step-finished")) < step:
        assert started.children[0].running(), started.end().output
        time.sleep(0.002)
    started.signal(signal.SIGKILL)
    assert started.end().codes == [-signal.SIGKILL, -signal.SIGKILL]
    assert_resumes_to(real, run, complete_run)
    faults.count_trials("both ranks killed in training")


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_while_a_checkpoint_is_written(
    faults: Any, real: Any, workshop: Any, setting: Any, complete_run: Path, rank: int
) -> None:
    """Rank 0 writes it: its death leaves the checkpoint before, that of another one does not."""
    run = new_run_folder(workshop, "killed-saving")
    owner, name = {
        0: (training_state, "save_training_state"),
        1: (checkpoint_writer.CheckpointWriter, "save"),
    }[rank]
    kill = torchrun.on_rank(rank, real.before_call(owner, name, 2, faults.die))
    done = torchrun.run_command("run", workshop.run_file(setting), "--out", run, prepare=kill)
    assert done.codes[rank] == real.KILLED, done.output
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    assert newest is not None
    assert newest.step == {0: 2, 1: 4}[rank]
    assert verify_folder(newest.path) == []
    assert_resumes_to(real, run, complete_run)
    faults.count_trials("a rank killed while a checkpoint is written")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_real_launcher(
    faults: Any, real: Any, workshop: Any, setting: Any, complete_run: Path, number: int
) -> None:
    """A scheduler ends torchrun itself: by SIGTERM, which it passes on, or by SIGKILL."""
    run = new_run_folder(workshop, "launcher")
    started = torchrun.start_torchrun("run", workshop.run_file(setting), "--out", run)
    while not real.events(run, "step-finished") and started.poll() is None:
        time.sleep(0.002)
    started.send_signal(number)
    output, _ = started.communicate(timeout=200)  # until all ranks have closed their output
    assert started.returncode != 0, output
    if number == signal.SIGTERM:
        assert output.count("stopped by SIGTERM") == 1, output
    if [event["status"] for event in real.events(run, "run-finished")] == ["ok"]:
        assert number == signal.SIGKILL  # ranks without a launcher finish their run
        assert real.collect_results(run) == real.collect_results(complete_run)
    else:
        assert_resumes_to(real, run, complete_run)
    faults.count_trials("a signal to torchrun")


@pytest.mark.parametrize(
    ("number", "code", "phase"),
    [(signal.SIGINT, 130, "training"), (signal.SIGTERM, 143, "saving")],
)
def test_a_signal_ends_all_ranks_after_the_step(
    faults: Any,
    real: Any,
    workshop: Any,
    setting: Any,
    complete_run: Path,
    number: int,
    code: int,
    phase: str,
) -> None:
    run = new_run_folder(workshop, "signaled")
    started: list[Any] = []
    owner, name = {
        "training": (loop._GradientAccumulator, "compute_gradient"),
        "saving": (training_state, "save_training_state"),
    }[phase]

    def wait_for_signal() -> None:
        (workshop.folder / "reached").touch()
        while (workshop.folder / "reached").exists():
            time.sleep(0.002)

    stop = torchrun.on_rank(0, real.before_call(owner, name, 3, wait_for_signal))
    started = torchrun.start_command("run", workshop.run_file(setting), "--out", run, prepare=stop)
    while not (workshop.folder / "reached").exists():
        assert started.children[0].running(), started.end().output
        time.sleep(0.002)
    started.signal(number)
    (workshop.folder / "reached").unlink()
    done = started.end()
    assert done.codes[0] == code, done.output
    assert done.codes[1] in ENDED_BY_OTHERS, done.output
    assert done.output[1] == ""
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    assert newest is not None
    assert newest.step == real.events(run, "step-finished")[-1]["step"]
    assert_resumes_to(real, run, complete_run)
    faults.count_trials("a signal to all ranks")


def test_a_time_limit_stops_all_ranks(
    real: Any, workshop: Any, setting: Any, complete_run: Path
) -> None:
    run = new_run_folder(workshop, "limited")
    file = workshop.run_file(setting)
    done = torchrun.run_command("run", file, "--out", run, "--set", "run.max_minutes=0.0001")
    assert done.codes[0] == 75, done.output
    assert done.codes[1] in ENDED_BY_OTHERS, done.output
    assert [event["step"] for event in real.events(run, "step-finished")] == [1]
    resumed_again = torchrun.run_command("resume", run)
    assert resumed_again.codes[0] == 75, resumed_again.output
    assert resumed_again.codes[1] in ENDED_BY_OTHERS, resumed_again.output
    assert [event["step"] for event in real.events(run, "step-finished")] == [1, 2]


def test_an_error_before_training_ends_all_ranks(real: Any, workshop: Any, setting: Any) -> None:
    """Reported once; waiting ranks are ended by torchrun, or end because rank 0 did."""
    run = new_run_folder(workshop, "bad")
    bad = workshop.run_file(setting, max_length=8, max_skipped=1.0)
    done = torchrun.run_command("run", bad, "--out", run)
    assert done.codes[0] == 3, done.output
    assert "no rows can be used" in done.output[0]
    assert "error" not in done.output[1], done.output
    missing = torchrun.run_command("run", workshop.folder / "nothing.toml", "--out", run)
    assert missing.codes[0] == 2
    assert missing.codes[1] in ENDED_BY_OTHERS
    assert "error" not in missing.output[1], missing.output


def test_a_rank_that_fails_before_training_ends_all_ranks(
    faults: Any, real: Any, workshop: Any, setting: Any
) -> None:
    """Rank 0 waits for it, gets torchrun's signal, and writes a report."""
    run = new_run_folder(workshop, "other-rows")

    def fail() -> None:
        raise DataError("data", "rank 1 has loaded different rows than rank 0")

    prepare = torchrun.on_rank(1, real.before_call(worker_rank, "run_worker_rank", 1, fail))
    started = torchrun.start_command(
        "run", workshop.run_file(setting), "--out", run, prepare=prepare
    )
    done = started.end(seconds=40)
    assert done.codes == [143, 3], done.output
    assert "stopped by SIGTERM" in done.output[0]
    assert "has loaded different rows" in done.output[1]
    assert real.events(run, "run-finished")[-1]["status"] == "stopped"
    assert (run / "report.json").is_file()
    faults.count_trials("a rank that fails before training")


def test_worker_ranks_end_if_training_is_finished(
    real: Any, workshop: Any, complete_run: Path
) -> None:
    """Resume a run that was killed in its evaluation: rank 0 evaluates, the other rank ends."""
    run = workshop.copy(complete_run, "ranks-evaluating")
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    end = next(
        n for n, line in enumerate(lines) if json.loads(line)["event"] == "training-finished"
    )
    (run / "events.jsonl").write_text("".join(lines[: end + 1]))
    for file in (run / "evaluations").glob("tuned*"):
        file.unlink()
    done = torchrun.run_command("resume", run)
    assert done.codes == [0, 0], done.output
    assert done.output[1] == ""
    assert real.collect_results(run) == real.collect_results(complete_run)
    finished = torchrun.run_command("resume", run)
    assert finished.codes[0] == 2
    assert "the run is finished" in finished.output[0]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_can_be_resumed_with_another_number_of_ranks(
    faults: Any, real: Any, workshop: Any, before: int, after: int
) -> None:
    """The same rows in the same order; without dropout the same weights up to rounding."""
    setting = real.Setting(technique="full", **SETTING)
    run = new_run_folder(workshop, f"from-{before}-to-{after}")
    kill = torchrun.on_rank(
        0, real.before_call(loop._GradientAccumulator, "_accumulate", 6, faults.die)
    )
    started = torchrun.run_command(
        "run", workshop.run_file(setting), "--out", run, prepare=kill, count=before
    )
    assert started.codes[0] == real.KILLED
    done = torchrun.run_command("resume", run, count=after)
    assert done.codes == [0] * after, done.output
    single = workshop.complete_run(setting)
    last = [real.events(folder, "step-finished")[-1] for folder in (run, single)]
    assert last[0]["loss"] == pytest.approx(last[1]["loss"], rel=1e-4)
    assert last[0]["step"] == last[1]["step"]


# --- three stages ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stages(workshop: Any) -> Path:
    """A run file for fine-tuning, a reward model and a policy, a few steps each."""
    words = ["card", "refund", "answer", "delivery", "invoice"]
    rows = [
        {
            "prompt": f"What is {n}?" * (1 + n % 3),
            "chosen": f"please {words[n % 5]}",
            "rejected": f"never {words[n % 4]}",
        }
        for n in range(26)
    ]
    (workshop.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {
        "batch_size": 4,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "checkpoints": {"every": 1},
        "adapter": {"rank": 4},
    }
    policy = {
        "algorithm": "ppo",
        "generation": {"num_generations": 2, "max_new_tokens": 4},
        "loss": {"mask_truncated_completions": False, "num_iterations": 2, "kl_target": 2.0},
        "monitor": {"every": 2, "rows": 5},
        "max_steps": 3,
    }
    tables = {
        "reporters": [],
        "run": {"seed": 3, "device": "cpu"},
        "model": {"base": "model"},
        "data": {"use": "jsonl", "train": ["pairs.jsonl"], "test_size": 12},
        "technique": {
            "use": "rlhf",
            "supervised": {**quick, "adapter": {"rank": 4, "dropout": 0.1}, "max_steps": 2},
            "reward": {**quick, "max_steps": 2, "gate": {"accept_weak": True}},
            "policy": {**quick, **policy},
        },
        "evaluators": [{"use": "loss"}],
        "baselines": {"use": []},
    }
    file: Path = workshop.folder / "stages.toml"
    file.write_text(tomli_w.dumps(tables))
    return file


def stage_results(real: Any, run: Path) -> dict[str, Any]:
    """Return digests of the artifacts of all stages, and the logged events."""
    folders = {
        name: real.digests(run / name / "adapter") for name in ("supervised", "reward", "policy")
    }
    return {**folders, "events": real.logged_events(run)}


def test_stages_of_two_ranks_resume_to_identical_results(
    faults: Any, real: Any, workshop: Any, stages: Path
) -> None:
    """Killed in the second stage and in the third."""
    complete_run, run = (
        new_run_folder(workshop, "stages"),
        new_run_folder(workshop, "stages-killed"),
    )
    done = torchrun.run_command("run", stages, "--out", complete_run)
    assert done.codes == [0, 0], done.output
    assert done.output[1] == ""
    kill = torchrun.on_rank(
        1, real.before_call(loop._GradientAccumulator, "_accumulate", 4, faults.die)
    )
    started = torchrun.run_command("run", stages, "--out", run, prepare=kill)
    assert started.codes == [5, real.KILLED], started.output
    kill = torchrun.on_rank(
        0, real.before_call(loop._GradientAccumulator, "_accumulate", 4, faults.die)
    )
    again = torchrun.run_command("resume", run, prepare=kill)
    assert again.codes == [real.KILLED, 0], again.output
    last = torchrun.run_command("resume", run)
    assert last.codes == [0, 0], last.output
    assert stage_results(real, run) == stage_results(real, complete_run)
