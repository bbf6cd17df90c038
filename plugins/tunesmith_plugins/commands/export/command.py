"""``tunesmith export``: write a trained model for an inference engine, and verify it there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
from pydantic import ValidationError

from tunesmith import api
from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.config.problems import convert_problems
from tunesmith.config.run_file import parse_value
from tunesmith.errors import ConfigError, UsageError
from tunesmith.execution import execute
from tunesmith.install import install_contrib
from tunesmith.machine import expand_home
from tunesmith.offers import ExporterOffer, Offered
from tunesmith.options import from_table
from tunesmith.storage import lock_to_read
from tunesmith.text import one_line, redact
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option

_PACKAGES = {
    "gguf": "tunesmith-gguf",
    "mlx": "tunesmith-mlx",
    "ollama": "tunesmith-gguf",
    "onnx": "tunesmith-onnx",
    "openvino": "tunesmith-openvino",
    "vllm": "tunesmith-vllm",
}
"""Packages that provide exporters outside of tunesmith, by exporter name."""


@click.command("export")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    metavar="NAME",
    required=True,
    help="Exporter, such as gguf, mlx, ollama, onnx, openvino, safetensors or vllm.",
)
@click.option(
    "--quantize", metavar="FORMAT", help="Quantization format of the weights, such as q8_0."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: RUN/export/NAME."
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set an exporter option, as listed by `tunesmith plugins show NAME`. Repeatable.",
)
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    to: str,
    quantize: str | None,
    out: Path | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Export the trained model of RUN for an inference engine.

    An adapter is merged into its base model first. The engine then loads the result, which is
    compared with the trained model by files, rendered prompts, token ids, ends of answers, and
    log-probabilities on test rows. If a check fails, nothing is kept and the exit code is 6.
    Otherwise, export.json in the folder records all measurements, and what could not be verified.
    """
    folder, plan, catalog = api.load_run(run, files=state.files, disabled=state.disabled)
    api.require_allowed(catalog, folder, "export")
    offered = _find_exporter(catalog, to)
    options = _read_options(offered.offer, quantize, sets)
    from tunesmith_evidence.report.model_card import find_license, render_results
    from tunesmith_evidence.report.view import ReportView
    from tunesmith_plugins.commands.export.trained import find_trained_model
    from tunesmith_torch.export.contract import ServedExporter
    from tunesmith_torch.export.export_run import Export, export_run

    trained = find_trained_model(folder, plan, catalog)
    target = folder.path / "export" / to if out is None else expand_home(out).absolute()
    _make_parent(target)
    export = Export.from_offer(offered.offer, options)
    view = ReportView(execute.load_report(folder), folder.path)
    results = redact(render_results(view, find_license(plan.found_model.tokenizer())))
    with lock_to_read(folder.path):
        certificate = export_run(
            trained, export, target, results=results, announce=render.print_note
        )
    if as_json:
        render.print_json({**certificate, "path": str(target)})
        return
    render.print_table(
        ["check", "result"],
        [[one_line(name), one_line(text, 200)] for name, text in certificate["checks"].items()],
    )
    if certificate["not_verified"]:
        render.print_note(
            f"\nnot verified: {', '.join(certificate['not_verified'])}", style="warning"
        )
    render.print_text(f"\nexported: {render.shell_path(target)}")
    if isinstance(export.exporter, ServedExporter):
        render.print_text(f"serve it with: {one_line(export.exporter.serve_command(target), 2000)}")


def _make_parent(target: Path) -> None:
    """Create the parent folder, and check that it is writable before the model is loaded.

    Raises:
        UsageError: the folder is not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"{target.parent}: cannot write here: {error.strerror}",
            hint="choose another folder with --out",
        ) from error


def _find_exporter(catalog: Catalog, name: str) -> Offered[ExporterOffer[Any]]:
    try:
        return catalog.find(ExporterOffer, name)
    except OfferNotFoundError as error:
        package = _PACKAGES.get(name)
        hint = install_contrib(package) if package else error.hint
        raise UsageError(f"--to: {error.what}", hint=hint) from None


def _read_options(offer: ExporterOffer[Any], quantize: str | None, sets: Sequence[str]) -> Any:
    """Return the exporter's options, updated from the command line.

    Raises:
        UsageError: an item is not ``KEY=VALUE``, or the exporter has no ``quantize`` option.
        ConfigError: a value is not valid.
    """
    names = offer.config.model_fields
    if quantize is not None and "quantize" not in names:
        raise UsageError(
            f"--quantize {quantize}: the exporter {offer.name} cannot quantize",
            hint=f"options for --set: {', '.join(names) or 'none'}",
        )
    table: dict[str, Any] = {} if quantize is None else {"quantize": quantize}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(
                f"--set {item}: expected KEY=VALUE",
                hint="list the options with `tunesmith plugins show NAME`",
            )
        table[key.strip()] = parse_value(value)
    try:
        return from_table(offer.config, table)
    except ValidationError as error:
        raise ConfigError(list(convert_problems(error, "", offer.config))) from None
