"""``tunesmith plugins list``: list the components of all plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import click

from tunesmith.catalog import Catalog
from tunesmith.offers import KINDS, CommandOffer
from tunesmith.plugins import find_plugins, missing_requirements
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.groups import CommandConflict, resolve_command_conflicts
from tunesmith_plugins.commands.plugin_list.inspect_distribution import Inspection
from tunesmith_plugins.commands.plugin_list.inspect_installed import (
    inspect_files,
    inspect_installed,
)
from tunesmith_plugins.commands.plugin_list.tiers import find_tier


@click.command("list")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@click.option(
    "--available",
    is_flag=True,
    help="List the plugins of the built-in directory instead, installed or not.",
)
@click.option("--refresh", is_flag=True, help="Ignore the cache and inspect all plugins again.")
@result_options
def command(
    state: CliState, words: tuple[str, ...], available: bool, refresh: bool, as_json: bool
) -> None:
    """List the components of all installed plugins, or search them.

    Each WORD must occur in the name, the kind or the summary of a component. With --available, it
    must occur in the name, the summary, a keyword or a plugin of a distribution in the directory,
    which is searched offline.

    New and changed plugins are imported once, in a child process. Broken and disabled plugins, and
    commands with conflicts, are listed with the reason.
    """

    if available:  # reads the directory with pydantic, which the list itself does not need
        from tunesmith_plugins.commands.plugin_list.available import list_available

        list_available(words, as_json=as_json)
        return

    def report(text: str) -> None:
        render.print_note(one_line(text))

    found = inspect_installed(state.selection(), refresh=refresh, report=report)
    catalog = state.catalog(commands_only=True)
    if found.is_new:  # The catalog above predates the inspection.
        catalog = Catalog(find_plugins(state.selection(), commands_only=True))
    listed = [*found.inspections, *inspect_files(catalog)]
    if words:
        listed = [kept for i in listed if (kept := keep_matches(i, words)).offers]
    conflicts = resolve_command_conflicts(catalog.offers(CommandOffer))[1]
    tiers = {
        i.plugin.full_name: find_tier(i.plugin, found.files.get(i.plugin.distribution))
        for i in listed
    }
    if as_json:
        plugins = [to_json(i) | {"tier": tiers[i.plugin.full_name]} for i in listed]
        unusable = [asdict(conflict) for conflict in conflicts]
        render.print_json(
            {"schema": "tunesmith.plugins/1", "plugins": plugins, "unusable_commands": unusable}
        )
        return
    print_components(listed, tiers)
    print_problems(listed, conflicts)


def keep_matches(inspection: Inspection, words: Sequence[str]) -> Inspection:
    """Return an inspection with only the offers that contain every word."""
    texts = {o: f"{o.name} {o.kind} {o.summary}".casefold() for o in inspection.offers}
    kept = (o for o, text in texts.items() if all(word.casefold() in text for word in words))
    return replace(inspection, offers=tuple(kept))


def to_json(inspection: Inspection) -> dict[str, object]:
    """Return a plugin with its offers and its missing requirements as JSON."""
    plugin = inspection.plugin
    offers = [asdict(o) | {"missing": missing_requirements(o.needs)} for o in inspection.offers]
    missing = missing_requirements(plugin.needs)
    names = {"full_name": plugin.full_name, "missing": missing, "offers": offers}
    return asdict(plugin) | names


def print_components(listed: list[Inspection], tiers: Mapping[str, str]) -> None:
    """Print the components of all plugins, with their tiers, as a table sorted by kind."""
    kinds = [kind.kind for kind in KINDS]
    rows = []
    for inspection in listed:
        plugin = inspection.plugin
        tier = tiers[plugin.full_name]
        source = f"{plugin.distribution} {plugin.version}".strip()
        source = tier if plugin.is_builtin else f"{source}, {tier}"
        for offer in inspection.offers:
            order = kinds.index(offer.kind) if offer.kind in kinds else len(kinds)
            missing = "; ".join(missing_requirements(offer.needs))
            state = f"not available: {missing}" if missing else source
            texts = (offer.name, offer.kind, offer.summary, state)
            row = [one_line(text, 200) for text in texts]
            rows.append((order, not plugin.is_builtin, plugin.distribution, row))
    rows.sort(key=lambda row: (*row[:3], row[3][0]))
    render.print_table(["name", "kind", "summary", "source, tier"], [row for *_, row in rows])


def print_problems(listed: list[Inspection], conflicts: list[CommandConflict]) -> None:
    """Print plugins and commands that cannot be used, and plugins without components."""
    for plugin in (inspection.plugin for inspection in listed):
        if plugin.state != "active":
            reason = one_line(plugin.reason, 500)
            text = f"{plugin.state}: {plugin.full_name} {plugin.version}: {reason}"
            render.print_text(text, style="bad" if plugin.state == "broken" else "dim")
        elif missing := missing_requirements(plugin.needs):
            text = f"not available: {plugin.full_name}: {'; '.join(missing)}"
            render.print_text(one_line(text, 500), style="dim")
    for conflict in conflicts:
        names = one_line(", ".join(conflict.plugins), 500)
        text = f'command "{conflict.command}" of {names} cannot be used: {conflict.reason}'
        render.print_text(text, style="bad")
    others = [i.plugin.name for i in listed if i.plugin.state == "active" and not i.offers]
    if others:
        render.print_note(
            "plugins without components, which only find models, or review data and plans: "
            f"{', '.join(map(one_line, others))}"
        )
