"""Kills while third-party plugins, launchers and uploads are at work: the same bits in the end.

The plugin ``busy_plugin`` signals its own process, or that of the launcher, in the middle of a
call. Afterwards the run goes on as a user would continue it. Weights, checkpoint, log, scores and
verdict must be those of a run that was not disturbed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import busy_plugin
import pytest
import tomli_w
import torchrun
from busy_plugin import signal_in

from tunesmith import api
from tunesmith.config.trust import TRUST_VARIABLE
from tunesmith.execution import execute
from tunesmith.storage import write_atomic
from tunesmith_cli.launch import signal_at_end_of_parent
from tunesmith_torch.testing.tiny_model import save_tiny_model

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

CONTRIB = Path(__file__).parents[2] / "contrib"
SOURCES = {name: CONTRIB / f"tunesmith-{name}" / "src" for name in ("remote", "ray", "slurm")}
REMOTE = SOURCES["remote"] / "tunesmith_remote" / "__init__.py"
KILL, TERM = signal.SIGKILL, signal.SIGTERM
ENDS = {KILL: (-KILL,), TERM: (128 + TERM, 0)}
"""Exit codes after a signal; 0: no step or phase began after it."""
ECHO = {"use": "echo", "epochs": 3, "save_every": 4}
LORA = {
    "use": "lora",
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_tokens": 120,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "checkpoints": {"every": 2},
    "adapter": {"dropout": 0.1, "rank": 8},
}


@dataclass
class Work:
    """A run file, the undisturbed run, and the run that is killed."""

    real: Any
    folder: Path
    technique: dict[str, Any]
    pause: float = 0.0
    is_mirrored: bool = False
    processes: int = 1

    def __post_init__(self) -> None:
        self.folder.mkdir()
        if self.technique is ECHO:
            (self.folder / "model").mkdir()
            (self.folder / "model" / "echo.json").write_text("{}")
        else:
            save_tiny_model(self.folder / "model")
        rows = [
            {"prompt": f"{n % 6} is {n}?" * (1 + n % 3), "completion": "ten " * (1 + n % 7)}
            for n in range(48)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / "rows.jsonl").write_text(text, encoding="utf-8")
        self.file = self.folder / "run.toml"
        self.file.write_text(tomli_w.dumps(self.tables()), encoding="utf-8")
        self.run = self.folder / "killed" / "run"
        self.store = self.folder / "store"
        self.url = f"file://{self.store}/run"
        done = self.start("run", self.file, "--out", self.folder / "complete" / "run").end()
        assert codes_of(done) == [0] * self.processes, done.output
        self.expected = self.results(self.folder / "complete" / "run")
        shutil.rmtree(self.store, ignore_errors=True)

    def tables(self) -> dict[str, Any]:
        files = [busy_plugin.__file__, *([str(REMOTE)] if self.is_mirrored else [])]
        return {
            **({"remote": {"url": f"file://{self.folder}/store"}} if self.is_mirrored else {}),
            "reporters": [{"use": "busy", "pause": self.pause}],
            "run": {"seed": 3, "device": "cpu"},
            "model": {"base": "model"},
            "data": {"use": "busy-rows", "file": "rows.jsonl"},
            "technique": self.technique,
            "evaluators": [{"use": "certainty"}],
            "baselines": {"use": ["asking"]},
            "plugins": {"files": files},
        }

    def start(self, *arguments: str | Path, prepare: Callable[[], None] | None = None) -> Any:
        """Start a command, with a state folder of this work, which trusts nothing at first."""

        def prepare_child() -> None:
            os.environ["XDG_STATE_HOME"] = str(self.folder / "state")
            sys.path[:0] = map(str, SOURCES.values())
            if prepare is not None:
                prepare()

        start = self.real.start_command if self.processes == 1 else torchrun.start_command
        return start(*arguments, prepare=prepare_child)

    def begin(self, prepare: Callable[[], None] | None = None) -> Any:
        """Start the run anew, for a user who has not trusted its plugins before."""
        for old in (self.run.parent, self.folder / "state", self.store):
            shutil.rmtree(old, ignore_errors=True)
        return self.start("run", self.file, "--out", self.run, prepare=prepare)

    def continue_run(self, prepare: Callable[[], None] | None = None) -> Any:
        """Resume the run; begin it if it was killed before its folder was complete."""
        if not (self.run / "run.toml").is_file():
            return self.begin(prepare)
        return self.start("resume", self.run, prepare=prepare)

    def finish(self) -> None:
        """Continue the run to its end, and compare its results."""
        if not self.is_finished():
            done = self.continue_run().end()
            assert codes_of(done) == [0] * self.processes, done.output
        assert self.results(self.run) == self.expected

    def is_finished(self) -> bool:
        finished = self.real.events(self.run, "run-finished") if self.run.exists() else []
        return [event["status"] for event in finished][-1:] == ["ok"]

    def results(self, run: Path) -> dict[str, Any]:
        """Return weights, state, log, values, and what the report says about them."""
        shown = self.real.run_command("report", run, "--json", prepare=self.trust)
        assert shown.code == 0, shown.output
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        scores = {name: report[name] for name in ("verdict", "evaluations", "baselines")}
        return {**self.real.collect_results(run), "scores": without_times(scores)}

    def trust(self) -> None:
        os.environ[TRUST_VARIABLE] = "1"
        sys.path[:0] = map(str, SOURCES.values())


def without_times(value: Any) -> Any:
    """Return JSON without the seconds that something took."""
    if isinstance(value, dict):
        return {name: without_times(v) for name, v in value.items() if name != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def codes_of(result: Any) -> list[int]:
    """Return the exit codes of one process or of several."""
    return result.codes if hasattr(result, "codes") else [result.code]


def die() -> None:
    os.kill(os.getpid(), KILL)


@pytest.fixture(scope="module")
def make_work(memory: Path, real: Any, own_cache: Path) -> Iterator[Callable[..., Work]]:
    """A function that makes a work once; the same arguments give the same one."""
    made: dict[str, Work] = {}

    def make(name: str, *arguments: Any, **options: Any) -> Work:
        if name not in made:
            made[name] = Work(real, memory / f"work-{name}", *arguments, **options)
        return made[name]

    yield make


@pytest.fixture
def quick(make_work: Any) -> Work:
    return make_work("quick", ECHO)  # type: ignore[no-any-return]


@pytest.fixture
def tensors(make_work: Any) -> Work:
    return make_work("tensors", LORA)  # type: ignore[no-any-return]


@pytest.fixture
def ranks(make_work: Any) -> Work:
    return make_work("ranks", LORA, processes=2)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------- plugins

IN_CALLS = [
    ("find", 1, KILL),
    ("open", 1, KILL),
    ("load", 3, KILL),
    ("review plan", 1, KILL),
    ("review data", 1, KILL),
    ("variants", 1, KILL),
    ("answer", 2, KILL),
    ("measure", 1, KILL),
    ("measure", 7, KILL),
    ("write", 1, KILL),
    ("write", 45, KILL),
    ("write", 70, KILL),
    ("wait", 50, KILL),
    ("copy", 1, KILL),
    ("copy", 6, KILL),
    ("verdict", 1, KILL),
    ("close", 1, KILL),
    ("load", 2, TERM),
    ("answer", 1, TERM),
    ("measure", 7, TERM),
    ("write", 48, TERM),
    ("copy", 3, TERM),
    ("verdict", 1, TERM),
]
IN_CALLS_WITH_TENSORS = [
    ("review model", 1, KILL),
    ("load", 4, KILL),
    ("measure", 7, KILL),
    ("write", 42, KILL),
    ("copy", 4, KILL),
    ("wait", 48, TERM),
]


def check_signal_in_call(work: Work, place: str, visit: int, number: int) -> None:
    end = work.begin(signal_in(place, visit, number)).end()
    assert end.code in ENDS[signal.Signals(number)], end.output
    assert "bug in tunesmith" not in end.output
    work.finish()


@pytest.mark.faults
@pytest.mark.parametrize(("place", "visit", "number"), IN_CALLS)
def test_a_signal_in_a_call(faults: Any, quick: Work, place: str, visit: int, number: int) -> None:
    check_signal_in_call(quick, place, visit, number)
    faults.count_trials("a signal in a call of a plugin")


@pytest.mark.faults
@pytest.mark.parametrize(("place", "visit", "number"), IN_CALLS_WITH_TENSORS)
def test_a_signal_in_a_call_with_tensors(
    faults: Any, tensors: Work, place: str, visit: int, number: int
) -> None:
    check_signal_in_call(tensors, place, visit, number)
    faults.count_trials("a signal in a call of a plugin (lora)")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["write_atomic", "trust_code"])
def test_a_kill_while_the_run_folder_is_made(faults: Any, quick: Work, name: str) -> None:
    """A folder that names plugins can be resumed: the user who started them trusts them."""
    end = quick.begin(quick.real.before_call(execute, name, 1, die)).end()
    assert end.code == -KILL, end.output
    quick.finish()
    faults.count_trials("kill -9 while the folder of a run is made")


@pytest.mark.faults
@pytest.mark.parametrize("technique", [ECHO, LORA], ids=["echo", "lora"])
@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_moments(
    faults: Any, make_work: Any, technique: dict[str, Any], seed: int
) -> None:
    """Three in one run, whose reporter waits at each event, so that most of them hit a call."""
    work = make_work(f"slow-{technique['use']}", technique, pause=0.01)
    rng = random.Random(seed)
    child, kills = work.begin(), 0
    while kills < 3:
        before = count_lines(work.run)
        while child.running() and count_lines(work.run) < before + 3:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.6))
        child.signal(KILL)
        if child.end().code != -KILL:
            break
        kills += 1
        child = work.continue_run()
    done = child.end() if child.code is None else None
    assert done is None or done.code == 0, done.output
    work.finish()
    faults.count_trials(f"kill -9 while a reporter waits ({technique['use']})", kills)


def count_lines(run: Path) -> int:
    log = run / "events.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


# --------------------------------------------------------------------------- launchers


@pytest.mark.faults
@pytest.mark.parametrize(
    ("rank", "place", "visit", "number"),
    [
        (0, "write", 42, KILL),
        (0, "copy", 4, KILL),
        (0, "measure", 7, KILL),
        (1, "load", 2, KILL),
        (0, "wait", 45, TERM),
    ],
)
def test_a_signal_to_a_rank_in_a_call(
    faults: Any, ranks: Work, rank: int, place: str, visit: int, number: int
) -> None:
    prepare = torchrun.on_rank(rank, signal_in(place, visit, number))
    done = ranks.begin(prepare).end()
    assert done.codes[rank] in ENDS[signal.Signals(number)], done.output
    ranks.finish()
    faults.count_trials("a signal to a rank in a call of a plugin")


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes of Python find the plugin and the contributed packages, and trust them."""
    here = Path(busy_plugin.__file__).parent
    paths = [here, here.parent / "third_party" / "tunesmith-echo" / "src", *SOURCES.values()]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("place", "visit", "number"),
    [("measure", 6, KILL), ("wait", 55, KILL), ("copy", 3, TERM)],
)
def test_a_signal_to_torchrun_while_a_rank_is_in_a_call(
    faults: Any,
    ranks: Work,
    in_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    visit: int,
    number: int,
) -> None:
    """Before the ranks have found each other, in a step, and between two."""
    for old in (ranks.run.parent, ranks.folder / "state"):
        shutil.rmtree(old, ignore_errors=True)
    monkeypatch.setenv(busy_plugin.VARIABLE, f"{place}:{visit}:{int(number)}:parent")
    started = torchrun.start_torchrun("run", ranks.file, "--out", ranks.run)
    output, _ = started.communicate(timeout=200)
    assert started.returncode != 0, output
    monkeypatch.delenv(busy_plugin.VARIABLE)
    ranks.finish()
    faults.count_trials("a signal to torchrun while a rank is in a call of a plugin")


