"""``tunesmith plugins list``: list the components of all plugins."""

from __future__ import annotations

from dataclasses import asdict

import click

from tunesmith.cli import render
from tunesmith.cli.common import CliState, common_options, json_option, pass_state
from tunesmith.cli.groups import find_commands
from tunesmith.text import one_line
from tunesmith_plugins.commands.plugin_list.describe import (
    distribution_text,
    list_offers,
    plugin_to_json,
)


@click.command("list")
@json_option
@common_options
@pass_state
@click.pass_context
def command(ctx: click.Context, state: CliState, as_json: bool) -> None:
    """List the components of all plugins.

    Broken and disabled plugins, and commands that cannot be used, are listed with the reason.
    """
    catalog = state.catalog()
    offered = list(list_offers(catalog))
    conflicts = find_commands(ctx)[1]
    if as_json:
        plugins = [plugin_to_json(plugin, offered) for plugin in catalog.plugins.found]
        unusable = [asdict(conflict) for conflict in conflicts]
        render.print_json(
            {"schema": "tunesmith.plugins/1", "plugins": plugins, "unusable_commands": unusable}
        )
        return
    rows = [
        [o.offer.name, o.offer.kind, one_line(o.offer.summary, 200), distribution_text(o.plugin)]
        for o in offered
    ]
    render.print_table(["name", "kind", "what it does", "from"], rows)
    for plugin in catalog.plugins.found:
        if plugin.state != "active":
            reason = one_line(plugin.reason, 500)
            text = f"{plugin.state}: {plugin.full_name} {plugin.version}: {reason}"
            render.print_text(text, style="bad" if plugin.state == "broken" else "dim")
    for conflict in conflicts:
        names = one_line(", ".join(conflict.plugins), 500)
        text = f'not usable: command "{conflict.command}" of {names}: {conflict.reason}'
        render.print_text(text, style="bad")
    active = {o.plugin.full_name for o in offered}
    others = [p.name for p in catalog.plugins.active() if p.full_name not in active]
    if others:
        render.print_note(
            f"plugins that only find models or review data and plans: "
            f"{', '.join(map(one_line, others))}"
        )
