"""``tunesmith plugins``: what is installed, what it offers, and what became of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tunesmith.catalog import HOOKS, Catalog, Offered
from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.errors import UsageError
from tunesmith.offers import CommandOffer, TechniqueOffer
from tunesmith.plugins import Plugin, missing
from tunesmith.text import did_you_mean, one_line


@click.group("plugins")
@common_options
def command() -> None:
    """List the installed plugins and show their options."""


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
            text = f"{plugin.state}: {plugin.full_name} {plugin.version}: {one_line(plugin.reason, 500)}"
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


def show_offer(offered: Offered[Any]) -> None:
    """One offer for people."""
    about = describe_offer(offered)
    render.say(f"{about['name']} ({about['kind']}): {one_line(about['summary'], 200)}", style="strong")
    render.say(f"  from {home(offered.plugin)}, {about['source']}")
    for label in ("accepts", "metrics", "promises", "needs", "missing"):
        if about.get(label):
            render.say(f"  {label}: {', '.join(about[label])}")
    rows = [
        [o["name"], o["type"], o["default"], o["bounds"], o["help"]] for o in about["options"]
    ]
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
            "name": prefix + name,
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


def _bound(bound: Any) -> str:
    """``ge=1`` and the like, from the metadata of a pydantic field."""
    return str(bound) if not hasattr(bound, "__dict__") else ", ".join(
        f"{key}={value!r}" for key, value in vars(bound).items() if value is not None
    )
