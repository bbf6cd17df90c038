"""A run from plan to report: executed once, resumed where it stopped, with its true end."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tunesmith_echo
from bench import (
    LISTENERS,
    RECORDER,
    RECORDERS,
    RIGHT,
    ROWS,
    Bench,
    RecordingReporter,
    Rows,
    bench_plugin,
    catalog_of,
    echo_plugin,
    offering,
    plugin,
    rows,
)
from tunesmith_echo.technique import Echo

from tunesmith.contracts import Artifact, Dataset, Finding, Job
from tunesmith.errors import (
    ConfigError,
    DataError,
    GateError,
    PluginError,
    RunStopped,
    TrainingError,
    UsageError,
)
from tunesmith.events import Event, FindingReported, RunStarted, StepFinished, from_json
from tunesmith.execution import execute
from tunesmith.execution.guards import TimeLimitGuard
from tunesmith.execution.report import build_report
from tunesmith.execution.run_data import load_data
from tunesmith.records import Completion, Text

StopAfter = Callable[[int], None]


@pytest.fixture
def stop_after() -> StopAfter:
    """Make the run stop, as a signal would, when a step is emitted."""

    def stop(step: int) -> None:
        def send_signal(event: Event) -> None:
            if isinstance(event, StepFinished) and event.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

        LISTENERS[:] = [send_signal]

    return stop


def never(*args: object, **more: object) -> object:
    raise AssertionError("called, but must not be")


def kinds(bench: Bench) -> list[str]:
    return [event["event"] for event in bench.events()]


def test_a_run_whose_file_is_written_is_trusted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that is killed in between could not be resumed without a question."""

    def end(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "trust_code", end)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert not (bench.root / "out" / "run.toml").exists()


def test_a_complete_run(bench: Bench) -> None:
    report = bench.run()
    assert report.status == "ok"
    seen = kinds(bench)
    assert seen[0] == "run-started" and seen[-1] == "run-finished"
    order = ["data-loaded", "training-started", "step-finished", "training-finished", "measured"]
    firsts = [seen.index(kind) for kind in order[:-1]]
    assert firsts == sorted(firsts)
    assert [m.model for m in report.measured.values()] == ["zero-shot", "random-shots", "tuned"]
    by_model = {m.model: m.value for m in report.measured.values()}
    assert by_model["zero-shot"] == 0.0 and by_model["tuned"] == 1.0
    assert report.finished is not None
    assert report.finished.verdict["outcome"] == "better"
    assert "worth it" in report.finished.verdict["sentence"]


def test_report_json_is_built_from_the_events(bench: Bench) -> None:
    bench.run()
    events = [from_json(line) for line in bench.events()]
    again = build_report(event for event in events if event is not None).to_json()
    assert json.loads(json.dumps(again)) == bench.report()
    assert bench.report()["schema"] == "tunesmith.report/1"


def test_reporters_get_the_logged_events_and_are_closed(bench: Bench) -> None:
    bench.run()
    (recorder,) = RECORDERS
    emitted = [event.kind for event in recorder.events if event.kind != "phase-advanced"]
    assert emitted == kinds(bench)
    assert recorder.closed


def test_training_and_test_rows_are_disjoint(bench: Bench) -> None:
    plan = bench.plan()
    _, parts = load_data(plan)
    train, test = ({r.source for r in part} for part in (parts.train, parts.test))
    assert len(test) == 12 and not train & test and len(train | test) == 60
    assert load_data(plan)[1] == parts
    assert load_data(bench.plan(run={"seed": 1}))[1] != parts


def test_test_records_of_the_loader_are_used_unchanged(bench: Bench) -> None:
    _, parts = load_data(bench.plan(data={"test_last": 5}))
    assert [r.source.rpartition(":")[2] for r in parts.test] == ["56", "57", "58", "59", "60"]


def test_unusable_rows_are_reported(bench: Bench) -> None:
    bench.write_rows([*rows(30), {"prompt": "x", "completion": ""}])
    report = bench.run()
    assert report.data is not None
    assert report.data.skipped == {"answer is empty": 1}
    assert report.data.examples[0]["where"].endswith("rows.jsonl:31")


