"""``tunesmith plugins check``: test a plugin with the conformance kit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunesmith.catalog import Catalog
from tunesmith.config.run_file import parse_value, set_value
from tunesmith.errors import PluginError, UsageError
from tunesmith.offers import Plugin, TechniqueOffer
from tunesmith.options import fields_by_key
from tunesmith.plugins import Plugins
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options

if TYPE_CHECKING:
    from tunesmith.testing import Result
    from tunesmith.testing.kit import State

ORDER: tuple[State, ...] = ("passed", "skipped", "not run", "failed")
"""States in the order they are listed; failures last, where the terminal shows them."""
STYLES = {"passed": "good", "skipped": "dim", "not run": "warning", "failed": "bad"}
QUICK = {"epochs": 6, "batch_size": 4, "learning_rate": 1e-2}
"""Options that let a technique learn eight examples in seconds, used unless --set changes one."""
TENSOR_LIBRARIES = ("torch", "transformers", "tokenizers")
"""Libraries that create the tiny model."""


@click.command("check")
@click.argument("name")
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a small model to test techniques with. Default: a tiny Llama.",
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

    A technique is trained on eight examples, with a high learning rate unless --set sets an option
    of the technique. A data loader reads a small file, if it recognizes one in a common format.
    Checks that do not apply are skipped. Checks that lack a sample are not run, and the output
    names the option to add. For a failed check, the output names the file and line to look at.
    """
    from tunesmith.testing.kit import run_checks
    from tunesmith.testing.remember import remember_results

    catalog = state.catalog()
    plugin, module = find_module(catalog.plugins, name)
    samples = {**quick_options(catalog, plugin), **parse_samples(sets)}
    results = run_checks(module, model=model or find_tiny_model(), samples=samples)
    remember_results(plugin, results)
    failed = [result for result in results if result.state == "failed"]
    if as_json:
        about = {
            "schema": "tunesmith.check-plugin/2",
            "plugin": plugin.full_name,
            "version": plugin.version,
            **{state.replace(" ", "_"): count_state(results, state) for state in ORDER},
        }
        render.print_json({**about, "results": [asdict(result) for result in results]})
    else:
        rows = sorted(results, key=lambda result: ORDER.index(result.state))
        render.print_table(["", "check", "offer", "what"], [to_row(result) for result in rows])
    counts = {state: count_state(results, state) for state in ORDER}
    style = "bad" if counts["failed"] else "warning" if counts["not run"] else "good"
    render.print_note(", ".join(f"{n} {state}" for state, n in counts.items()), style=style)
    if failed:
        names = ", ".join(dict.fromkeys(result.check for result in failed))
        name = f'"{plugin.full_name}" {plugin.version}'.rstrip()
        raise PluginError(f"plugin {name} fails: {names}")


def quick_options(catalog: Catalog, plugin: Plugin) -> dict[str, dict[str, Any]]:
    """Return options for each technique of a plugin that make its training quick."""
    found = [
        o.offer for o in catalog.offers(TechniqueOffer) if o.plugin.full_name == plugin.full_name
    ]
    return {o.name: {k: v for k, v in QUICK.items() if k in fields_by_key(o.config)} for o in found}


def find_tiny_model() -> Callable[[], Path] | None:
    """Return a function that creates a tiny model, or None if the libraries are not installed."""
    if not all(map(util.find_spec, TENSOR_LIBRARIES)):
        return None

    def create() -> Path:
        from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

        return get_tiny_model_folder()

    return create


def count_state(results: Sequence[Result], state: State) -> int:
    """Return the number of results with this state."""
    return sum(result.state == state for result in results)


def to_row(result: Result) -> list[str | tuple[str, str]]:
    """Return a table row with the check's promise, or why it did not run or where it failed."""
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
