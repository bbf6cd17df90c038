"""``tunesmith submit``: write the job file of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import yaml
from pydantic import ValidationError

from tunesmith import api
from tunesmith.cli import render
from tunesmith.cli.common import CliState, common_options, pass_state, set_option
from tunesmith.config.problems import convert_problems
from tunesmith.errors import ConfigError, UsageError
from tunesmith.options import from_table
from tunesmith.storage import write_atomic
from tunesmith_cloud.launchers import LAUNCHERS, Work, name_job
from tunesmith_cloud.options import CloudOptions
from tunesmith_torch.runtime.launch import refuse_unsuitable_job


@click.command("submit")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option(
    "--on", "launcher", required=True, type=click.Choice([*LAUNCHERS, "slurm"]),
    help="What executes the job.",
)  # fmt: skip
@set_option
@click.option("--image", help="Overrides cloud.image.")
@click.option("--gpus", help="Overrides cloud.gpus: 2, A100:2.")
@click.option("--cpus", type=int, help="Overrides cloud.cpus.")
@click.option("--memory", type=int, help="Overrides cloud.memory, in GiB.")
@click.option("--volume", help="Overrides cloud.volume.")
@click.option("--name", help="Name of the job and its run folder; default: that of the run file.")
@click.option(
    "--output", type=click.Path(path_type=Path),
    help="Job file to write; default: NAME.LAUNCHER.yaml beside the run file.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the job file, and write nothing.")
@common_options
@pass_state
def command(  # noqa: PLR0913 - click passes each option by name
    state: CliState,
    run_file: Path,
    launcher: str,
    sets: tuple[str, ...],
    name: str | None,
    output: Path | None,
    dry_run: bool,
    image: str | None,
    gpus: str | None,
    cpus: int | None,
    memory: int | None,
    volume: str | None,
) -> None:
    """Write the job file of a run, and print the command that submits it.

    The job creates the run folder on its volume, or continues it after an interruption. Nothing is
    submitted from here, and no account is needed.
    """
    if launcher == "slurm":
        raise UsageError(
            "--on slurm: jobs of Slurm are submitted by a plugin of their own",
            hint="pip install tunesmith-slurm, then: tunesmith slurm submit RUN.toml",
        )
    plan, _ = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    flags = {"image": image, "gpus": gpus, "cpus": cpus, "memory": memory, "volume": volume}
    options = override_options(plan.table(CloudOptions), flags)
    refuse_unsuitable_job(plan, options.gpus, options.gpu_count, table="cloud", hint="--gpus 1")
    job = name_job(name or plan.name)
    work = Work(job, run_file.name, f"{options.mount.rstrip('/')}/{job}", sets)
    text = write_yaml(LAUNCHERS[launcher].build(work, options), launcher)
    if dry_run:
        render.print_text(text.rstrip("\n"))
        return
    path = output or run_file.with_name(f"{job}.{launcher}.yaml")
    write_atomic(path, text)
    render.print_text(f"job file: {path}")
    render.print_text(f"run folder: {work.folder}")
    if not options.volume:
        render.print_note(
            "warning: without cloud.volume the run folder is lost with its machine",
            style="warning",
        )
    render.print_note(
        f"\nsubmit it, in {run_file.parent}:\n  {LAUNCHERS[launcher].start} "
        f"{render.shell_path(path)}"
    )


def override_options(options: CloudOptions, flags: Mapping[str, str | int | None]) -> CloudOptions:
    """Return the options with the flags that were given.

    Raises:
        ConfigError: a flag has a value that it cannot have.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return from_table(CloudOptions, {**options.model_dump(mode="json"), **given})
    except ValidationError as error:
        raise ConfigError(list(convert_problems(error, "cloud", CloudOptions))) from None


def write_yaml(content: dict[str, object], launcher: str) -> str:
    """Return the text of a job file."""
    head = f"# Written by `tunesmith submit --on {launcher}`. Each start continues the run.\n"
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return head + text