def make_unbegun(work: Work) -> Path:
    """Make the folder of a run that a supervisor begins."""
    for old in (work.run.parent, work.store):
        shutil.rmtree(old, ignore_errors=True)
    plan, _ = api.load_plan(work.file)
    folder = api.create_run_folder(plan, work.run)
    write_atomic(folder.run_file, plan.to_toml())
    return folder.path


@pytest.mark.faults
@pytest.mark.usefixtures("in_processes")
@pytest.mark.parametrize("target", ["self", "parent"])
def test_kills_under_the_supervisor_of_ray(
    faults: Any, real: Any, quick: Work, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """The process of the run is killed at each start but the last, or the supervisor is."""
    monkeypatch.syspath_prepend(SOURCES["ray"])
    from tunesmith_ray.job_file import Job
    from tunesmith_ray.supervisor import supervise
    from tunesmith_ray.work import Work as RayWork

    kills = [("load", 2), ("write", 44), ("copy", 2)]
    left = list(kills)
    run = make_unbegun(quick)
    Job("a-1", None, "2026-01-01T00:00:00+00:00").write(run)

    def start(work: Any, has_begun: Callable[[Sequence[str]], None]) -> Sequence[int]:
        has_begun(["here"])

        def prepare() -> None:
            signal_at_end_of_parent(KILL)
            if left:
                signal_in(*left[0], KILL, target)()

        code = real.run_command("resume", work.folder, prepare=prepare).code
        left[:1] = []
        return [128 - code if code < 0 else code]

    def work_in_child() -> None:
        supervise(RayWork(str(run)), "a-1", start, lambda: False)

    while target == "parent" and left:
        assert faults.in_child(work_in_child) == -KILL
        left[:1] = []
    job = supervise(RayWork(str(run)), "a-1", start, lambda: False)
    assert job is not None
    assert (job.state, job.starts) == ("finished", len(kills) + 1), job
    quick.finish()
    faults.count_trials(f"kill -9 under the supervisor of Ray ({target})", len(kills))


@pytest.mark.faults
@pytest.mark.usefixtures("in_processes")
@pytest.mark.parametrize(
    ("place", "number", "target"),
    [("write", KILL, "self"), ("measure", KILL, "parent"), ("copy", signal.SIGUSR1, "parent")],
)
def test_a_signal_in_a_job_of_slurm(
    faults: Any,
    quick: Work,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    number: int,
    target: str,
) -> None:
    """The run is killed, its job is, or the job is told that its time ends; then it is requeued."""
    run = make_unbegun(quick)
    command = [sys.executable, "-m", "tunesmith_slurm.job", str(run)]
    variables = {busy_plugin.VARIABLE: f"{place}:2:{int(number)}:{target}"}
    first = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert first.returncode not in (0, 1), first.stderr
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0 or "the run is finished" in second.stderr, second.stderr
    assert quick.is_finished()
    quick.finish()
    faults.count_trials("a signal in a job of Slurm")


# --------------------------------------------------------------------------- uploads

REQUESTS = [
    ("list_sizes", 1),
    ("write", 2),
    ("upload", 1),
    ("upload", 5),
    ("create", 1),
    ("create", 3),
    ("delete", 1),
]


def kill_at_request(real: Any, name: str, number: int) -> Callable[[], None]:
    """Return a function that kills the process at a request to the store, half way through it."""

    def prepare() -> None:
        from tunesmith_remote.bucket import Bucket

        if name == "upload":
            real_upload, count = Bucket.upload, 0

            def upload(self: Any, source: Path, target: str) -> None:
                nonlocal count
                count += 1
                if count == number:  # as much as had arrived, where the store shows it
                    self.write(target, source.read_bytes()[: source.stat().st_size // 2])
                    die()
                real_upload(self, source, target)

            Bucket.upload = upload  # type: ignore[method-assign]
        else:
            real.before_call(Bucket, name, number, die)()

    return prepare


def check_kill_in_upload(
    work: Work, name: str, number: int, monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    """Kill; continue in the folder, or with what the store has where the folder is lost."""
    monkeypatch.syspath_prepend(SOURCES["remote"])
    from tunesmith_remote.bucket import Bucket
    from tunesmith_remote.pull import pull_run
    from tunesmith_remote.snapshot import list_numbers

    end = work.begin(kill_at_request(work.real, name, number)).end()
    assert end.code == -KILL, end.output
    if is_lost and list_numbers(Bucket(work.url)):
        shutil.rmtree(work.run)
        pull_run(Bucket(work.url), work.run)
    work.finish()
    pulled = work.folder / "pulled" / "run"
    shutil.rmtree(pulled, ignore_errors=True)
    pull_run(Bucket(work.url), pulled)
    assert work.results(pulled) == work.expected


@pytest.mark.faults
@pytest.mark.parametrize("is_lost", [False, True], ids=["kept", "lost"])
@pytest.mark.parametrize(("name", "number"), REQUESTS)
def test_a_kill_in_an_upload(
    faults: Any,
    make_work: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    is_lost: bool,
) -> None:
    work = make_work("mirrored", ECHO, pause=0.01, is_mirrored=True)
    check_kill_in_upload(work, name, number, monkeypatch, is_lost=is_lost)
    faults.count_trials("kill -9 in an upload")


@pytest.mark.faults
@pytest.mark.parametrize(("name", "number", "is_lost"), [("upload", 9, True), ("create", 2, False)])
def test_a_kill_in_an_upload_with_tensors(
    faults: Any,
    make_work: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    is_lost: bool,
) -> None:
    work = make_work("mirrored-tensors", LORA, pause=0.01, is_mirrored=True)
    check_kill_in_upload(work, name, number, monkeypatch, is_lost=is_lost)
    faults.count_trials("kill -9 in an upload (lora)")
