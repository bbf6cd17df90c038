"""``tunesmith plugins show``: show the options of a component."""

from __future__ import annotations

from typing import Any

import click

from tunesmith.errors import UsageError
from tunesmith.offers import Offered
from tunesmith.text import one_line, suggest_name
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_plugins.commands.plugin_list.describe import (
    REQUIRED,
    UNSET,
    distribution_text,
    list_offers,
    offer_to_json,
    plugin_to_json,
)

MAX_DEFAULT_CHARACTERS = 60
"""Maximum number of characters of a default to show; ``--json`` prints it in full."""


@click.command("show")
@click.argument("name")
@result_options
def command(state: CliState, name: str, as_json: bool) -> None:
    """Show a component, or all of a plugin's: options, defaults, help and source file.

    NAME is a name from `tunesmith plugins list`.
    """
    catalog = state.catalog()
    offered = list(list_offers(catalog))
    plugins = [p for p in catalog.plugins.found if name in (p.name, p.full_name)]
    chosen = [o for o in offered if name in (o.offer.name, o.full_name)]
    chosen = chosen or [o for o in offered if o.plugin in plugins]
    if not chosen and not plugins:
        known = [*(o.offer.name for o in offered), *(p.name for p in catalog.plugins.found)]
        guess = suggest_name(name, known)
        hint = f"did you mean {guess}?" if guess else "list all names with: tunesmith plugins list"
        raise UsageError(f'no plugin or component is named "{name}"', hint=hint)
    if as_json:
        shown = [offer_to_json(o) for o in chosen]
        about = [plugin_to_json(plugin, offered) for plugin in plugins]
        render.print_json({"schema": "tunesmith.plugin/1", "offers": shown, "plugins": about})
        return
    for plugin in plugins if not chosen else ():
        render.print_text(f"{plugin.full_name} {plugin.version}: {plugin.state}", style="strong")
        render.print_text(
            f"  {one_line(plugin.reason, 500) or 'hooks: ' + ', '.join(plugin.hooks)}"
        )
        render.print_text(f"  module {plugin.module}")
    for o in chosen:
        show_offer(o)


def show_offer(offered: Offered[Any]) -> None:
    """Print an offer with its source, requirements and options."""
    about = offer_to_json(offered)
    render.print_paragraph(
        f"{about['name']} ({about['kind']}): {one_line(about['summary'], 200)}", style="strong"
    )
    render.print_text(f"  from {distribution_text(offered.plugin)}, {about['source']}")
    for label in ("accepts", "metrics", "promises", "needs", "missing"):
        if about.get(label):
            render.print_paragraph(f"{label}: {', '.join(about[label])}", indent="  ")
    render.print_text()
    if not about["options"]:
        render.print_text("  no options")
    for option in about["options"]:
        kind = ", ".join(filter(None, [option["type"], option["bounds"]]))
        default = option["default"]
        value = (
            default
            if default in (REQUIRED, UNSET)
            else f"= {one_line(default, MAX_DEFAULT_CHARACTERS)}"
        )
        render.print_paragraph(f"{option['name']} {value} ({kind})", style="strong")
        for text in option["help"], f"Keys: {option['keys']}." if option["keys"] else "":
            if text:
                render.print_paragraph(text, indent="    ")
