"""``tunesmith plugins install``: install plugins with pip, and keep them if all conform."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib import invalidate_caches

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tunesmith.errors import EnvironmentProblem, PluginError, UsageError
from tunesmith.offers import Plugin
from tunesmith.plugins import find_installed
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_plugins.commands.plugin_install.pip import (
    Change,
    find_protected_changes,
    is_pinned,
    plan_install,
    run_pip,
)

CHECK_SECONDS = 600
PROGRAM = "import sys; sys.argv[0] = 'tunesmith'; from tunesmith_cli import main; main()"


@click.command("install")
@click.argument("requirements", metavar="REQUIREMENT...", nargs=-1, required=True)
@click.option(
    "--allow-moves",
    is_flag=True,
    help="Allow other versions of torch, transformers or peft.",
)
@click.option("--no-check", is_flag=True, help="Skip the conformance kit.")
@common_options
def command(requirements: tuple[str, ...], allow_moves: bool, no_check: bool) -> None:
    """Install plugins with pip, test them, and uninstall all of them if any fails.

    REQUIREMENT is a path, a URL (which may end with #sha256=HASH), or a name with a version, as for
    pip. pip's environment variables and configuration apply. A name without a version is
    rejected, and the error names its publisher.

    All version changes are computed before anything is installed. Changes to torch, transformers
    and peft need --allow-moves. Installing a plugin runs its code. The tests are those of the
    conformance kit. After a failure, dependencies stay installed.
    """
    changes = plan_install(requirements)
    for change in changes:
        render.print_text(one_line(str(change), 200))
    if found := find_protected_changes(changes):
        texts = ", ".join(map(str, found))
        if not allow_moves:
            raise EnvironmentProblem(
                f"nothing was installed, because that would change {texts}",
                hint="install the plugin in a separate environment, or add --allow-moves",
            )
    if not changes:
        render.print_note("everything is already installed")
        return
    refuse_unpinned(requirements, changes)
    run_pip(["install", *requirements])
    try:
        check_plugins(changes, run_kit=not no_check)
    except BaseException:
        uninstall_requested(changes)
        raise
    render.print_note("installed; list the components with: tunesmith plugins list")


def refuse_unpinned(requirements: Sequence[str], changes: Sequence[Change]) -> None:
    """Reject names without a version, because the name's owner could then choose the code.

    Raises:
        UsageError: a name has no version; the message gives the publisher and version that pip
            found.
    """
    unpinned = [requirement for requirement in requirements if not is_pinned(requirement)]
    names: dict[str, str] = {canonicalize_name(Requirement(r).name): r for r in unpinned}
    found = [change for change in changes if change.is_requested and change.name in names]
    if found:
        pinned = " ".join(f"{change.name}=={change.after}" for change in found)
        raise UsageError(
            "; ".join(
                f"{one_line(names[c.name], 100)}: no version given; {c.after} is published by "
                f"{c.publisher}"
                for c in found
            ),
            hint=f"if you trust the publisher: tunesmith plugins install {pinned}",
        )


def uninstall_requested(changes: Sequence[Change]) -> None:
    """Uninstall the requested distributions, and print how to restore previous versions.

    Keep a package that was installed before and is not a plugin, because other libraries need it.
    """
    plugins = {canonicalize_name(plugin.distribution) for plugin, _ in find_installed()}
    requested = [change for change in changes if change.is_requested]
    gone = [c.name for c in requested if c.before is None or c.name in plugins]
    if gone:
        run_pip(["uninstall", "--yes", *gone])
        render.print_note(f"uninstalled: {', '.join(gone)}", style="bad")
    if former := " ".join(f"{c.name}=={c.before}" for c in requested if c.before):
        render.print_note(f"restore the previous version with: pip install {one_line(former)}")


def check_plugins(changes: Sequence[Change], *, run_kit: bool) -> None:
    """Check the plugins of the installed distributions.

    Raises:
        PluginError: no plugin was installed, or one fails the conformance kit.
    """
    invalidate_caches()
    names = {change.name for change in changes}
    plugins = [p for p, _ in find_installed() if canonicalize_name(p.distribution) in names]
    if not plugins:
        raise PluginError(
            f"no tunesmith plugin found in {', '.join(sorted(names))}",
            hint="check the name; `tunesmith plugins list --available` lists known plugins",
        )
    for plugin in plugins if run_kit else ():
        render.print_note(f"checking {one_line(plugin.full_name)} {one_line(plugin.version)}")
        check_plugin(plugin)


def check_plugin(plugin: Plugin) -> None:
    """Run the conformance kit in a child process.

    Raises:
        PluginError: a check failed, or the kit took too long.
    """
    arguments = ["plugins", "check", plugin.full_name]
    what = f'plugin "{plugin.full_name}" {plugin.version}'
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise PluginError(
            f"{what}: the conformance kit took longer than {CHECK_SECONDS} seconds"
        ) from None
    if done.returncode:
        for line in done.stdout.splitlines():
            if line.startswith("failed"):
                render.print_note(line)
        reasons = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        reason = one_line(reasons[-1].removeprefix("error: ") if reasons else done.stderr, 500)
        reason = reason.removeprefix(f"{what} ")  # The error of the check names the plugin too.
        raise PluginError(f"{what} was rejected: {reason}")
