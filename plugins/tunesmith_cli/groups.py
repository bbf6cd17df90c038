"""Build command groups from the offers of plugins, without importing any command."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import click

from tunesmith.errors import UsageError
from tunesmith.text import format_count, one_line, suggest_name
from tunesmith_cli.common import CliState, common_options
from tunesmith_cli.exit_codes import PIP_COMMANDS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from tunesmith.command_offers import CommandOffer, Offered


SECTIONS = ("Start", "Decide", "Data", "Results", "Use", "Maintain")
"""Headings of the help, in order; the headings of other plugins follow."""


@dataclass(frozen=True)
class CommandConflict:
    """A command that cannot be used, with the plugins that offer it and the reason."""

    command: str
    plugins: tuple[str, ...]
    reason: str


def resolve_command_conflicts(
    offers: Iterable[Offered[CommandOffer]],
) -> tuple[dict[str, CommandOffer], list[CommandConflict]]:
    """Return the usable commands by name, and a conflict for each of the others.

    If a command and a group have the same name, the first one wins. Built-in commands come first,
    so plugins cannot replace them.
    """
    by_name: dict[str, list[Offered[CommandOffer]]] = {}
    for offered in offers:
        by_name.setdefault(offered.offer.name, []).append(offered)
    usable: dict[str, CommandOffer] = {}
    conflicts = []
    for name, same in by_name.items():
        reason = _conflict_reason(name, usable)
        if not reason and (len(same) == 1 or same[0].plugin.is_builtin):
            usable[name] = same.pop(0).offer
            reason = "tunesmith has a command with this name"
        if same:
            plugins = tuple(sorted(offered.plugin.full_name for offered in same))
            reason = reason or "offered by more than one plugin"
            conflicts.append(CommandConflict(name, plugins, reason))
    return usable, conflicts


def _conflict_reason(name: str, usable: Collection[str]) -> str:
    """Return the reason why a name conflicts with those in use, or "" if it does not."""
    group, _, second = name.partition(" ")
    if second and group in usable:
        return f"{group} is a command, not a group"
    if not second and any(other.startswith(f"{name} ") for other in usable):
        return f"{name} is a group of commands"
    return ""


def find_commands(ctx: click.Context) -> tuple[dict[str, CommandOffer], list[CommandConflict]]:
    """Return the commands that installed plugins offer, in display order, and the conflicts."""
    from tunesmith.command_offers import CommandOffer

    catalog = ctx.ensure_object(CliState).catalog(commands_only=True)
    usable, conflicts = resolve_command_conflicts(catalog.offers(CommandOffer))
    return dict(sorted(usable.items(), key=lambda item: _place(item[1]))), conflicts


def _place(offer: CommandOffer) -> tuple[int, str, int, str]:
    """Return the sort key of a command in the help."""
    section = offer.section
    rank = SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
    return rank, section, offer.position, offer.name


class OfferGroup(click.Group):
    """A group of the commands that plugins offer under its name.

    Help lines come from the offers, so help does not import any command. Without arguments, the
    group prints its help.
    """

    @property
    def prefix(self) -> str:
        """The prefix of the offer names in this group, or "" for the top-level group."""
        return f"{self.name} "

    def help_lines(self, ctx: click.Context) -> dict[str, str]:
        """Return the help line of each command and group that plugins offer here, in order."""
        lines: dict[str, str] = {}
        for name, offer in find_commands(ctx)[0].items():
            if name.startswith(self.prefix):
                word, _, second = name.removeprefix(self.prefix).partition(" ")
                start = f"{lines[word][:-1]}," if word in lines else "Commands:"
                lines[word] = f"{start} {second}." if second else one_line(offer.summary)
        return lines

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.help_lines(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.help_lines(ctx):
            return None
        offer = find_commands(ctx)[0].get(f"{self.prefix}{name}")
        return offer.load() if offer else create_group(name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return completions for options and commands, without importing any command."""
        from click.shell_completion import CompletionItem

        lines = [item for item in self.help_lines(ctx).items() if item[0].startswith(incomplete)]
        found = [CompletionItem(word, help=line) for word, line in lines]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name, with its name and the remaining arguments.

        Raises:
            UsageError: the command does not exist (the hint suggests the most similar one), or
                several plugins offer it.
        """
        checked = not args[0].startswith("-") and not ctx.resilient_parsing
        if checked and args[0] not in (known := self.help_lines(ctx)):
            state = ctx.ensure_object(CliState)
            states = {plugin.state for plugin in state.catalog(commands_only=True).plugins.found}
            state.imports_all = "new" in states or suggest_name(args[0], known) is None
            if args[0] not in self.help_lines(ctx):
                raise self._not_found(ctx, args[0])
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines in sections, without importing the commands."""
        lines = self.help_lines(ctx)
        width = max(map(len, lines), default=0)
        for section, words in groupby(lines, self._sections(ctx).__getitem__):
            with formatter.section(section):
                formatter.write_dl([(word.ljust(width), lines[word]) for word in words])
        found = ctx.ensure_object(CliState).catalog(commands_only=True).plugins.found
        if new := sum(plugin.state == "new" for plugin in found):
            text = f"{format_count(new, 'plugin')} not inspected yet: see `tunesmith plugins list`"
            formatter.write(f"\n{text}\n")

    def _sections(self, ctx: click.Context) -> dict[str, str]:
        """Return the heading of each command. A group takes the heading of its first command."""
        sections: dict[str, str] = {}
        for name, offer in find_commands(ctx)[0].items():
            if name.startswith(self.prefix):
                word = name.removeprefix(self.prefix).partition(" ")[0]
                sections.setdefault(word, "Commands" if self.prefix else one_line(offer.section))
        return sections

    def _not_found(self, ctx: click.Context, name: str) -> UsageError:
        from tunesmith.renamed import COMMANDS, find_present_name

        full = f"{self.prefix}{name}"
        for conflict in find_commands(ctx)[1]:
            if f"{conflict.command} ".startswith(f"{full} "):
                plugins = one_line(", ".join(conflict.plugins), 500)
                return UsageError(
                    f'command "{conflict.command}" is not available: {conflict.reason} ({plugins})',
                    hint=f"`tunesmith --no-plugin NAME {conflict.command}` disables a plugin",
                )
        lines = self.help_lines(ctx)
        hint = f"`tunesmith {self.prefix}--help` lists the commands"
        if instead := {**COMMANDS, **PIP_COMMANDS}.get(full):
            hint = f"use `{instead}`"
        elif guess := find_present_name(name, lines) or suggest_name(name, lines):
            hint = f"did you mean {self.prefix}{guess}?"
        elif guess := _find_by_summary(name, lines):
            hint = f"did you mean {self.prefix}{guess}? {lines[guess]}"
        elif not self.prefix:  # perhaps a plugin that is not installed offers it
            search = f"tunesmith plugins list --available {one_line(full, 40)}"
            hint += f"; `{search}` looks for a plugin with it"
        return UsageError(f'no such command "{full}"', hint=hint)


def _find_by_summary(name: str, lines: Mapping[str, str]) -> str | None:
    """Return a command whose help line contains the word, preferably first; None if none does."""
    word = name.casefold()
    found = [c for c, line in lines.items() if word in re.split(r"\W+", line.casefold())]
    return min(found, key=lambda c: not lines[c].casefold().startswith(word), default=None)


GROUPS = {
    "data": "Inspect, fix, split and select the rows of a data file or a run file.",
    "plugins": "Find, install, test and write plugins.",
}
"""Help texts of the built-in command groups, by name."""


def create_group(name: str) -> OfferGroup:
    """Create a group of commands that plugins offer, with the common options."""

    @click.group(name, cls=OfferGroup, help=GROUPS.get(name, "Commands that plugins offer."))
    @common_options
    def group() -> None:
        """Do nothing: the commands of the group do the work."""

    return group