def test_values_of_every_record_are_stored(bench: Bench) -> None:
    report = bench.run()
    (tuned,) = [m for m in report.measured.values() if m.model == "tuned"]
    lines = (bench.root / "out" / tuned.records).read_text(encoding="utf-8").splitlines()
    assert len(lines) == tuned.n == 12
    first = json.loads(lines[0])
    assert first["right"] == {"value": 1.0, "weight": 1.0}
    assert first["output"] == first["expected"]


def test_two_evaluators_of_one_name_are_both_reported(bench: Bench) -> None:
    """The first one gives the verdict; its values are the opposite of the second one's."""
    two = [{"use": "right", "inverted": True}, {"use": "right", "id": "usual"}]
    gate = {"at_least": {"right": {"right": 0.0}, "usual": {"right": 1.0}}}
    report = bench.run(evaluators=two, gate=gate)
    values = {(m.model, m.evaluator): m.value for m in report.measured.values()}
    assert values["tuned", "right"] == 0.0 and values["tuned", "usual"] == 1.0
    assert len(values) == 6
    assert len({m.records for m in report.measured.values()}) == 6
    evaluations = bench.report()["evaluations"]
    assert {e["evaluator"] for e in evaluations} == {"right", "usual"}
    verdict = bench.report()["verdict"]
    assert (verdict["evaluator"], verdict["metric"]) == ("right", "right")
    assert verdict["outcome"] == "worse" and "right: right" in verdict["sentence"]
    names = {path.name for path in (bench.root / "out" / "evaluations").iterdir()}
    assert {"tuned.right.jsonl", "tuned.usual.jsonl"} <= names


def test_the_tuned_model_is_measured_on_training_rows_apart_from_the_scores(bench: Bench) -> None:
    """As many as are held out, none of them held out, and always the same ones."""
    fit = replace(RIGHT, name="fit", on_training_rows=True)
    bench.catalog = catalog_of(fit=offering("evaluators", fit))
    report = bench.run()
    ((key, event),) = report.training_rows.items()
    assert key == ("training-rows", "fit", "right") and event.n == 12
    assert "training-rows" not in {e.model for e in report.measured.values()}
    assert "training-rows" not in str(bench.report()["verdict"])
    (shown,) = bench.report()["training_rows"]
    assert shown["records"] == "evaluations/training-rows.fit.jsonl"
    folder = bench.root / "out" / "evaluations"
    sources = {
        name: {json.loads(line)["source"] for line in (folder / name).read_text().splitlines()}
        for name in ("tuned.right.jsonl", "training-rows.fit.jsonl")
    }
    assert all(len(found) == 12 for found in sources.values())
    assert not set.intersection(*sources.values())
    other = bench.run(folder="again")
    again = bench.root / "again" / event.records
    assert (
        other.training_rows and again.read_bytes() == (folder.parent / event.records).read_bytes()
    )


def test_the_gate_reads_the_evaluator_that_it_names(bench: Bench) -> None:
    two = [{"use": "right"}, {"use": "right", "inverted": True}]
    gate = {"at_least": {"right": {"right": 0.9}, "right-2": {"right": 0.9}}}
    with pytest.raises(GateError) as caught:
        bench.run(evaluators=two, gate=gate)
    assert caught.value.message == "gate.at_least.right-2.right: must be at least 0.9, got 0.000"


# --------------------------------------------------------------------------- stopping, resuming


