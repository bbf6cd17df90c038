"""``tunesmith classifier export``: write a classifier as an ONNX graph, and check it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import click

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.run_data import load_data
from tunesmith.records import last_exchange
from tunesmith.text import one_line
from tunesmith_classifier.options import ClassifierOptions
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_torch.runtime.environment import prepare_environment

ROWS = 32
"""Number of test rows that the graph is compared on."""


@click.command("export")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: RUN/export/onnx."
)
@trust_option
@result_options
def command(state: CliState, run: Path, out: Path | None, as_json: bool) -> None:
    """Export the classifier of RUN to ONNX.

    The adapter is merged. The graph is then run in ONNX Runtime, and compared with the trained
    classifier on test rows. If a check fails, nothing is kept and the exit code is 6.
    """
    folder, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    options = plan.technique.config
    if not isinstance(options, ClassifierOptions):
        raise UsageError(
            f"{folder.path}: this run did not train a classifier", hint="use tunesmith export"
        )
    trained = execute.load_report(folder).training_finished.get("")
    if trained is None:
        raise UsageError(
            f"{folder.path}: the run has no trained classifier yet",
            hint=f"finish the run: tunesmith resume {folder.path}",
        )
    prepare_environment()
    from tunesmith_classifier.onnx_export import export_classifier
    from tunesmith_classifier.technique import ClassifierModel, ClassifierTechnique

    artifact = folder.path / trained.artifact
    exact = options.model_copy(update={"precision": "fp32"})
    classifier = ClassifierTechnique(exact).open(plan.found_model.fetch(), artifact, device="cpu")
    assert isinstance(classifier, ClassifierModel)
    prompts = [last_exchange(record)[0] for record in islice(load_data(plan)[1].test, ROWS)]
    target = (out or folder.path / "export" / "onnx").absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    checks = export_classifier(classifier, artifact, prompts, target)
    if as_json:
        render.print_json({"path": str(target), "checks": checks})
        return
    render.print_table(
        ["check", "result"], [[one_line(name), one_line(text)] for name, text in checks.items()]
    )
    render.print_text(f"\nexported: {render.shell_path(target)}")
