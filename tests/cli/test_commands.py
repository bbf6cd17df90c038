"""The command line from end to end, with a plugin that needs no tensors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunesmith_cli.app import app

FAKE = Path(__file__).parents[1] / "core" / "fake_plugin.py"
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
WORDS += ["iota", "kappa", "lambda", "mu", "nu", "xi", "omicron", "pi"]
RUN_FILE = """
[model]
base = "fake:one"
[data]
use = "lines"
train = "data.tsv"
test_size = 8
[technique]
use = "by-heart"
[[evaluators]]
use = "same"
"""
GOOD_PLUGIN = """
from tunesmith.hookspecs import hookimpl

@hookimpl
def tunesmith_techniques():
    return []
"""
Tunesmith = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run file and data, with a clean environment."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("TUNESMITH"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,other")
    rows = [f"say {word}\tSAY {word.upper()}" for word in WORDS]
    (tmp_path / "data.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "run.toml").write_text(RUN_FILE)
    return tmp_path


@pytest.fixture
def tunesmith(here: Path) -> Tunesmith:
    """The command, in this process."""

    def call(*args: str | Path, input: str | None = None, fake: bool = True) -> Result:
        plugin = ["--plugin", str(FAKE)] if fake else []
        return CliRunner().invoke(app, [*plugin, *map(str, args)], input=input)

    return call


@pytest.fixture
def finished(tunesmith: Tunesmith, here: Path) -> Path:
    """The folder of a run that went well."""
    assert tunesmith("run", "run.toml", "--out", "done").exit_code == 0
    return here / "done"


def only_run(here: Path) -> Path:
    (run,) = (here / "runs").iterdir()
    return run


# --- the straight path -----------------------------------------------------------------------


def test_a_run_prints_results_on_stdout_and_progress_on_stderr(
    tunesmith: Tunesmith, here: Path
) -> None:
    done = tunesmith("run", "run.toml")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "fine-tuning was worth it" in done.stdout and len(lines) <= 12
    assert lines[1] == "8 of 8 right; 0 without fine-tuning (zero-shot)"
    assert any(line.startswith("cost: training ") for line in lines)
    assert any(line.startswith("notes: 0 skipped rows, ") for line in lines)
    assert "step 6/6" in done.stderr and "step 6/6" not in done.stdout
    assert f"run folder: {only_run(here)}" in lines
    assert f"report page: {only_run(here) / 'report.html'}" in lines
    assert f"tunesmith chat runs/{only_run(here).name}" in done.stderr
    lines = tunesmith("report", only_run(here)).stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("model  "))
    assert lines[first].split() == ["model", "metric", "value", "95", "%", "interval", "n"]
    assert [line.split()[0] for line in lines[first + 2 : first + 5]] == [
        "zero-shot",
        "random-shots",
        "retrieved-shots",
    ]


def test_metrics_of_two_evaluators_of_one_name_are_distinguished(
    tunesmith: Tunesmith, here: Path
) -> None:
    second = '[[evaluators]]\nuse = "same"\nid = "again"\n'
    (here / "run.toml").write_text(RUN_FILE + second)
    assert "evaluators: same, again" in tunesmith("check", "run.toml").stdout
    done = tunesmith("run", "run.toml")
    assert done.exit_code == 0, done.output
    shown = tunesmith("report", only_run(here)).stdout
    table = shown[shown.index("model  ") :].splitlines()
    assert [line.split()[:3] for line in table[2:10]] == [
        [model, f"{evaluator}:", "same"]
        for evaluator in ("same", "again")
        for model in ("zero-shot", "random-shots", "retrieved-shots", "tuned")
    ]


def test_json_prints_only_the_report(tunesmith: Tunesmith, here: Path) -> None:
    done = tunesmith("run", "run.toml", "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "tunesmith.report/1"
    assert report["run"]["status"] == "ok"
    assert report["folder"] == str(only_run(here))
    stored = json.loads((only_run(here) / "report.json").read_text())
    assert report["fit"]["state"] == "unclear", "six steps show nothing"
    assert report["right_answers"] == "8 of 8 right; 0 without fine-tuning (zero-shot)"
    assert report["fields"] == report["confusions"] == []
    added = ("folder", "fit", "right_answers", "fields", "confusions")
    assert {**stored, **{key: report[key] for key in added}} == report


def test_quiet_prints_only_results_and_the_run_folder(tunesmith: Tunesmith, here: Path) -> None:
    done = tunesmith("-q", "run", "run.toml")
    assert "fine-tuning was worth it" in done.stdout
    assert f"run folder: {only_run(here)}" in done.stdout.splitlines()
    assert "report page: " in done.stdout, "only progress is left out"
    assert (only_run(here) / "report.html").is_file()
    assert done.stderr == ""


def test_out_is_the_run_folder_and_never_overwritten(tunesmith: Tunesmith, finished: Path) -> None:
    assert (finished / "artifact" / "answers.json").is_file()
    again = tunesmith("run", "run.toml", "--out", "done")
    assert again.exit_code == 2
    assert "exists and is not empty" in again.stderr


def test_the_python_api_gives_the_same_run(here: Path) -> None:
    import tunesmith as package
    from tunesmith import api

    (here / "run.toml").write_text(RUN_FILE + f"[plugins]\nfiles = [{json.dumps(str(FAKE))}]\n")
    report = package.run("run.toml", set={"technique.steps": 4}, out="python").report
    assert report.status == "ok"
    assert [event.steps for event in report.training_finished.values()] == [4]
    assert api.read_report("python").to_json() == report.to_json()
    with pytest.raises(package.TunesmithError, match="is finished"):
        package.resume("python")


def test_the_stored_plan_can_be_run_again(tunesmith: Tunesmith, finished: Path) -> None:
    again = tunesmith("run", finished / "run.toml", "--out", "again", "--json", fake=False)
    assert again.exit_code == 0, again.output
    first = json.loads((finished / "report.json").read_text())
    second = json.loads(again.stdout)
    assert first["plan"] == second["plan"]
    assert first["evaluations"] == second["evaluations"]


# --- plan ------------------------------------------------------------------------------------


def test_plan_prints_a_run_file(tunesmith: Tunesmith, here: Path) -> None:
    done = tunesmith("plan", "run.toml", "--resolved")
    resolved = tomllib.loads(done.stdout)
    assert resolved["technique"]["steps"] == 6
    as_json = json.loads(tunesmith("plan", "run.toml", "--resolved", "--json").stdout)
    assert as_json["plan"]["technique"] == resolved["technique"]
    (here / "resolved.toml").write_text(done.stdout)
    assert tunesmith("check", "resolved.toml", fake=False).exit_code == 0


# --- how it fails ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["run", "nowhere.toml"], 2, "nowhere.toml: no such run file"),
        (["run", "run.toml", "--set", "technique.steps"], 2, "expected key=value"),
        (["run", "run.toml", "--sat", "x=1"], 2, "--sat"),
        (["rnu"], 2, "did you mean run?"),
        (["merge", "RUN"], 2, "did you mean export? Merge and export a run's model"),
        (["run", "run.toml", "--set", "data.train=gone.tsv"], 3, "gone.tsv: no such file"),
        (["run", "run.toml", "--set", "technique.use=needy"], 4, "is not installed"),
        (
            ["run", "run.toml", "--set", "technique.mode=diverge", "--set", "technique.steps=40"],
            5,
            "the loss diverged",
        ),
        (["run", "run.toml", "--set", "gate.at_least.same=1.5"], 6, "gate.at_least.same"),
        (["run", "run.toml", "--set", "technique.mode=raise"], 8, "fake_plugin"),
        (
            ["run", "run.toml", "--set", "run.max_minutes=0.005"],
            75,
            "run.max_minutes = 0.005 is reached",
        ),
        (["run", "run.toml", "--set", "technique.mode=interrupt"], 130, "stopped by Ctrl-C"),
        (["report", "."], 2, "is not the folder of a run"),
        (["plugins", "show", "by-haert"], 2, "did you mean by-heart?"),
    ],
)
def test_every_failure_has_its_exit_code_and_one_sentence(
    tunesmith: Tunesmith, args: list[str], code: int, message: str
) -> None:
    done = tunesmith(*args)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_debug_shows_the_traceback(tunesmith: Tunesmith) -> None:
    done = tunesmith("run", "run.toml", "--set", "technique.mode=raise", "--debug")
    assert done.exit_code == 8
    assert "Traceback" in done.stderr and "fake_plugin.py" in done.stderr
    assert "\x1b" not in done.output


def test_a_stopped_run_prints_how_to_resume_it(tunesmith: Tunesmith, here: Path) -> None:
    stopped = tunesmith("run", "run.toml", "--set", "technique.mode=interrupt")
    assert stopped.exit_code == 130
    run = only_run(here)
    then = f"continue with: tunesmith resume runs/{run.name}"
    assert f"stopped by Ctrl-C\nsaved at step 3 of 6; {then}" in stopped.stderr
    done = tunesmith("resume", run, fake=False)
    assert done.exit_code == 0, done.output
    assert "fine-tuning was worth it" in done.stdout
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step-finished"]
    assert steps == [1, 2, 3, 4, 5, 6]
    again = tunesmith("resume", run, fake=False)
    assert again.exit_code == 2 and "the run is finished" in again.stderr


def test_resume_ignores_the_environment(
    tunesmith: Tunesmith, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tunesmith("run", "run.toml", "--set", "technique.mode=interrupt").exit_code == 130
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__STEPS", "9")
    done = tunesmith("resume", only_run(here), "--json")
    assert json.loads(done.stdout)["training"]["steps"] == 6


def test_resume_refuses_changed_data_until_it_is_accepted(tunesmith: Tunesmith, here: Path) -> None:
    assert tunesmith("run", "run.toml", "--set", "technique.mode=interrupt").exit_code == 130
    run = only_run(here)
    (here / "data.tsv").write_text((here / "data.tsv").read_text().replace("ALPHA", "OMEGA"))
    refused = tunesmith("resume", run)
    assert refused.exit_code == 2 and "the data changed" in refused.stderr
    assert tunesmith("resume", run, "--accept-changes").exit_code == 0


def test_a_failed_gate_keeps_the_result(tunesmith: Tunesmith) -> None:
    done = tunesmith("run", "run.toml", "--set", "gate.at_least.same=1.5", "--json")
    assert done.exit_code == 6
    report = json.loads(done.stdout)
    assert report["run"]["exit_code"] == 6
    assert report["verdict"]["outcome"] == "better"


def test_strict_ends_with_6_on_a_warning(tunesmith: Tunesmith, here: Path) -> None:
    done = tunesmith("run", "run.toml", "--strict", "--set", "run.seed=13", "--out", "warned")
    assert done.exit_code == 6 and "gate.strict: run.seed: brings" in done.stderr
    assert not (here / "warned" / "model").exists() and "FINE-TUNE" not in done.stdout
    done = tunesmith("run", "run.toml", "--strict", "--out", "good")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "FINE-TUNE"), done.stderr


@pytest.mark.parametrize(("worth_it", "code"), [(True, 0), (False, 6)])
def test_a_house_rule_passes_strict_with_words_of_its_own(
    tunesmith: Tunesmith, here: Path, worth_it: bool, code: int
) -> None:
    verdict = {"word": "SHIP IT", "worth_it": worth_it, "outcome": "better", "comparisons": {}}
    rule = f"def tunesmith_verdict(evidence):\n    return {verdict}\n"
    text = f"from tunesmith.hookspecs import hookimpl\n\n\n@hookimpl\n{rule}"
    (here / "other.py").write_text(text)
    done = tunesmith("--plugin", "other.py", "run", "run.toml", "--strict", "--out", "good")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (code, "SHIP IT"), done.stderr
    assert ("does not recommend the tuned model: SHIP IT" in done.stderr) == bool(code)


def test_a_failing_reporter_does_not_stop_the_run(tunesmith: Tunesmith, here: Path) -> None:
    (here / "run.toml").write_text(RUN_FILE + '[[reporters]]\nuse = "failing"\n')
    assert tunesmith("run", "run.toml").exit_code == 0
    report = json.loads((only_run(here) / "report.json").read_text())
    assert any("muted" in finding["message"] for finding in report["findings"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.processes
def test_a_signal_reaches_a_run_in_another_process(here: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", "from tunesmith_cli import main; main()", "run", "run.toml"]
    sets = ["--set", "technique.steps=2000", "--set", "technique.pause=0.01", "--out", "long"]
    process = subprocess.Popen(
        [*command, *sets, "--plugin", str(FAKE)], stderr=subprocess.PIPE, text=True, cwd=here
    )
    deadline = time.monotonic() + 20
    events = here / "long" / "events.jsonl"
    while not (events.exists() and "step-finished" in events.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "continue with: tunesmith resume long" in stderr
    assert "Traceback" not in stderr


@pytest.mark.processes
def test_a_second_ctrl_c_prints_how_to_continue(here: Path) -> None:
    """The first one is still waiting for the end of the step, which takes a minute."""
    command = [sys.executable, "-c", "from tunesmith_cli import main; main()", "run", "run.toml"]
    sets = ["--set", "technique.pause=60.0", "--out", "long run"]
    process = subprocess.Popen(
        [*command, *sets, "--plugin", str(FAKE)], stderr=subprocess.PIPE, text=True, cwd=here
    )
    events = here / "long run" / "events.jsonl"
    while not (events.exists() and "training-started" in events.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping after this step" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.rstrip().endswith("continue with: tunesmith resume 'long run'")


def test_a_closed_pipe_is_no_error(here: Path) -> None:
    command = (
        f"{sys.executable} -c 'from tunesmith_cli import main; main()' explain --schema | head -c 1"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=here)
    assert done.stderr == ""
    assert done.stdout == "{"


# --- plugins ---------------------------------------------------------------------------------


def test_a_broken_plugin_file_is_listed_and_named_where_it_is_asked_for(
    tunesmith: Tunesmith, here: Path
) -> None:
    (here / "other.py").write_text("raise RuntimeError('\\x1b[31mno luck')\n")
    listed = tunesmith("--plugin", "other.py", "plugins", "list")
    assert listed.exit_code == 0
    assert "broken: file:other" in listed.stdout and "no luck" in listed.stdout
    assert "\x1b" not in listed.stdout
    refused = tunesmith("--plugin", "other.py", "run", "run.toml")
    assert refused.exit_code == 2 and not (here / "runs").exists()
    assert f"plugins.files: {here / 'other.py'} cannot be loaded: " in refused.stderr
    assert "RuntimeError: " in refused.stderr and "no luck (other.py:1)" in refused.stderr
    used = tunesmith("--plugin", "other.py", "check", "run.toml", "--set", "technique.use=other")
    assert used.exit_code == 8 and "is broken" in used.stderr


def test_a_plugin_file_of_the_run_file_that_is_missing_is_named(
    tunesmith: Tunesmith, here: Path
) -> None:
    text = RUN_FILE.replace('"same"', '"shouting"') + '[plugins]\nfiles = ["other.py"]\n'
    (here / "run.toml").write_text(text)
    refused = tunesmith("check", "run.toml")
    assert refused.exit_code == 2
    reason = f"FileNotFoundError: no Python file at {here / 'other.py'}"
    assert f"plugins.files: {here / 'other.py'} cannot be loaded: {reason}" in refused.stderr
    assert 'evaluators.0.use: no evaluator "shouting" is installed' in refused.stderr
    assert f"file:other is broken, {reason}" in refused.stderr


def test_a_plugin_file_that_an_earlier_run_does_not_need_may_be_gone(
    tunesmith: Tunesmith, here: Path
) -> None:
    (here / "other.py").write_text(GOOD_PLUGIN)
    text = RUN_FILE + '[plugins]\nfiles = ["other.py"]\n'
    (here / "run.toml").write_text(text)
    assert tunesmith("run", "run.toml", "--set", "technique.mode=interrupt").exit_code == 130
    (here / "other.py").unlink()
    assert tunesmith("resume", only_run(here)).exit_code == 0


# --- tables and reporters of plugins ---------------------------------------------------------

OWNER = """
from pathlib import Path