def test_a_signal_stops_after_a_step_and_resuming_continues_there(
    bench: Bench, stop_after: StopAfter, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninterrupted = bench.run(folder="uninterrupted").to_json()["training"]["losses"]
    stop_after(5)
    with pytest.raises(RunStopped, match="SIGTERM") as caught:
        bench.run()
    assert caught.value.exit_code == 143
    stopped = bench.report()
    assert stopped["run"]["status"] == "stopped" and stopped["run"]["exit_code"] == 143
    assert stopped["training"]["steps"] == 5
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.undo()
    before = len(bench.events())
    report = bench.run(resume=True)
    assert report.status == "ok"
    again = [event["event"] for event in bench.events()[before:]]
    assert bench.events()[before]["resumed"] is True
    steps = [e["step"] for e in bench.events()[before:] if e["event"] == "step-finished"]
    assert steps[0] == 6
    assert {e["model"] for e in bench.events()[before:] if e["event"] == "measured"} == {"tuned"}
    assert again[-1] == "run-finished"
    training = report.to_json()["training"]
    assert training["losses"] == uninterrupted
    assert training["steps"] == training["planned_steps"]


def test_a_killed_run_is_unfinished_and_can_be_resumed(bench: Bench) -> None:
    """SIGKILL leaves no last word; events and checkpoints are what counts."""
    tables = bench.tables(technique={"pause": 0.02, "epochs": 5})
    import tomli_w

    run_file = bench.write_run(tomli_w.dumps(tables))
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "import bench, tomllib\n"
        "from tunesmith import storage\n"
        "from tunesmith.config import read_plan, run_file\n"
        "from tunesmith.execution import execute\n"
        "read = run_file.read_run_file(Path(sys.argv[3]), environment={})\n"
        "catalog = bench.catalog_of()\n"
        "folder = storage.RunFolder(Path(sys.argv[4]))\n"
        "execute.run(read_plan.make_plan(read, catalog), catalog, folder)\n"
    )
    folder = bench.folder()
    paths = [str(Path(sys.modules["bench"].__file__ or "").parent)]
    paths.append(str(Path(tunesmith_echo.__file__ or "").parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *paths, str(run_file), str(folder.path)]
    )
    while process.poll() is None:
        if folder.events.exists() and '"step":12' in folder.events.read_text().replace(" ", ""):
            process.kill()
            break
    assert process.wait() == -signal.SIGKILL
    assert execute.load_report(folder).status == "unfinished"
    assert not (folder.path / "report.json").exists()
    before = len(bench.events())
    report = bench.run(resume=True, technique={"pause": 0.02, "epochs": 5})
    assert report.status == "ok"
    steps = [e["step"] for e in bench.events()[before:] if e["event"] == "step-finished"]
    assert 1 < steps[0] <= 14
    assert report.to_json()["training"]["steps"] == 60


def test_finished_evaluations_are_not_repeated_on_resume(bench: Bench) -> None:
    with pytest.raises(GateError):
        bench.run(gate={"at_least": {"right": 2.0}})
    bench.catalog = catalog_of(echo=echo_plugin(train=never))
    before = len(bench.events())
    with pytest.raises(UsageError, match=r"gate\.at_least\.right was 2\.0, is now absent"):
        bench.run(resume=True)
    report = bench.run(resume=True, accept_changes=True)
    assert report.status == "ok"
    assert not [e for e in bench.events()[before:] if e["event"] in ("measured", "step-finished")]


def test_changed_data_is_refused_on_resume(bench: Bench, stop_after: StopAfter) -> None:
    stop_after(3)
    with pytest.raises(RunStopped):
        bench.run()
    changed = rows()
    changed[7]["completion"] = "Lima"
    bench.write_rows(changed)
    with pytest.raises(UsageError, match=r"the data changed since the run started.*48"):
        bench.run(resume=True)
    assert bench.report()["run"]["status"] == "failed"
    before = len(bench.events())
    report = bench.run(resume=True, accept_changes=True)
    assert report.status == "ok"
    again = {e["model"] for e in bench.events()[before:] if e["event"] == "measured"}
    assert again == {event.model for event in report.measured.values()}, "of the same rows"
    [finding] = [found for found in report.findings if found.level == "error"]
    assert "may have been trained on" in finding.message
    assert finding.test_rows == list(range(report.data.test if report.data else 0))
    resumed = bench.run(resume=True)
    assert finding in resumed.findings, "a further resume does not forget it"


@pytest.mark.parametrize("lines", [None, 0, 1])
def test_a_run_whose_log_is_lost_is_not_resumed_silently(
    bench: Bench, stop_after: StopAfter, lines: int | None
) -> None:
    stop_after(5)
    with pytest.raises(RunStopped):
        bench.run()
    LISTENERS.clear()
    events, report = bench.root / "out" / "events.jsonl", bench.report()
    kept = events.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
    events.unlink()
    if lines is not None:
        events.write_text("".join(kept), encoding="utf-8")
    with pytest.raises(UsageError, match=r"events\.jsonl: the event log was .*the data") as caught:
        bench.run(resume=True)
    assert "--accept-changes" in (caught.value.hint or "")
    assert bench.report() == report and events.exists() == (lines is not None)
    resumed = bench.run(resume=True, accept_changes=True)
    assert resumed.status == "ok"
    assert resumed.findings[0].message.startswith("resumed although events.jsonl no longer records")
    steps = [event["step"] for event in bench.events() if event["event"] == "step-finished"]
    assert steps[0] == 6


