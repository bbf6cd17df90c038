"""``tunesmith pull``: download a model with safetensors or GGUF weights."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_plugins.commands.publish.hub import require_hub_name


@click.command("pull")
@click.argument("repository", metavar="ORG/NAME")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to create. Default: NAME.")
@click.option(
    "--revision", metavar="REVISION", help="Branch, tag or commit. Default: the main branch."
)
@result_options
def command(
    state: CliState, repository: str, out: Path | None, revision: str | None, as_json: bool
) -> None:
    """Download the model ORG/NAME from the Hugging Face Hub into a folder.

    Files that can contain code, such as pickled weights and Python modules, are not downloaded.
    The token comes from HF_TOKEN, or from `hf auth login`.
    """
    require_hub_name(repository)
    target = out or Path(repository.partition("/")[2])
    if target.exists():
        raise UsageError(f"{target}: already exists", hint="choose another folder with --out")
    from huggingface_hub import HfApi

    from tunesmith_plugins.commands.publish.download import download

    files = download(HfApi(), repository, revision, target)
    if as_json:
        render.print_json({"path": str(target), "files": files})
        return
    render.print_text(
        f"downloaded {format_count(len(files), 'file')} to {render.shell_path(target)}"
    )
    render.print_note(f"next: tunesmith chat {render.shell_path(target)}")