from pydantic import Field

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ReporterOffer, TableOffer
from tunesmith.options import Options


class Color(Options):
    hue: int = Field(7, ge=0, description="The hue.")


class Empty(Options):
    pass


class Counter:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def report(self, event):
        with Path("kinds.txt").open("a") as file:
            file.write(event.kind + "\\n")


@hookimpl
def tunesmith_tables():
    return [TableOffer(name="color", summary="colors", config=Color)]


@hookimpl
def tunesmith_reporters():
    return [
        ReporterOffer(
            name="counter",
            summary="writes kinds",
            config=Empty,
            build=lambda options, folder: Counter(),
            always=True,
        )
    ]
"""


@pytest.fixture
def owner(here: Path) -> tuple[str, str]:
    """The arguments that load a plugin with a table and a reporter of every run."""
    (here / "other.py").write_text(OWNER)
    return "--plugin", str(here / "other.py")


def test_a_table_of_a_plugin_is_shown(tunesmith: Tunesmith, owner: tuple[str, str]) -> None:
    shown = json.loads(tunesmith(*owner, "plugins", "show", "color", "--json").stdout)
    (offer,) = shown["offers"]
    assert (offer["kind"], offer["options"][0]["name"]) == ("table", "hue")
    assert offer["source"].partition("other.py:")[2].isdigit()
    assert "color (table): colors" in tunesmith(*owner, "plugins", "show", "color").stdout
    assert "color" in tunesmith(*owner, "plugins", "list").stdout
    checked = tunesmith(*owner, "check", "run.toml", "--origin", "--set", "color.hue=3")
    assert ["color.hue", "3", "--set"] in [line.split() for line in checked.stdout.splitlines()]
    refused = tunesmith(*owner, "check", "run.toml", "--set", "colr.hue=3")
    assert refused.exit_code == 2 and "did you mean [color]?" in refused.stderr


@pytest.mark.parametrize("options", [(), ("-q",), ("--set", "reporters=[]")])
def test_a_reporter_of_every_run_gets_the_events(
    tunesmith: Tunesmith, owner: tuple[str, str], here: Path, options: tuple[str, ...]
) -> None:
    assert tunesmith(*owner, "run", "run.toml", *options).exit_code == 0
    kinds = (here / "kinds.txt").read_text().split()
    assert kinds[0] == "run-started" and kinds[-1] == "run-finished"


# --- lightness -------------------------------------------------------------------------------

HEAVY = {"torch", "transformers", "numpy", "peft", "datasets"}
PRINTERS = {"pydantic", "rich"}


@pytest.mark.parametrize(
    ("args", "forbidden"),
    [
        (["--help"], HEAVY | PRINTERS),
        (["--version"], HEAVY | PRINTERS),
        (["check", "run.toml"], HEAVY - {"numpy"}),  # the review of the data has arrays
        (["plan", "run.toml", "--quick"], HEAVY - {"numpy"}),  # splitting too
        (["plan", "run.toml", "--resolved"], HEAVY),
        (["plugins", "list"], HEAVY),
    ],
)
def test_heavy_libraries_are_not_imported(here: Path, args: list[str], forbidden: set[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"heavy = lambda: sorted({forbidden!r} & set(sys.modules))\n"
        "atexit.register(lambda: print(heavy(), file=sys.stderr))\n"
        "from tunesmith_cli.app import app\n"
        f"app.main({[*args]!r})\n"
    )
    plugin = [] if args[0].startswith("-") else ["--plugin", str(FAKE)]
    code = code.replace(repr([*args]), repr([*plugin, *args]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_completion_knows_the_commands(here: Path) -> None:
    environment = {
        **os.environ,
        "_TUNESMITH_COMPLETE": "bash_complete",
        "COMP_WORDS": "tunesmith re",
        "COMP_CWORD": "1",
    }
    script = "import sys; sys.argv[0] = 'tunesmith'; from tunesmith_cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert "plain,resume" in done.stdout and "plain,report" in done.stdout


def test_a_run_folder_can_be_moved(tunesmith: Tunesmith, finished: Path, here: Path) -> None:
    shutil.move(finished, here / "moved")
    assert tunesmith("report", "moved").exit_code == 0