def test_an_evaluation_whose_file_is_lost_is_repeated(bench: Bench) -> None:
    with pytest.raises(GateError):
        bench.run(gate={"at_least": {"right": 1.5}})
    (lost, *_) = (bench.root / "out" / "evaluations").glob("tuned.*")
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(GateError):
        bench.run(resume=True, gate={"at_least": {"right": 1.5}})
    assert lost.read_bytes() == content


def test_a_run_that_was_killed_before_its_first_event_is_resumed(bench: Bench) -> None:
    bench.folder().events.touch()
    assert bench.run(resume=True).status == "ok"


def test_changed_plugin_versions_are_refused_on_resume(bench: Bench, stop_after: StopAfter) -> None:
    stop_after(3)
    with pytest.raises(RunStopped):
        bench.run()
    found = bench.catalog.plugins.found
    found[0] = replace(found[0], version="99")
    bench.catalog.plugins.manager  # noqa: B018 - gather the same plugins again
    bench.catalog._gathered.clear()
    with pytest.raises(UsageError, match=r'file:echo was "", is now 99'):
        bench.run(resume=True)
    assert bench.run(resume=True, accept_changes=True).status == "ok"


def test_two_processes_cannot_have_one_run(bench: Bench) -> None:
    from tunesmith.storage import lock

    with lock(bench.folder().path), pytest.raises(UsageError, match="in use"):
        bench.run()


def test_the_time_limit_stops_a_run_that_can_be_resumed(bench: Bench) -> None:
    limit = TimeLimitGuard(minutes=0.5)
    step = dict(
        stage="", steps=10, loss=1.0, learning_rate=1.0, gradient_norm=1.0, rows=1, tokens=1,
        trained_tokens=1, memory_bytes=0,
    )  # fmt: skip
    assert limit.check(StepFinished(step=1, seconds=29, **step)) is None  # type: ignore[arg-type]
    error = limit.check(StepFinished(step=2, seconds=2, **step))  # type: ignore[arg-type]
    assert isinstance(error, RunStopped) and error.exit_code == 75


# --------------------------------------------------------------------------- what goes wrong


def test_a_failing_reporter_is_muted_after_three_failures(bench: Bench) -> None:
    report = bench.run(reporters=[{"use": "recorder", "raises": True}, {"use": "recorder"}])
    assert report.status == "ok"
    bad, good = RECORDERS
    assert bad.calls == 3 and bad.closed
    assert good.events[-1].kind == "run-finished"
    complaints = [n.message for n in report.findings if "recorder" in n.message]
    assert len(complaints) == 2  # the first two are the same sentence
    assert "ValueError: a bug in the reporter (bench.py:" in complaints[0]
    assert complaints[-1].endswith("muted for the rest of the run")


def test_a_reporter_that_exits_does_not_end_the_run(bench: Bench) -> None:
    def leave(event: Event) -> None:
        sys.exit(3)

    LISTENERS[:] = [leave]
    report = bench.run()
    assert report.status == "ok" and RECORDERS[0].calls == 3
    assert "SystemExit: 3 (test_execute.py:" in report.findings[0].message


def test_a_reporter_that_cannot_be_closed_is_in_the_log_and_the_report(
    bench: Bench, recwarn: pytest.WarningsRecorder
) -> None:
    """Such as one that uploads the end of the run: the others are told, and the run is fine."""

    class Failing(RecordingReporter):
        def __exit__(self, *error: object) -> None:
            raise OSError("the store is down")

    failing = replace(
        RECORDER, name="failing", by_default=False, build=lambda options, folder: Failing()
    )
    bench.catalog = catalog_of(failing=offering("reporters", failing))
    report = bench.run(reporters=[{"use": "recorder"}, {"use": "failing"}])
    assert report.status == "ok"
    stored = bench.report()["findings"]
    for text in (report.findings[-1].message, stored[-1]["message"]):
        assert text.startswith('reporter "failing" could not be closed: OSError: the store is down')
    assert kinds(bench)[-2:] == ["run-finished", "finding"]
    assert RECORDERS[0].closed and isinstance(RECORDERS[0].events[-1], FindingReported)
    assert not [w for w in recwarn if "close" in str(w.message)]


