"""``tunesmith vision split`` and ``tunesmith vision join``."""

from __future__ import annotations

from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.text import safe_text
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options

__all__ = ["join", "split"]

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("split")
@click.argument("model", type=_FOLDER)
@click.argument("out", type=_FOLDER)
@result_options
def split(state: CliState, model: Path, out: Path, as_json: bool) -> None:
    """Divide the vision-language model in the folder MODEL, for [model] base = "OUT".

    OUT gets a plain language model, and the tower with its projector in OUT/vision.
    """
    from tunesmith_torch.runtime.environment import prepare_environment

    prepare_environment()
    from tunesmith_vision.vlm import split_model

    split_model(model, out)
    _print(out, f'set base = "{out}" in the table [model] of a run file', as_json)


@click.command("join")
@click.argument("artifact", type=_FOLDER)
@click.argument("base", type=_FOLDER)
@click.argument("out", type=_FOLDER)
@result_options
def join(state: CliState, artifact: Path, base: Path, out: Path, as_json: bool) -> None:
    """Merge ARTIFACT, the folder `adapter` of a run, into BASE, and write the result to OUT.

    BASE is the output of `tunesmith vision split`. OUT is a model for plain transformers.
    """
    from tunesmith_torch.runtime.environment import prepare_environment

    prepare_environment()
    from tunesmith_vision.merge import merge_artifact

    if not (artifact / "vision.json").is_file():
        raise UsageError(
            f"{artifact}: was not trained by `vision`",
            hint="give the folder `adapter` of a run folder",
        )
    merge_artifact(artifact, base, out)
    _print(out, "load it with AutoModelForImageTextToText of transformers", as_json)


def _print(out: Path, next_step: str, as_json: bool) -> None:
    if as_json:
        render.print_json({"out": str(out)})
    else:
        render.print_paragraph(safe_text(f"Written to {out}: {next_step}."))
