"""Options that every command takes, before or after its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tunesmith.catalog import Catalog

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class State:
    """What the common options said."""

    debug: bool = False
    quiet: bool = False
    files: list[str] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    _catalog: Catalog | None = None

    def catalog(self) -> Catalog:
        """The plugins that are there when no run file has a say."""
        if self._catalog is None:
            from tunesmith import catalog, plugins

            files = [str(Path(file).resolve()) for file in self.files]
            chosen = plugins.Selection.from_environment(disabled=self.disabled, files=files)
            self._catalog = catalog.Catalog(plugins.find(chosen))
        return self._catalog


pass_state = click.make_pass_decorator(State, ensure=True)


def common_options(function: F) -> F:
    """Add the common options; their values go into the :class:`State`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def json_option(function: F) -> F:
    """Add ``--json``, for commands that read."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def set_option(function: F) -> F:
    """Add ``--set``."""
    return click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key of the run file: technique.rank=8. Repeatable.",
    )(function)


def _state(ctx: click.Context) -> State:
    return ctx.ensure_object(State)


def _debug(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    _state(ctx).debug |= value


def _quiet(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    _state(ctx).quiet |= value


def _verbose(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        os.environ["TUNESMITH_TRACE"] = "1"


def _files(ctx: click.Context, option: click.Parameter, value: tuple[str, ...]) -> None:
    _state(ctx).files += value


def _disabled(ctx: click.Context, option: click.Parameter, value: tuple[str, ...]) -> None:
    _state(ctx).disabled += value


def _hidden(*names: str, callback: Callable[..., None], **settings: Any) -> Callable[[F], F]:
    """An option whose value goes to its callback, ahead of the command's own."""
    return click.option(*names, callback=callback, expose_value=False, is_eager=True, **settings)


_OPTIONS = (
    _hidden("--plugin", callback=_files, multiple=True, metavar="FILE", help="Load a plugin file."),
    _hidden(
        "--no-plugin", callback=_disabled, multiple=True, metavar="NAME", help="Leave a plugin out."
    ),
    _hidden("-q", "--quiet", callback=_quiet, is_flag=True, help="Only results and errors."),
    _hidden("-v", "--verbose", callback=_verbose, is_flag=True, help="Trace calls into plugins."),
    _hidden("--debug", callback=_debug, is_flag=True, help="Show tracebacks."),
)
