"""``tunesmith push``: upload a run's model to a repository, which is private by default."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder, verify_folder
from tunesmith.text import format_bytes, format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options, trust_option
from tunesmith_evidence.report.model_card import find_hub_name, find_license, render_model_card
from tunesmith_evidence.report.view import ReportView
from tunesmith_plugins.commands.publish.hub import require_hub_name
from tunesmith_plugins.commands.publish.upload import Upload, choose_files, upload


@click.command("push")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option(
    "--export", "exported", metavar="NAME", help="Upload the export in RUN/export/NAME instead."
)
@click.option("--base-model", metavar="ORG/NAME", help="Name of the base model on the Hub.")
@click.option("--public", is_flag=True, help="Make the repository public. Default: private.")
@click.option(
    "--dry-run", is_flag=True, help="List the files and print the model card without uploading."
)
@trust_option
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    run: Path,
    repository: str,
    exported: str | None,
    base_model: str | None,
    public: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upload the model of RUN to the Hugging Face Hub, with its results in a model card.

    Weights, tokenizer and config are uploaded in one commit. Rows, logs and checkpoints are not
    uploaded. The token comes from HF_TOKEN, or from `hf auth login`.
    """
    for name in filter(None, (repository, base_model)):
        require_hub_name(name)
    folder, plan, catalog = api.load_run(run, files=state.files, disabled=state.disabled)
    api.require_allowed(catalog, folder, "push")
    base = base_model or find_hub_name(plan)
    files = _collect(folder, plan, repository, exported, base)
    if base is None and any(file.name == "adapter_config.json" for file in files):
        render.print_note(
            "the run file does not contain the Hub name of the base model; add --base-model "
            "ORG/NAME so that others can load the adapter"
        )
    if dry_run:
        _show(repository, files, public=public, as_json=as_json)
        return
    from huggingface_hub import HfApi

    address = upload(HfApi(), repository, files, public=public)
    if as_json:
        render.print_json({"url": address, "files": [file.name for file in files]})
        return
    render.print_text(f"uploaded {format_count(len(files), 'file')} to {address}")


def _collect(
    folder: RunFolder, plan: Plan, repository: str, exported: str | None, base: str | None
) -> list[Upload]:
    """Return the files to upload.

    Raises:
        UsageError: the run has no trained model, or no such export.
    """
    report = execute.load_report(folder)
    trained = report.training_finished.get("")
    if exported is not None:
        source, form = folder.path / "export" / exported, exported
        hint = f"tunesmith export {folder.path} --to {exported}"
    else:
        source = folder.path / (trained.artifact if trained else "model")
        form = "adapter" if (source / "adapter_config.json").is_file() else "model"
        hint = f"tunesmith resume {folder.path}"
    if not source.is_dir() or not trained:
        raise UsageError(f"{source}: no trained model found", hint=hint)
    if problems := verify_folder(source):
        raise UsageError(f"{source}: {problems[0]}", hint="train or export the model again")
    license = find_license(plan.found_model.tokenizer())  # downloads nothing
    view = ReportView(report, folder.path)
    card = render_model_card(view, name=repository, base=base, license=license, form=form)
    return choose_files(source, card, base)


def _show(repository: str, files: list[Upload], *, public: bool, as_json: bool) -> None:
    card = files[0].content
    assert isinstance(card, bytes)
    if as_json:
        sizes = {file.name: file.size for file in files}
        render.print_json({"public": public, "files": sizes, "card": card.decode()})
        return
    render.print_table(["file", "size"], [[file.name, format_bytes(file.size)] for file in files])
    render.print_text(f"\n{card.decode()}")
    kind = "public" if public else "private"
    render.print_note(f"dry run: nothing uploaded; the target is {repository} ({kind})")
