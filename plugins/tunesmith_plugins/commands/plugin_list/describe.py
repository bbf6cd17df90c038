"""Describe plugins and their components as JSON: source, requirements and options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunesmith.catalog import Catalog
from tunesmith.import_strings import ImportString
from tunesmith.offers import (
    KINDS,
    CommandOffer,
    ComponentOffer,
    ConfiguredOffer,
    Offered,
    Plugin,
    TechniqueOffer,
)
from tunesmith.options import fields_by_key, table_options
from tunesmith.plugins import missing_requirements
from tunesmith.text import one_line


def offer_to_json(offered: Offered[Any]) -> dict[str, Any]:
    """Return an offer's kind, source, requirements, options and metrics as JSON."""
    offer = offered.offer
    about: dict[str, Any] = {
        "name": offer.name,
        "full_name": offered.full_name,
        "kind": offer.kind,
        "summary": offer.summary,
        "plugin": offered.plugin.full_name,
        "version": offered.plugin.version,
        "source": source_location(_definition_of(offer)),
        "needs": list(offer.needs),
        "missing": missing_requirements(offer.needs),
        "options": [],
    }
    if isinstance(offer, ConfiguredOffer):
        about["options"] = list(list_options(offer.config))
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


def _definition_of(offer: Any) -> Any:
    """Return the function or class that defines an offer, for showing its source location."""
    match offer:
        case CommandOffer():
            return getattr(offer.load(), "callback", None) or offer.load
        case ComponentOffer():
            return offer.build.load() if isinstance(offer.build, ImportString) else offer.build
        case _:
            return offer.config


def list_options(config: type[BaseModel], prefix: str = "") -> Iterator[dict[str, str]]:
    """Yield all options with their type, default, bounds and help. Nested keys are dotted."""
    for key, info in fields_by_key(config).items():
        inner = table_options(info)
        if inner is not None:
            yield from list_options(inner, f"{prefix}{key}.")
            continue
        yield {
            "name": prefix + key,
            "type": _type_name(info.annotation),
            "keys": ", ".join(_fixed_keys(info.annotation)),
            "default": _default_text(info),
            "bounds": ", ".join(filter(None, map(_bound_text, info.metadata))),
            "help": info.description or "",
        }


def list_offers(catalog: Catalog) -> Iterator[Offered[Any]]:
    """Yield the offers of all plugins, grouped by kind."""
    for kind in KINDS:
        yield from catalog.offers(kind)


def plugin_to_json(plugin: Plugin, offered: list[Offered[Any]]) -> dict[str, Any]:
    """Return a plugin with its offers as JSON."""
    offers = [
        {"name": o.offer.name, "kind": o.offer.kind, "summary": o.offer.summary}
        for o in offered
        if o.plugin.full_name == plugin.full_name
    ]
    return {**asdict(plugin), "full_name": plugin.full_name, "offers": offers}


def distribution_text(plugin: Plugin) -> str:
    """Return the name and version of the distribution that a plugin belongs to."""
    return one_line(f"{plugin.distribution} {plugin.version}".strip())


def source_location(function: Any) -> str:
    """Return the file and line of an object, or the name of its type if it has no source."""
    try:
        unwrapped = inspect.unwrap(function)
        return f"{inspect.getsourcefile(unwrapped)}:{inspect.getsourcelines(unwrapped)[1]}"
    except (TypeError, OSError):
        return type(function).__name__
    except ImportError as error:
        return str(error)


REQUIRED, UNSET = "required", "unset"
"""Shown instead of a default: the option is required, or None, which TOML cannot express."""


def _default_text(info: FieldInfo) -> str:
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    if info.is_required() or default is PydanticUndefined:
        return REQUIRED
    return UNSET if default is None else toml_value(default)


def toml_value(value: Any) -> str:
    """Return a value in TOML syntax, on one line."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case bool():
            return str(value).lower()
        case BaseModel():
            return toml_value(value.model_dump(exclude_none=True, mode="json"))
        case list() | tuple() | set() | frozenset():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            pairs = ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case _:
            return str(value)  # numbers and dates


def _fixed_keys(kind: Any) -> tuple[str, ...]:
    """Return the keys that a table allows, if they are fixed."""
    arguments = get_args(kind)
    if get_origin(kind) is dict and get_origin(arguments[0]) is Literal:
        return tuple(map(str, get_args(arguments[0])))
    return next((keys for keys in map(_fixed_keys, arguments) if keys), ())


def _type_name(kind: Any) -> str:
    """Return a type as ``int | list[str]``, or ``"a" | "b"`` for a fixed set of values."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return " | ".join(map(toml_value, arguments))
    if get_origin(kind) is dict:
        return f"table of {_type_name(arguments[1])}"
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(_type_name(a) for a in arguments if a is not NoneType)
    if get_origin(kind) is Annotated:
        return _type_name(arguments[0])
    if arguments:
        return f"{get_origin(kind).__name__}[{', '.join(map(_type_name, arguments))}]"
    return kind.__name__ if inspect.isclass(kind) else str(kind)


BOUND_SIGNS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "min_length": "length >=",
    "max_length": "length <=",
    "pattern": "like",
}


def _bound_text(bound: Any) -> str:
    """Return a bound such as ``>= 1`` from the metadata of a pydantic field."""
    signs = (
        f"{sign} {getattr(bound, name)}"
        for name, sign in BOUND_SIGNS.items()
        if hasattr(bound, name)
    )
    return ", ".join(sign for sign in signs if not sign.endswith(" None"))
