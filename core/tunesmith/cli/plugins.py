"""``tunesmith plugins``: what is installed, what it offers, and what became of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tunesmith.catalog import HOOKS, Catalog
from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.config.run_file import place, value_of
from tunesmith.errors import PluginError, UsageError
from tunesmith.offered import Offered, Plugin
from tunesmith.offers import CommandOffer, TechniqueOffer
from tunesmith.plugins import missing
from tunesmith.text import did_you_mean, one_line


@click.group("plugins")
@common_options
def command() -> None:
    """List the installed plugins, show their options, check their promises."""


@command.command("list")
@json_option
@common_options
@pass_state
def list_command(state: State, as_json: bool) -> None:
    """What every plugin offers; which are broken or blocked, and why."""
    catalog = state.catalog()
    offered = list(every_offer(catalog))
    if as_json:
        plugins = [as_object(plugin, offered) for plugin in catalog.plugins.found]
        render.data({"schema": "tunesmith.plugins/1", "plugins": plugins})
        return
    rows = [
        [o.offer.name, o.offer.kind, one_line(o.offer.summary, 200), home(o.plugin)]
        for o in offered
    ]
    render.table(["name", "kind", "what it does", "from"], rows)
    for plugin in catalog.plugins.found:
        if plugin.state != "active":
            reason = one_line(plugin.reason, 500)
            text = f"{plugin.state}: {plugin.full_name} {plugin.version}: {reason}"
            render.say(text, style="bad" if plugin.state == "broken" else "dim")
    active = {o.plugin.full_name for o in offered}
    silent = [p.name for p in catalog.plugins.active() if p.full_name not in active]
    if silent:
        render.remark(f"no offers, only advice or models: {', '.join(map(one_line, silent))}")


@command.command("show")
@click.argument("name")
@json_option
@common_options
@pass_state
def show_command(state: State, name: str, as_json: bool) -> None:
    """One plugin's offers or one offer: options, promises, where its code is."""
    catalog = state.catalog()
    offered = list(every_offer(catalog))
    plugins = [p for p in catalog.plugins.found if name in (p.name, p.full_name)]
    chosen = [o for o in offered if name in (o.offer.name, o.full_name)]
    chosen = chosen or [o for o in offered if o.plugin in plugins]
    if not chosen and not plugins:
        known = [*(o.offer.name for o in offered), *(p.name for p in catalog.plugins.found)]
        guess = did_you_mean(name, known)
        hint = f"did you mean {guess}?" if guess else "tunesmith plugins list shows what there is"
        raise UsageError(f"no plugin and no offer is named {name}", hint=hint)
    if as_json:
        shown = [describe_offer(o) for o in chosen]
        about = [as_object(plugin, offered) for plugin in plugins]
        render.data({"schema": "tunesmith.plugin/1", "offers": shown, "plugins": about})
        return
    for plugin in plugins if not chosen else ():
        render.say(f"{plugin.full_name} {plugin.version}: {plugin.state}", style="strong")
        render.say(f"  {one_line(plugin.reason, 500) or 'hooks: ' + ', '.join(plugin.hooks)}")
        render.say(f"  module {plugin.module}")
    for o in chosen:
        show_offer(o)


@command.command("check")
@click.argument("name")
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A small model folder to train, for techniques.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="OFFER.KEY=VALUE",
    help="An option for the trial, such as a loader's file: jsonl.train=rows.jsonl. Repeatable.",
)
@json_option
@common_options
@pass_state
def check_command(
    state: State, name: str, model: Path | None, sets: tuple[str, ...], as_json: bool
) -> None:
    """Hold a plugin to its promises: the conformance kit, as a table.

    A technique is trained on eight examples, for which it needs a small model. What needs
    something that is not given is listed as not applicable, with the reason.
    """
    from tunesmith.testing.kit import run_checks

    plugin, module = state.catalog().plugins.module(name)
    results = run_checks(module, model=model, samples=samples_of(sets))
    kept = [result for result in results if result.state == "kept"]
    broken = [result for result in results if result.state == "broken"]
    if as_json:
        about = {"schema": "tunesmith.check-plugin/1", "plugin": plugin.full_name}
        render.data({**about, "results": [asdict(result) for result in results]})
    else:
        rows = [[r.state, r.check, r.offer, one_line(r.detail or r.promise, 200)] for r in results]
        render.table(["", "check", "offer", "what"], rows)
    render.remark(f"{len(kept)} of {len(results)} promises kept, {len(broken)} broken")
    if broken:
        names = ", ".join(result.check for result in broken)
        raise PluginError(f'plugin "{plugin.full_name}" {plugin.version} breaks: {names}')


