"""Groups of commands: those of the core, and those that plugins offer, found without importing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from tunesmith.cli.common import CliState
from tunesmith.errors import UsageError
from tunesmith.text import one_line, suggest_name

if TYPE_CHECKING:
    from tunesmith.offered import Offered
    from tunesmith.offers import CommandOffer

    Offers = Sequence[Offered[CommandOffer]]


@dataclass(frozen=True)
class Conflict:
    """A command that cannot be used, with the plugins that offer it and the reason."""

    command: str
    plugins: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class CommandTree:
    """The commands that plugins offer; a command of two words is in the group of the first."""

    offers: Mapping[str, Offers]
    """Offers by name of the command; several if more than one plugin offers it."""
    refused: Sequence[Conflict]

    def below(self, group: str) -> dict[str, Offers]:
        """Return the offers in a group by the second word of their names.

        The group "" is the top: there, the offers are by the first word.
        """
        found: dict[str, Offers] = {}
        for name, offers in self.offers.items():
            first, _, second = name.partition(" ")
            if not group:
                found[first] = (*found.get(first, ()), *offers)
            elif first == group and second:
                found[second] = offers
        return found

    def conflicts(self) -> Iterator[Conflict]:
        """Yield the commands that cannot be used: refused ones, then ambiguous ones."""
        yield from self.refused
        for name, offers in self.offers.items():
            if len(offers) > 1:
                plugins = tuple(sorted(offered.plugin.full_name for offered in offers))
                yield Conflict(name, plugins, "offered by more than one plugin")


def arrange_commands(offers: Iterable[Offered[CommandOffer]], core: Collection[str]) -> CommandTree:
    """Arrange offers by name, and refuse those that are in conflict with an earlier one.

    ``core`` has the names of the core's own commands, which come first.
    """
    arranged: dict[str, list[Offered[CommandOffer]]] = {}
    refused = []
    for offered in offers:
        name = offered.offer.name
        reason = _reason_to_refuse(name, core, {*core, *arranged})
        if reason:
            refused.append(Conflict(name, (offered.plugin.full_name,), reason))
        else:
            arranged.setdefault(name, []).append(offered)
    return CommandTree(arranged, refused)


def _reason_to_refuse(name: str, core: Collection[str], known: Collection[str]) -> str:
    """Return why a name cannot be used beside the known ones, or ""."""
    group, _, second = name.partition(" ")
    groups = {first for first, space, _ in (other.partition(" ") for other in known) if space}
    if name in core:
        return "tunesmith has a command of this name"
    if not second and name in groups:
        return f"{name} is a group of commands"
    if second and group in known and group not in groups:
        return f"{group} is a command, not a group"
    return ""


def command_tree(ctx: click.Context) -> CommandTree:
    """Return the commands that the installed plugins offer."""
    from tunesmith.offers import CommandOffer

    state = ctx.ensure_object(CliState)
    return arrange_commands(state.catalog().offers(CommandOffer), state.core_commands)


class OfferGroup(click.Group):
    """A group of own commands, followed by those that plugins offer below its name.

    The help lines of the latter come from their offers, so that help imports none of them. Without
    arguments, the group prints its help.
    """

    @property
    def path(self) -> str:
        """First word of the commands in this group; "" at the top."""
        return self.name or ""

    def own_lines(self) -> Mapping[str, str]:
        """Return the help line of each own command."""
        return {name: self.commands[name].get_short_help_str(100) for name in sorted(self.commands)}

    def own_command(self, name: str) -> click.Command | None:
        """Return an own command, or None."""
        return self.commands.get(name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.own_lines(), *self._offered(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command or group; None if there is none, or if its name is ambiguous."""
        # Own commands come first, without the catalog: their options may choose its plugins.
        own = self.own_command(name)
        if own is not None:
            return own
        offers = self._offered(ctx).get(name, ())
        if self._is_group(offers):
            return OfferGroup(name, help="Commands that plugins offer.")
        return offers[0].offer.load() if len(offers) == 1 else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command.

        Raises:
            UsageError: there is no such command (the hint has the most similar one), or more than
                one plugin offers it.
        """
        name = args[0]
        checked = not name.startswith("-") and not ctx.resilient_parsing
        if checked and self.get_command(ctx, name) is None:
            raise self._not_found(ctx, name)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines without importing the commands of plugins."""
        own = list(self.own_lines().items())
        offered = [(name, self._help_line(offers)) for name, offers in self._offered(ctx).items()]
        title = "Commands from plugins" if own else "Commands"
        for heading, rows in (("Commands", own), (title, offered)):
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def _offered(self, ctx: click.Context) -> dict[str, Offers]:
        """Return the offers in this group by their next word, except those with an own name."""
        offered, own = command_tree(ctx).below(self.path), self.own_lines()
        return {name: offers for name, offers in offered.items() if name not in own}

    def _is_group(self, offers: Offers) -> bool:
        return not self.path and any(" " in offered.offer.name for offered in offers)

    def _help_line(self, offers: Offers) -> str:
        if self._is_group(offers):
            names = sorted({offered.offer.name.partition(" ")[2] for offered in offers})
            return f"Commands: {', '.join(names)}."
        if len(offers) > 1:
            return f"Ambiguous: offered by {_plugin_names(offers)}."
        return one_line(offers[0].offer.summary)

    def _not_found(self, ctx: click.Context, name: str) -> UsageError:
        prefix = f"{self.path} " if self.path else ""
        offers = self._offered(ctx).get(name)
        if offers:
            return UsageError(
                f'the command "{prefix}{name}" is offered by {_plugin_names(offers)}',
                hint=f"`tunesmith --no-plugin NAME {prefix}{name}` leaves out one of them",
            )
        guess = suggest_name(name, self.list_commands(ctx))
        hint = f"`tunesmith {prefix}--help` lists the commands"
        return UsageError(
            f'no such command "{prefix}{name}"',
            hint=f"did you mean {prefix}{guess}?" if guess else hint,
        )


def _plugin_names(offers: Offers) -> str:
    return " and ".join(sorted(one_line(offered.plugin.full_name) for offered in offers))
