"""The JSON schema accepts and refuses the same run files as the plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.commands.plugin_list.json_schema import DIALECT, run_file_schema

FAKE = Path(__file__).parents[2] / "core" / "fake_plugin.py"
VALID: dict[str, Any] = {
    "model": {"base": "fake:one"},
    "data": {"use": "lines", "train": "data.tsv", "test_size": 0.2},
    "technique": {"use": "file:fake_plugin:by-heart", "steps": 3, "mode": "raise"},
    "evaluators": [{"use": "same"}, {"use": "same", "id": "again"}],
    "gate": {"must_beat": ["zero-shot"], "at_least": {"other": 0.5, "again": {"same": 0.5}}},
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return run_file_schema(Catalog(find_plugins(Selection(files=(str(FAKE),)))))


def violations(schema: Any, value: Any, root: Any) -> Iterator[str]:
    """Yield the violations of a schema, for the keywords of JSON Schema that are used here."""
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        yield from violations(target, value, root)
    yield from _violations_of_type(schema, value)
    yield from _violations_of_bounds(schema, value)
    if isinstance(value, dict):
        yield from _violations_of_table(schema, value, root)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from violations(schema["items"], item, root)
    if "anyOf" in schema and all(list(violations(one, value, root)) for one in schema["anyOf"]):
        yield "matches no alternative"
    for branch in schema.get("allOf", []):
        if not list(violations(branch["if"], value, root)):
            yield from violations(branch["then"], value, root)


def _violations_of_type(schema: Any, value: Any) -> Iterator[str]:
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if "type" in schema and not isinstance(value, types[schema["type"]]):
        yield f"not {schema['type']}"
    if "enum" in schema and value not in schema["enum"]:
        yield "not in enum"
    if "const" in schema and value != schema["const"]:
        yield "not const"


def _violations_of_bounds(schema: Any, value: Any) -> Iterator[str]:
    if isinstance(value, (int, float)):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            yield "out of bounds"
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            yield "out of bounds"
        if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
            yield "out of bounds"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield "does not match the pattern"


def _violations_of_table(schema: Any, value: dict[str, Any], root: Any) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{name} is missing"
    for name, item in value.items():
        if name in properties:
            yield from violations(properties[name], item, root)
        elif schema.get("additionalProperties") is False:
            yield f"{name} is unknown"
        elif isinstance(schema.get("additionalProperties"), dict):
            yield from violations(schema["additionalProperties"], item, root)


def changed(path: str, value: Any) -> dict[str, Any]:
    import copy

    tables = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    node: Any = tables
    for part in parents:
        node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
    node[last] = value
    return tables


def test_a_valid_run_file_matches_the_schema(schema: dict[str, Any]) -> None:
    assert list(violations(schema, VALID, schema)) == []
    assert schema["$schema"] == DIALECT
    for split in ({"validation_size": 0.1}, {"use": "grouped", "file": "split.json"}, {}):
        assert list(violations(schema, changed("split", split), schema)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("techniqe", {}),
        ("technique.stpes", 3),
        ("technique.steps", 0),
        ("technique.steps", "three"),
        ("technique.mode", "badly"),
        ("technique.use", "no-such-thing"),
        ("data.test_size", -1),
        ("evaluators.1.id", "two words"),
        ("gate.at_least.again", "high"),
        ("data.test_size", 1.5),
        ("split.validation_sizes", 3),
        ("split.validation_size", 1.5),
        ("split", {"use": "grouped", "validation_size": -1}),
        ("split.use", "no-such-thing"),
        ("data.rows", 3),
        ("evaluators.0.use", "by-heart"),
        ("gate.must_beat", ["tuned"]),
        ("run.seed", -1),
        ("model.base", 3),
    ],
)
def test_an_invalid_run_file_does_not_match(schema: dict[str, Any], path: str, value: Any) -> None:
    assert list(violations(schema, changed(path, value), schema))


@pytest.mark.parametrize("missing", ["model", "data", "technique"])
def test_required_tables_are_required(schema: dict[str, Any], missing: str) -> None:
    tables = {name: table for name, table in VALID.items() if name != missing}
    assert list(violations(schema, tables, schema))


def test_every_option_has_a_description(schema: dict[str, Any]) -> None:
    tables = [d for name, d in schema["$defs"].items() if name.split(".")[0] in VALID]
    options = [o for table in tables for name, o in table["properties"].items() if name != "use"]
    assert options and all(option.get("description") for option in options)


@pytest.mark.parametrize(
    ("keys", "value", "is_valid"),
    [
        ("adapter.rank", 8, True),
        ("adapter.rnak", 8, False),
        ("adapter.rank", 0, False),
        ("adapter", 8, False),
        ("schedule.type", "linear", True),
        ("schedule", "linear", False),
    ],
)
def test_nested_tables_of_options_are_described(
    schema: dict[str, Any], keys: str, value: Any, is_valid: bool
) -> None:
    for part in reversed(keys.split(".")):
        value = {part: value}
    tables = {**VALID, "technique": {"use": "lora", **value}}
    assert (list(violations(schema, tables, schema)) == []) is is_valid


def test_a_table_of_a_plugin_is_part_of_the_schema(schema: dict[str, Any]) -> None:
    assert not list(violations(schema, changed("estimate.prices", "ours.toml"), schema))
    for path, value in (("estimate.prices", 3), ("estimate.price", "x"), ("plan.prices", "x")):
        assert list(violations(schema, changed(path, value), schema)), path


def test_a_name_offered_twice_needs_its_full_name(tmp_path: Path) -> None:
    import dataclasses

    from tunesmith.offers import TechniqueOffer

    catalog = Catalog(find_plugins(Selection(files=(str(FAKE),))))
    offers = catalog.offers(TechniqueOffer)
    other = dataclasses.replace(offers[-1].plugin, distribution="elsewhere")
    by_heart = next(o for o in offers if o.offer.name == "by-heart")
    offers.append(dataclasses.replace(by_heart, plugin=other))
    schema = run_file_schema(catalog)
    names = schema["properties"]["technique"]["properties"]["use"]["enum"]
    full_names = {by_heart.full_name, offers[-1].full_name}
    assert "by-heart" not in names and len(full_names) == 2 and full_names <= set(names)


def test_references_point_to_definitions(schema: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    found = {ref.removeprefix("#/$defs/") for ref in references(schema)}
    assert found and found <= set(schema["$defs"])
