"""``tunesmith submit``: write the job file that runs training on a cloud or cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import yaml
from click import Group

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.install import install_contrib
from tunesmith.storage import write_atomic
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state, set_option
from tunesmith_cli.launch import override_options, refuse_unsuitable_job
from tunesmith_cloud.launchers import LAUNCHERS, Work, name_job
from tunesmith_cloud.options import CloudOptions

SUBMITTERS = ("slurm", "ray")
"""Clusters that have their own plugin, with a command ``tunesmith NAME submit``."""


@click.command("submit")
@click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
@click.option(
    "--on", "launcher", required=True, type=click.Choice([*LAUNCHERS, *SUBMITTERS]),
    help="Launcher that runs the job.",
)  # fmt: skip
@set_option
@click.option("--image", help="Override cloud.image.")
@click.option("--gpus", help="Override cloud.gpus, for example 2 or A100:2.")
@click.option("--cpus", type=int, help="Override cloud.cpus.")
@click.option("--memory", type=int, help="Override cloud.memory, in GiB.")
@click.option("--volume", help="Override cloud.volume.")
@click.option("--name", help="Name of the job and of its run folder. Default: the name of the run.")
@click.option(
    "--output", type=click.Path(path_type=Path),
    help="Job file to write. Default: NAME.LAUNCHER.yaml next to the run file.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the job file without writing it.")
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
) -> object:
    """Write the job file of a run, and print the command to submit it.

    The job creates the run folder on its volume, or continues the run after an interruption. This
    command does not submit anything and needs no account. Only --on slurm and --on ray submit the
    run: they call `tunesmith slurm submit` and `tunesmith ray submit`.
    """
    flags = {"image": image, "gpus": gpus, "cpus": cpus, "memory": memory, "volume": volume}
    if launcher in SUBMITTERS:
        refuse_flags(launcher, {**flags, "gpus": None, "name": name, "output": output})
        return submit_to(launcher, submit_words(run_file, sets, gpus, dry_run=dry_run))
    plan, _ = api.load_plan(run_file, sets=sets, files=state.files, disabled=state.disabled)
    options = override_options(plan.table(CloudOptions), flags, "cloud")
    refuse_unsuitable_job(plan, options.gpus, options.gpu_count, table="cloud", hint="add --gpus 1")
    job = name_job(name or plan.name)
    work = Work(job, run_file.name, f"{options.mount.rstrip('/')}/{job}", sets)
    text = write_yaml(LAUNCHERS[launcher].build(work, options), launcher)
    if dry_run:
        render.print_text(text.rstrip("\n"))
        return None
    path = output or run_file.with_name(f"{job}.{launcher}.yaml")
    write_atomic(path, text)
    render.print_text(f"job file: {path}")
    render.print_text(f"run folder: {work.folder}")
    if not options.volume:
        render.print_note(
            "warning: cloud.volume is not set, so the run folder is lost when the machine ends",
            style="warning",
        )
    render.print_note(
        f"\nSubmit it in {run_file.parent}:\n  {LAUNCHERS[launcher].start} "
        f"{render.shell_path(path)}"
    )
    return None


def refuse_flags(launcher: str, flags: Mapping[str, object]) -> None:
    """Raise an error if a flag does not apply to a cluster with its own plugin.

    Raises:
        UsageError: the user gave such a flag.
    """
    given = [name for name, value in flags.items() if value is not None]
    if given:
        raise UsageError(
            f"--{given[0]}: only works with --on {', '.join(LAUNCHERS)}, not with --on {launcher}",
            hint=f"list the options with `tunesmith {launcher} submit --help`",
        )


def submit_words(
    run_file: Path, sets: Sequence[str], gpus: str | None, *, dry_run: bool
) -> list[str]:
    """Return the arguments for the cluster plugin's ``submit`` command."""
    words = [str(run_file), *(word for value in sets for word in ("--set", value))]
    words += ["--gpus", gpus] if gpus else []
    return [*words, *(["--dry-run"] if dry_run else [])]


def submit_to(launcher: str, words: list[str]) -> object:
    """Call ``tunesmith NAME submit`` of the cluster's plugin, and return its result.

    Raises:
        UsageError: the plugin is not installed.
    """
    root = click.get_current_context().find_root()
    group = root.command.get_command(root, launcher) if isinstance(root.command, Group) else None
    if not isinstance(group, Group):
        raise UsageError(
            f"--on {launcher}: the plugin for this cluster is not installed",
            hint=install_contrib(f"tunesmith-{launcher}"),
        )
    with group.make_context(launcher, ["submit", *words], parent=root) as context:
        found: object = group.invoke(context)
    return found


def write_yaml(content: dict[str, object], launcher: str) -> str:
    """Return the YAML text of a job file, with a comment at the top."""
    head = f"# Written by `tunesmith submit --on {launcher}`. Each start continues the run.\n"
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return head + text