@command.command("new")
@click.argument("name")
@click.option("--kind", required=True, help="evaluator, data-loader or reporter.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder; default: tunesmith-NAME.")
@common_options
def new_command(name: str, kind: str, out: Path | None) -> None:
    """Write a plugin to start from, with a contract test that passes."""
    from tunesmith.template import write_plugin

    folder = out or Path(f"tunesmith-{name}")
    for path in write_plugin(folder, name, kind):
        render.say(str(path))
    render.remark(f"try it: pip install -e {folder} && tunesmith plugins check {name}")


def samples_of(sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``jsonl.train=rows.jsonl`` and the like, as options by offer."""
    samples: dict[str, Any] = {}
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator or "." not in key:
            raise UsageError(f"--set {item}: expected offer.key=value")
        place(samples, key, value_of(text), where="--set")
    return samples


def show_offer(offered: Offered[Any]) -> None:
    """One offer for people."""
    about = describe_offer(offered)
    render.say(
        f"{about['name']} ({about['kind']}): {one_line(about['summary'], 200)}", style="strong"
    )
    render.say(f"  from {home(offered.plugin)}, {about['source']}")
    for label in ("accepts", "metrics", "promises", "needs", "missing"):
        if about.get(label):
            render.say(f"  {label}: {', '.join(about[label])}")
    rows = [[o["name"], o["type"], o["default"], o["bounds"], o["help"]] for o in about["options"]]
    render.say()
    if rows:
        render.table(["option", "type", "default", "bounds", "help"], rows)
    else:
        render.say("  no options")


def describe_offer(offered: Offered[Any]) -> dict[str, Any]:
    """One offer for programs."""
    offer = offered.offer
    about: dict[str, Any] = {
        "name": offer.name,
        "full_name": offered.full_name,
        "kind": offer.kind,
        "summary": offer.summary,
        "plugin": offered.plugin.full_name,
        "version": offered.plugin.version,
        "source": source(offer.load if isinstance(offer, CommandOffer) else offer.build),
        "options": [],
    }
    if isinstance(offer, CommandOffer):
        return about
    about |= {"needs": list(offer.needs), "missing": missing(offer.needs)}
    about["options"] = list(options(offer.config))
    if isinstance(offer, TechniqueOffer):
        about["accepts"] = sorted(kind.__name__ for kind in offer.accepts)
        kept = (f.name for f in fields(offer.promises) if vars(offer.promises)[f.name])
        about["promises"] = [name.replace("_", " ") for name in kept]
    elif hasattr(offer, "metrics"):
        about["metrics"] = [
            f"{m.name} ({'higher' if m.higher_is_better else 'lower'} is better)"
            for m in offer.metrics
        ]
    return about


def options(config: type[BaseModel], prefix: str = "") -> Iterator[dict[str, str]]:
    """Every option with type, default, bounds and help; those of nested tables with a dot."""
    for name, info in config.model_fields.items():
        kind = info.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from options(kind, f"{prefix}{name}.")
            continue
        default = info.get_default(call_default_factory=True) if not info.is_required() else None
        required = info.is_required() or default is PydanticUndefined
        yield {
            "name": prefix + (info.alias or name),
            "type": _type_name(kind),
            "default": "required" if required else "unset" if default is None else repr(default),
            "bounds": ", ".join(map(_bound, info.metadata)),
            "help": info.description or "",
        }


def every_offer(catalog: Catalog) -> Iterator[Offered[Any]]:
    """The offers of all kinds, kind by kind."""
    for kind in HOOKS:
        yield from catalog.offers(kind)


def as_object(plugin: Plugin, offered: list[Offered[Any]]) -> dict[str, Any]:
    """One plugin for programs."""
    mine = [
        {"name": o.offer.name, "kind": o.offer.kind, "summary": o.offer.summary}
        for o in offered
        if o.plugin.full_name == plugin.full_name
    ]
    return {**asdict(plugin), "full_name": plugin.full_name, "offers": mine}


def home(plugin: Plugin) -> str:
    """The distribution and version that a plugin is from."""
    return one_line(f"{plugin.distribution} {plugin.version}".strip())


def source(function: Any) -> str:
    """File and line of a function; the type's name where there is none."""
    try:
        plain = inspect.unwrap(function)
        return f"{inspect.getsourcefile(plain)}:{inspect.getsourcelines(plain)[1]}"
    except (TypeError, OSError):
        return type(function).__name__


def _type_name(kind: Any) -> str:
    text = kind.__name__ if inspect.isclass(kind) and not hasattr(kind, "__args__") else str(kind)
    for noise in ("typing.", "Annotated", "collections.abc."):
        text = text.replace(noise, "")
    return text


SIGNS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "min_length": "length >=",
    "max_length": "length <=",
    "pattern": "like",
}


def _bound(bound: Any) -> str:
    """``>= 1`` and the like, from the metadata of a pydantic field."""
    signs = (
        f"{sign} {getattr(bound, name)}" for name, sign in SIGNS.items() if hasattr(bound, name)
    )
    return ", ".join(sign for sign in signs if not sign.endswith(" None"))
