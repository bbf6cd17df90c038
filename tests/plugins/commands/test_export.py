"""``tunesmith export`` writes a verified model, and says why it cannot."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tunesmith_cli.app import app
from tunesmith_plugins.commands.export import command, trained

RUN_FILE = """
[model]
base = "{model}"
[data]
use = "jsonl"
train = "{rows}"
[technique]
use = "{technique}"
{options}
[baselines]
use = []
"""
QUICK = 'epochs = 1\nprecision = "fp32"'
STAGES = f"""
[technique.supervised]
{QUICK}
adapter.rank = 2
[technique.reward]
skip = true
[technique.policy]
skip = true
"""
Tunesmith = Callable[..., Result]


def tunesmith(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["-q", *map(str, arguments)])


def run(folder: Path, model: Path, technique: str, options: str = QUICK) -> Path:
    """Train for an epoch and return the run folder."""
    key = "chosen" if technique == "preference" else "completion"
    rows = [{"prompt": f"What is {n}?", key: "one two"} for n in range(16)]
    if technique == "preference":
        rows = [{**row, "rejected": "three"} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RUN_FILE.format(
        model=model, rows=folder / "rows.jsonl", technique=technique, options=options
    )
    (folder / "run.toml").write_text(text)
    done = tunesmith("run", folder / "run.toml", "--out", folder / "run")
    assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a LoRA adapter."""
    return run(tmp_path_factory.mktemp("lora"), tiny_folder, "lora")


def test_the_folder_is_beside_the_run_and_says_what_was_checked(finished: Path) -> None:
    done = tunesmith("export", finished, "--to", "safetensors")
    assert done.exit_code == 0, done.output
    assert "log-probabilities" in done.stdout and "export/safetensors" in done.stdout
    out = finished / "export" / "safetensors"
    certificate = json.loads((out / "export.json").read_text())
    assert certificate["exporter"] == "safetensors" and certificate["rows"] > 0
    assert certificate["options"] == {"dtype": "float32"}


def test_a_terminal_shows_the_steps_and_what_was_not_verified(
    finished: Path, tmp_path: Path
) -> None:
    arguments = ["export", str(finished), "--to", "safetensors", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, env={"FORCE_COLOR": "1", "NO_COLOR": ""})
    assert done.exit_code == 0, done.output
    steps = re.findall(r"^(running|merging|writing|loading) ", done.stderr, re.MULTILINE)
    assert steps == ["running", "merging", "writing", "loading"]
    assert "not verified: stop" in done.stderr and "\x1b[33m" in done.stderr, "in yellow"


def test_rounded_weights_are_measured_with_the_metric_of_the_run(
    finished: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    done = tunesmith(
        "export", finished, "--to", "safetensors", "--set", 'dtype="bfloat16"', "--out", target,
        "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["path"] == str(target)
    assert printed["metric"]["name"] == "exact-match"
    assert printed["metric"]["rows"] <= trained.METRIC_ROWS
    assert json.loads((target / "config.json").read_text())["torch_dtype"] == "bfloat16"


SERVED = """
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ExporterOffer
from tunesmith_plugins.exporters.safetensors.exporter import SafetensorsExporter
from tunesmith_plugins.exporters.safetensors.offer import SafetensorsOptions

class Served(SafetensorsExporter):
    def own_checks(self, out):
        yield "shape", lambda: "round"

    def serve_command(self, out):
        return f"serve {out or '.'}"

@hookimpl
def tunesmith_exporters():
    return [ExporterOffer(
        name="served", summary="a served folder", config=SafetensorsOptions,
        build=Served, tolerance=lambda options: 1e-4,
    )]
"""


def test_the_command_that_serves_an_export_is_printed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(SERVED)
    arguments = ["export", finished, "--to", "served", "--out", tmp_path / "out"]
    done = tunesmith(*arguments, "--plugin", tmp_path / "served.py")
    assert done.exit_code == 0, done.output
    assert f"serve it with: serve {tmp_path / 'out'}" in done.stdout.splitlines()
    certificate = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (certificate["checks"]["shape"], certificate["serve"]) == ("round", "serve .")
    assert "$ serve .\n" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("technique", "options"), [("preference", QUICK), ("rlhf", STAGES)])
def test_runs_of_other_techniques_are_exported(
    technique: str, options: str, tiny_folder: Path, tmp_path: Path
) -> None:
    done = tunesmith(
        "export", run(tmp_path, tiny_folder, technique, options), "--to", "safetensors"
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--to", "gguff"], 2, 'no exporter "gguff" is installed'),
        (["--to", "safetensors", "--set", "dtype"], 2, "--set dtype: expected KEY=VALUE"),
        (["--to", "safetensors", "--set", "dtyp=1"], 2, 'did you mean "dtype"?'),
        (["--to", "safetensors", "--quantize", "q8_0"], 2, "for --set: dtype"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], code: int, message: str, finished: Path
) -> None:
    done = tunesmith("export", finished, *arguments)
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_a_run_without_a_trained_model_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"training-finished"' not in line]
    (tmp_path / "run" / "events.jsonl").write_text("".join(kept))
    done = tunesmith("export", tmp_path / "run", "--to", "safetensors")
    assert done.exit_code == 2 and "no trained model yet" in done.stderr


def test_the_command_has_the_name_that_is_documented() -> None:
    assert command.command.name == "export"


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("adapter", "contains an adapter, so it is not replaced"),
        ("adapter/more", "this path is inside the trained model"),
    ],
)
def test_the_trained_model_is_never_replaced(finished: Path, name: str, reason: str) -> None:
    before = list_files(finished / "adapter")
    done = tunesmith("export", finished, "--to", "safetensors", "--out", finished / name)
    assert list_files(finished / "adapter") == before
    assert done.exit_code == 2 and reason in " ".join(done.output.split())


def test_an_export_is_replaced(finished: Path, tmp_path: Path) -> None:
    export = ("export", finished, "--to", "safetensors", "--out")
    assert tunesmith(*export, tmp_path / "out").exit_code == 0
    assert tunesmith(*export, tmp_path / "out").exit_code == 0


def test_a_folder_with_the_manifest_of_another_program_is_not_replaced(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "MANIFEST.json").write_text('{"name": "my page"}')
    done = tunesmith("export", finished, "--to", "safetensors", "--out", tmp_path)
    assert done.exit_code != 0
    assert list_files(tmp_path) == {"MANIFEST.json": b'{"name": "my page"}'}


def test_a_place_where_nothing_can_be_written_is_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = tunesmith("export", finished, "--to", "safetensors", "--out", tmp_path / "file" / "out")
    assert done.exit_code == 2
    assert f"{tmp_path / 'file'}: cannot write here" in done.output
