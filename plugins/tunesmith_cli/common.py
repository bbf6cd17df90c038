"""Define options that commands share. Users may write them before or after the command's name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from pathlib import Path

    from click.shell_completion import CompletionItem

    from tunesmith.catalog import Catalog
    from tunesmith.plan import Plan
    from tunesmith.plugins import Selection

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class CliState:
    """Holds the values of the common options, and the catalog of plugins that they select."""

    debug: bool = False
    quiet: bool = False
    files: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    imports_all: bool = False
    """True if the command is not a known command, so all plugins must be imported."""
    run_folder: Path | None = None
    """The run folder of this command, once it exists. It contains the results that stdout shows."""
    _catalogs: dict[tuple[Selection, bool], Catalog] = field(default_factory=dict)

    def apply_quiet(self, plan: Plan) -> Plan:
        """Return the plan, without the reporters that show progress if ``--quiet`` is set."""
        if not self.quiet:
            return plan
        shown = tuple(r for r in plan.reporters if not r.offer.shows_progress)
        return replace(plan, reporters=shown)

    def selection(self) -> Selection:
        """Return the plugins chosen by the common options and the environment."""
        from tunesmith.plugins import Selection

        files = map(os.path.realpath, self.files)
        return Selection.from_environment(disabled=self.disabled, files=files)

    def catalog(self, *, commands_only: bool = False) -> Catalog:
        """Return the catalog of installed plugins, for commands without a run file.

        The command line needs a catalog to find the command, before it parses the options after the
        command's name. If these options select other plugins, the next call returns a new catalog.
        """
        from tunesmith import catalog, plugins

        key = self.selection(), commands_only and not self.imports_all
        if key not in self._catalogs:
            found = plugins.find_plugins(key[0], commands_only=key[1])
            self._catalogs[key] = catalog.Catalog(found)
        return self._catalogs[key]


pass_state = click.make_pass_decorator(CliState, ensure=True)


def common_options(function: F) -> F:
    """Add the common options, whose values the :class:`CliState` stores."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def json_option(function: F) -> F:
    """Add the option ``--json``, which prints the result as JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(function)


def set_option(function: F) -> F:
    """Add the option ``--set``, which overrides a run-file key."""
    return click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=_complete_key,
        help="Override a run-file key, such as technique.epochs=1. Repeatable.",
    )(function)


def result_options(function: F) -> F:
    """Add ``--json`` and the common options to a command, and pass it the :class:`CliState`."""
    return cast(F, json_option(common_options(pass_state(function))))


def start_options(
    function: F,
    out: str = "Run folder to create; default: a new folder in [run] folder.",
) -> F:
    """Add the options of commands that start a run from a run file, and pass the :class:`CliState`.

    The options are ``--set``, ``--out``, ``--trust-plugins``, ``--json`` and the common options.
    """
    from pathlib import Path  # not needed for `--help`

    named = click.option("--out", type=click.Path(path_type=Path), help=out)
    return set_option(named(trust_option(result_options(function))))


def _complete_key(ctx: click.Context, option: click.Parameter, start: str) -> list[CompletionItem]:
    """Return completions for a run-file key, if the command ``explain`` is installed."""
    from click.shell_completion import CompletionItem

    root = ctx.find_root().command
    explain = root.get_command(ctx, "explain") if isinstance(root, click.Group) else None
    found = explain.params[0].shell_complete(ctx, start) if explain else []
    return [CompletionItem(f"{item.value}=", help=item.help) for item in found]


def trust_option(function: F) -> F:
    """Add ``--trust-plugins`` to a command that loads a run's plugins."""
    text = "Execute the code that the run folder names, without asking."
    return _option(text, "--trust-plugins", callback=_trust)(function)


def _collect(ctx: click.Context, option: click.Parameter, value: bool | tuple[str, ...]) -> None:
    """Merge the values of a common option that is given in several places on the command line."""
    state, name = ctx.ensure_object(CliState), option.name or ""
    if isinstance(value, tuple):
        getattr(state, name).extend(value)
    elif value:
        setattr(state, name, True)


def _verbose(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        os.environ["TUNESMITH_TRACE"] = "1"


def _trust(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    """Trust the code of all run folders that this command opens."""
    from tunesmith.config.trust import TRUST_VARIABLE  # not needed for `--help`

    if value and os.environ.get(TRUST_VARIABLE) != "1":
        os.environ[TRUST_VARIABLE] = "1"
        ctx.find_root().call_on_close(lambda: os.environ.pop(TRUST_VARIABLE, None))


def _option(
    help_text: str, *names: str, metavar: str | None = None, callback: Any = _collect
) -> Callable[[F], F]:
    """Create an option whose callback runs before the command's own options are parsed.

    The option is repeatable if its value has a name (``metavar``), and a flag otherwise.
    """
    settings = {"multiple": True, "metavar": metavar} if metavar else {"is_flag": True}
    return click.option(
        *names, callback=callback, expose_value=False, is_eager=True, help=help_text, **settings
    )


_OPTIONS = (
    _option("Load a plugin from a Python file. Repeatable.", "--plugin", "files", metavar="FILE"),
    _option("Do not load this plugin. Repeatable.", "--no-plugin", "disabled", metavar="NAME"),
    _option("Print only results and errors, not progress.", "-q", "--quiet"),
    _option("Print every call of a plugin hook.", "-v", "--verbose", callback=_verbose),
    _option("Print the traceback of an error.", "--debug"),
)