class Required(RecordingReporter):
    """A reporter such as an audit log: it refuses the second step, and keeps what it saw."""

    def report(self, event: Event) -> None:
        super().report(event)
        if isinstance(event, StepFinished) and event.step == 2:
            raise ValueError("the audit log is full")

    def __exit__(self, *error: object) -> None:
        self.others_closed = RECORDERS[0].closed
        super().__exit__(*error)


def test_a_required_reporter_ends_the_run_and_is_closed_last(bench: Bench) -> None:
    opened: list[Required] = []

    def build(options: object, folder: object) -> Required:
        opened.append(Required())
        return opened[-1]

    offer = replace(RECORDER, name="required", by_default=False, build=build, required=True)
    bench.catalog = catalog_of(required=offering("reporters", offer))
    with pytest.raises(PluginError, match=r'"file:required".*ValueError: the audit log is full'):
        bench.run(reporters=[{"use": "recorder"}, {"use": "required"}])
    (required,) = opened
    steps = [e.step for e in RECORDERS[0].events if isinstance(e, StepFinished)]
    assert steps == [1, 2] and required.others_closed
    assert required.events[-1].kind == "step-finished"  # it gets no more events
    finished = bench.report()["run"]
    assert finished["status"] == "failed" and "audit log" in finished["error"]


def test_reporters_are_closed_if_a_later_one_cannot_be_opened(bench: Bench) -> None:
    def build(options: object, folder: object) -> object:
        raise SystemExit(3)

    failing = replace(RECORDER, name="failing", by_default=False, build=build)
    bench.catalog = catalog_of(failing=offering("reporters", failing))
    with pytest.raises(PluginError, match=r'"file:failing".*SystemExit: 3'):
        bench.run(reporters=[{"use": "recorder"}, {"use": "failing"}])
    assert RECORDERS[0].closed


def test_a_reporter_cannot_change_events_and_global_state(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.root)

    def meddle(event: Event) -> None:
        os.chdir("/")
        random.seed(3)
        if isinstance(event, RunStarted):
            event.plan.clear()

    LISTENERS[:] = [meddle]
    random.seed(1)
    expected = random.random()
    random.seed(1)
    report = bench.run(reporters=[{"use": "recorder"}, {"use": "recorder"}])
    assert report.started is not None and report.started.plan["run"]["seed"] == 42
    assert Path.cwd() == bench.root and random.random() == expected
    complaints = [n.message for n in report.findings]
    assert complaints == ['reporter "recorder" changed the current folder; the change was undone']


def test_a_reporter_may_replace_the_streams_until_the_end_of_the_run(bench: Bench) -> None:
    """As a live display does; what it does not put back is put back."""
    replaced = io.StringIO()
    seen = []

    def show(event: Event) -> None:
        seen.append(sys.stdout)
        sys.stdout = replaced

    LISTENERS[:] = [show]
    before = sys.stdout
    report = bench.run()
    assert seen[0] is before and set(seen[1:]) == {replaced}
    assert sys.stdout is before and not report.findings


def test_a_loader_whose_records_can_be_changed_is_named(bench: Bench) -> None:
    class Parts(Rows):
        def load(self) -> Dataset:
            rows = super().load()
            return replace(rows, train=[replace(r, completion=["a"]) for r in rows.train])  # type: ignore[call-arg]

    bench.catalog = catalog_of(bench=bench_plugin(loader=replace(ROWS, build=Parts)))
    with pytest.raises(PluginError, match=r'"file:bench" created a mutable record: .*:1 '):
        bench.run()


def test_a_loader_that_raises_names_plugin_and_line(bench: Bench) -> None:
    with pytest.raises(
        PluginError, match=r'"file:bench".*KeyError: .oops. \(bench\.py:\d+\)'
    ) as caught:
        bench.run(data={"raises": "oops"})
    assert caught.value.exit_code == 8
    failed = bench.report()["run"]
    assert (failed["status"], failed["exit_code"]) == ("failed", 8)
    assert "oops" in failed["error"]
    assert RECORDERS[0].closed


def test_a_technique_that_raises_names_its_plugin(bench: Bench) -> None:
    good = bench.catalog
    bench.catalog = catalog_of(echo=echo_plugin(train=lambda self, job: 1 / 0))
    with pytest.raises(
        PluginError, match=r'"file:echo" failed in train: ZeroDivisionError.*\(test_execute'
    ):
        bench.run()
    bench.catalog = good
    assert bench.run(resume=True).status == "ok"


