"""``tunesmith plugins check``: test a plugin with the conformance kit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesmith.config.run_file import parse_value, set_value
from tunesmith.errors import PluginError, UsageError
from tunesmith.offers import Plugin
from tunesmith.plugins import Plugins
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options

if TYPE_CHECKING:
    from tunesmith.testing import Result

ORDER = ("passed", "skipped", "failed")
"""States in the order of the list; failures come last, where the terminal shows them."""
STYLES = {"passed": "good", "skipped": "dim", "failed": "bad"}


@click.command("check")
@click.argument("name")
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a small model to test techniques with.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="COMPONENT.KEY=VALUE",
    help="Set a component's option, such as jsonl.train=rows.jsonl. Repeatable.",
)
@result_options
def command(
    state: CliState, name: str, model: Path | None, sets: tuple[str, ...], as_json: bool
) -> None:
    """Test a plugin with the conformance kit and print the results as a table.

    A technique is trained on eight examples, which needs a small model (--model). Checks that lack
    something they need are skipped, and the reason is given. For a failed check, the output names
    the file and line to look at.
    """
    from tunesmith.testing.kit import run_checks
    from tunesmith.testing.remember import remember_results

    plugin, module = find_module(state.catalog().plugins, name)
    results = run_checks(module, model=model, samples=parse_samples(sets))
    remember_results(plugin, results)
    failed = [result for result in results if result.state == "failed"]
    if as_json:
        about = {
            "schema": "tunesmith.check-plugin/2",
            "plugin": plugin.full_name,
            "version": plugin.version,
            **{state: count_state(results, state) for state in ORDER},
        }
        render.print_json({**about, "results": [asdict(result) for result in results]})
    else:
        rows = sorted(results, key=lambda result: ORDER.index(result.state))
        render.print_table(["", "check", "offer", "what"], [to_row(result) for result in rows])
    render.print_note(", ".join(f"{count_state(results, state)} {state}" for state in ORDER))
    if failed:
        names = ", ".join(dict.fromkeys(result.check for result in failed))
        name = f'"{plugin.full_name}" {plugin.version}'.rstrip()
        raise PluginError(f"plugin {name} fails: {names}")


def count_state(results: Sequence[Result], state: str) -> int:
    """Return the number of results in this state."""
    return sum(result.state == state for result in results)


def to_row(result: Result) -> list[str | tuple[str, str]]:
    """Return a table row with the promise, and why it was skipped or how and where it failed."""
    text = one_line(result.detail or result.promise, 300)
    if result.where:
        text += f": look at {result.where}"
    return [(result.state, STYLES[result.state]), result.check, result.offer, text]


def find_module(plugins: Plugins, name: str) -> tuple[Plugin, Any]:
    """Return a plugin and its module, given the name of the plugin or of its distribution.

    Raises:
        PluginError: none or several plugins have this name, or the plugin is broken or blocked.
    """
    matches = [p for p in plugins.found if name in (p.name, p.full_name, p.distribution)]
    if len(matches) != 1:
        names = ", ".join(p.full_name for p in matches or plugins.found)
        what = "more than one plugin is" if matches else "no plugin is"
        raise PluginError(f'{what} named "{name}"', hint=f"installed: {names}")
    plugin = matches[0]
    if plugin.state != "active":
        what = f'plugin "{plugin.full_name}" {plugin.version} is {plugin.state}'
        raise PluginError(f"{what}: {plugin.reason}")
    return plugin, plugins.manager.get_plugin(plugin.full_name)


def parse_samples(sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse values such as ``jsonl.train=rows.jsonl`` into options by component.

    Raises:
        UsageError: a value does not have the form COMPONENT.KEY=VALUE.
    """
    samples: dict[str, Any] = {}
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator or "." not in key:
            raise UsageError(f"--set {item}: expected COMPONENT.KEY=VALUE")
        set_value(samples, key, parse_value(text), where="--set")
    return samples
