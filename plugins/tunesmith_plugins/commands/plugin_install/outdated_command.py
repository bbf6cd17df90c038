"""``tunesmith plugins outdated``: list plugins of which there is a newer version."""

from __future__ import annotations

import click

from tunesmith.plugins import find_installed
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import common_options, json_option
from tunesmith_plugins.commands.plugin_install.pip import plan_install


@click.command("outdated")
@json_option
@common_options
def command(as_json: bool) -> None:
    """List the distributions of plugins of which pip finds a newer version.

    `tunesmith plugins install NAME==VERSION` installs one, and checks what else would change.
    """
    names = sorted({p.distribution for p, _ in find_installed() if not p.is_builtin})
    changes = plan_install(names, upgrade=True) if names else []
    newer = [change for change in changes if change.before != change.after]
    if as_json:
        outdated = [{"name": c.name, "before": c.before, "after": c.after} for c in newer]
        render.print_json({"schema": "tunesmith.outdated-plugins/1", "outdated": outdated})
        return
    if newer:
        rows = [[one_line(c.name), one_line(c.before or ""), one_line(c.after)] for c in newer]
        render.print_table(["distribution", "installed", "newest"], rows)
    render.print_note(f"{len(newer)} of {len(names)} distributions of plugins are outdated")