def test_models_are_released_before_the_next_is_opened_and_before_training(bench: Bench) -> None:
    """A model is full of reference cycles: its memory is released when it is collected."""
    opened: list[weakref.ref[object]] = []
    alive: list[int] = []

    def open_knotted(*args: object, **more: object) -> object:
        alive.append(sum(ref() is not None for ref in opened))
        model = Echo.open(*args, **more)  # type: ignore[arg-type]
        model.itself = model  # type: ignore[attr-defined]
        opened.append(weakref.ref(model))
        return model

    def train(*args: object) -> object:
        alive.append(sum(ref() is not None for ref in opened))
        return Echo.train(*args)  # type: ignore[arg-type]

    bench.catalog = catalog_of(echo=echo_plugin(open=open_knotted, train=train))
    gc.disable()
    try:
        bench.run()
    finally:
        gc.enable()
    assert alive == [0, 0, 0]  # the base, the training, the tuned model


def test_a_gate_that_is_not_met(bench: Bench) -> None:
    with pytest.raises(
        GateError, match=r"gate.at_least.right: must be at least 1.5, got 1"
    ) as caught:
        bench.run(gate={"at_least": {"right": 1.5}, "must_beat": ["zero-shot"]})
    assert caught.value.exit_code == 6
    report = bench.report()
    assert (report["run"]["status"], report["run"]["exit_code"]) == ("failed", 6)
    assert report["training"]["artifact"] == "model"
    assert (bench.root / "out" / "model" / "echo.json").is_file()


def test_a_gate_that_is_met(bench: Bench) -> None:
    gate = {"at_least": {"right": 0.9}, "must_beat": ["zero-shot", "random-shots"]}
    assert bench.run(gate=gate).status == "ok"


def test_a_finding_of_level_error_ends_the_run_before_a_weight_is_read(bench: Bench) -> None:
    finding = Finding(level="error", where="technique.epochs", message="far too many")
    bench.catalog = catalog_of(
        echo=echo_plugin(open=never, train=never), bench=bench_plugin([finding])
    )
    with pytest.raises(ConfigError, match=r"technique\.epochs: far too many"):
        bench.run()
    assert bench.report()["findings"][0]["message"] == "far too many"


def test_an_error_that_is_resolved_does_not_end_the_resumed_run(bench: Bench) -> None:
    finding = Finding(level="error", where="technique.epochs", message="far too many")
    good = bench.catalog
    bench.catalog = catalog_of(bench=bench_plugin([finding]))
    with pytest.raises(ConfigError):
        bench.run()
    bench.catalog = good
    assert bench.run(resume=True).status == "ok"


def test_a_warning_is_emitted_and_reported(bench: Bench) -> None:
    finding = Finding(
        level="warning",
        where="technique.epochs",
        message="rather many",
        count=7,
        examples=("a:1 first", "a:2 second"),
        hint="take fewer",
    )
    bench.catalog = catalog_of(bench=bench_plugin([finding]))
    (finding,) = bench.run().findings
    assert (finding.message, finding.count) == ("rather many", 7)
    assert finding.text == "rather many: a:1 first; a:2 second; take fewer"


def test_an_error_about_test_rows_lets_the_run_measure_without_them_too(bench: Bench) -> None:
    mail = "row:3 jane.doe@example.com"
    copies = Finding(level="error", where="", message="copies", examples=(mail,), test_rows=(0, 3))
    bench.catalog = catalog_of(bench=bench_plugin([copies]))
    report = bench.run()
    assert report.status == "ok"
    (finding,) = report.findings
    assert (finding.test_rows, finding.examples) == ([0, 3], ["row:3 j…@example.com"])
    evaluations = bench.report()["evaluations"]
    assert [e["leakage_free"]["n"] for e in evaluations] == [10] * len(evaluations)


def test_rows_of_an_earlier_review_are_forgotten(bench: Bench) -> None:
    """Else scores of a resumed run would be without rows that are no copies any more."""
    copies = Finding(level="error", where="", message="copies", test_rows=(0,))
    stop = Finding(level="error", where="", message="stop")
    good = bench.catalog
    bench.catalog = catalog_of(bench=bench_plugin([copies, stop]))
    with pytest.raises(ConfigError):
        bench.run()
    bench.catalog = good
    report = bench.run(resume=True)
    assert [finding.message for finding in report.findings] == ["stop"]
    assert not any(event.leakage_free for event in report.measured.values())


