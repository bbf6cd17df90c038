"""Build the JSON Schema of run files, which editors use to complete and validate them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel

from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.events import JSON
from tunesmith.offers import (
    BaselineOffer,
    ComponentOffer,
    DataLoaderOffer,
    EncoderOffer,
    EvaluatorOffer,
    Offered,
    ReporterOffer,
    SplitterOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import DataOptions, EvaluatorKeys

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COMPONENT_TABLES: dict[str, tuple[type[Any], bool]] = {
    "data": (DataLoaderOffer, False),
    "split": (SplitterOffer, False),
    "technique": (TechniqueOffer, False),
    "encoder": (EncoderOffer, False),
    "evaluators": (EvaluatorOffer, True),
    "reporters": (ReporterOffer, True),
}
"""Tables whose keys depend on ``use``: the kind of component, and True for lists of tables."""


def run_file_schema(catalog: Catalog) -> JSON:
    """Return the JSON Schema of run files for the installed plugins."""
    definitions: JSON = {}
    properties: JSON = {}
    tables = {name: o.offer.config for name, o in catalog.by_key(TableOffer).items()}
    for name, options in {**CORE_TABLES, **tables}.items():
        properties[name] = _add_definition(options, name.replace(":", "."), definitions)
    baselines = catalog.by_key(BaselineOffer)
    for name, baseline in baselines.items():
        key = f"baselines.{name.replace(':', '.')}"
        own = _add_definition(baseline.offer.config, key, definitions)
        definitions["baselines"]["properties"][name] = own
    for table, option in ("gate", "must_beat"), ("baselines", "use"):
        _enumerate(definitions[table]["properties"][option], list(baselines))
    for table, (kind, is_list) in COMPONENT_TABLES.items():
        offers: list[Offered[Any]] = catalog.offers(kind)
        schema = _component_schema(table, offers, definitions)
        properties[table] = {"type": "array", "items": schema} if is_list else schema
    return {
        "$schema": DIALECT,
        "title": "tunesmith run file",
        "type": "object",
        "properties": properties,
        "required": ["model", "data", "technique"],
        "additionalProperties": False,
        "$defs": dict(sorted(definitions.items())),
    }


def _component_schema(table: str, offers: list[Offered[Any]], definitions: JSON) -> JSON:
    """Return the schema of a table whose other keys depend on the component in ``use``."""
    counts = Counter(offered.offer.name for offered in offers)
    branches, names = [], []
    for offered in offers:
        offer: ComponentOffer[Any] = offered.offer
        short = [offer.name] if counts[offer.name] == 1 else []
        use = [*short, offered.full_name]
        key = f"{table}.{offer.name if short else offered.full_name.replace(':', '.')}"
        reference = _add_definition(offer.config, key, definitions)
        definition = definitions[key]
        definition["description"] = offer.summary
        definition["properties"] = {"use": {"enum": use}, **definition.get("properties", {})}
        if table == "data":
            test_size = DataOptions.model_json_schema()["properties"]["test_size"]
            definition["properties"]["test_size"] = test_size
        if table == "evaluators":
            definition["properties"]["id"] = EvaluatorKeys.model_json_schema()["properties"]["id"]
        definition["required"] = [*_required(table), *definition.get("required", [])]
        is_default = isinstance(offer, SplitterOffer) and offer.by_default
        condition: JSON = {"properties": {"use": {"enum": use}}}
        if not is_default:  # The keys of the default component are allowed without "use".
            condition["required"] = ["use"]
        branches.append({"if": condition, "then": reference})
        names += use
    return {
        "type": "object",
        "properties": {"use": {"enum": names}},
        "required": _required(table),
        "allOf": branches,
    }


def _enumerate(schema: JSON, names: list[str]) -> None:
    """Restrict the items of a list, which may be nullable, to these names."""
    for branch in schema.get("anyOf", [schema]):
        if branch.get("type") == "array":
            branch["items"]["enum"] = names


def _required(table: str) -> list[str]:
    """Return the required keys of a component's table. Loaders and splitters have defaults."""
    return [] if table in ("data", "split") else ["use"]


def _add_definition(options: type[BaseModel], key: str, definitions: JSON) -> JSON:
    """Add the schema of an options class to the definitions, and return a reference to it.

    Nested definitions are added with ``key`` as prefix.
    """
    schema = options.model_json_schema(ref_template=f"#/$defs/{key}.{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{key}.{name}"] = inner
    schema.pop("title", None)
    definitions[key] = schema
    return {"$ref": f"#/$defs/{key}"}
