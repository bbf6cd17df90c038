"""``tunesmith bom``: write the bill of materials of a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.execution.execute import load_report
from tunesmith.storage import write_atomic
from tunesmith.text import redact
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state, trust_option
from tunesmith_evidence.report.model_card import find_license
from tunesmith_evidence.report.view import ReportView


@click.command("bom")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: stdout."
)
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Private elliptic-curve key, as PEM without a password. Signs the file of --out; the "
    "signature is beside it, with the ending .sig.",
)
@trust_option
@common_options
@pass_state
def command(state: CliState, run: Path, out: Path | None, key: Path | None) -> None:
    """Write the bill of materials of RUN in CycloneDX 1.6: model, data, libraries and results.

    It has a SHA-256 hash of each file of the model, and the scores with their intervals, also for
    each slice of the test rows. It contains no rows and no paths.
    """
    from tunesmith_bom.bom import make_bom, validate
    from tunesmith_bom.signing import sign

    if key is not None and out is None:
        raise UsageError("--sign: needs --out", hint="a signature is written beside a file")
    if out is not None and out.exists():
        raise UsageError(f"{out}: already exists", hint="choose another file name")
    folder, plan, _ = api.load_run(run, files=state.files, disabled=state.disabled)
    view = ReportView(load_report(folder), folder.path)
    bom = make_bom(view, find_license(plan.found_model.tokenizer()))
    text = redact(json.dumps(bom, indent=2)) + "\n"
    validate(text)
    if out is None:
        render.print_json(json.loads(text))
    else:
        write_atomic(out, text)
        render.print_text(f"wrote {render.shell_path(out)}")
        if key is not None:
            render.print_text(f"wrote {render.shell_path(sign(out, key))}")