def test_data_reviewers_are_called(bench: Bench) -> None:
    seen = []
    watching = plugin(
        review_data=lambda dataset, train, test: (
            seen.append((len(dataset.train), len(train), len(test))) or []
        )
    )
    bench.catalog = catalog_of(watching=watching)
    bench.run()
    assert seen == [(60, 48, 12)]


def test_divergence_ends_the_run_as_a_training_error(bench: Bench) -> None:
    losses = iter([0.5] * 3 + [9.0 + n for n in range(100)])

    def train(self: Echo, job: Job[Any]) -> Artifact:
        def emit(event: Event) -> None:
            is_step = isinstance(event, StepFinished)
            job.emit(replace(event, loss=next(losses)) if is_step else event)

        return Echo.train(self, replace(job, emit=emit))

    bench.catalog = catalog_of(echo=echo_plugin(train=train))
    with pytest.raises(TrainingError, match="diverged"):
        bench.run(technique={"batch_size": 1}, baselines={"use": []})
    assert bench.report()["run"]["exit_code"] == 5


def test_records_that_the_technique_does_not_accept(bench: Bench) -> None:
    class Texts(Rows):
        def load(self) -> Dataset:
            rows = super().load()
            texts = [Text(source=record.source, text=record.source) for record in rows.train]
            return replace(rows, train=texts)

    bench.catalog = catalog_of(bench=bench_plugin(loader=replace(ROWS, build=Texts)))
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: technique echo cannot train on Text records"
    ):
        bench.run()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "returned a value of type NoneType instead of a Dataset"),
        (Dataset(train=[{"prompt": "p"}]), "returned a value of type dict instead of a Record"),  # type: ignore[list-item]
        (
            Dataset(train=[Completion(source="f:1", prompt="p", completion=None)] * 9),  # type: ignore[arg-type]
            "created a record with wrong types: every required field of f:1 must be a text",
        ),
    ],
)
def test_a_loader_that_returns_something_else_is_named(
    bench: Bench, content: Any, message: str
) -> None:
    class Wrong(Rows):
        def load(self) -> Dataset:
            return content

    bench.catalog = catalog_of(bench=bench_plugin(loader=replace(ROWS, build=Wrong)))
    with pytest.raises(PluginError, match=f'"file:bench".* {message}'):
        bench.run()


def test_one_row_cannot_be_split(bench: Bench) -> None:
    bench.write_rows(rows(1))
    with pytest.raises(DataError, match=r"data.test_size"):
        bench.run()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("metric", r'"file:bench" returned the metric "beauty", which its offer does not declare'),
        ("length", r'"file:bench" returned \d+ values of "right" for \d+ records'),
        ("raises", r'"file:bench".*ZeroDivisionError: a bug in the evaluator'),
    ],
)
def test_an_evaluator_that_breaks_its_contract_is_named(
    bench: Bench, fault: str, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        bench.run(evaluators=[{"use": "right", "fault": fault}])
    assert bench.report()["run"]["exit_code"] == 8


def test_baselines_can_be_skipped(bench: Bench) -> None:
    report = bench.run(baselines={"use": []})
    assert [m.model for m in report.measured.values()] == ["tuned"]
    assert report.finished is not None
    assert report.finished.verdict["outcome"] == "unclear"


def test_versions_and_plugins_are_recorded(bench: Bench) -> None:
    report = bench.run().to_json()
    assert report["versions"]["python"] and report["versions"]["tunesmith"]
    assert {p["name"] for p in report["plugins"]} == {"echo", "bench"}


def test_run_toml_repeats_the_run(bench: Bench) -> None:
    from tunesmith.config import run_file
    from tunesmith.config.read_plan import make_plan

    first = bench.run()
    read = run_file.read_run_file(bench.root / "out" / "run.toml", environment={})
    again = execute.run(make_plan(read, bench.catalog), bench.catalog, bench.folder("again"))
    assert again.to_json()["training"]["losses"] == first.to_json()["training"]["losses"]
    assert again.data is not None and first.data is not None
    assert again.data.fingerprint == first.data.fingerprint
