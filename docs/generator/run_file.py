"""Generate the page on run files: the tables of the core and of the built-in plugins."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunesmith import plugins
from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.offers import (
    BaselineOffer,
    DataLoaderOffer,
    EncoderOffer,
    EvaluatorOffer,
    ReporterOffer,
    SplitterOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import DataOptions, EvaluatorKeys, fields_by_key, table_options
from tunesmith.plugins import Selection


def run_file() -> Iterator[str]:
    """Yield the page on run files: the tables of the core and of the built-in plugins."""
    catalog = Catalog(plugins.find_plugins(Selection(allowed=frozenset())))
    yield "# Run file\n"
    yield (
        "A run file is TOML. The tables in the first part belong to the core. In the next parts, "
        "the keys belong to the component that `use` names. The last tables belong to plugins. "
        "An unknown key is an error.\n"
    )
    yield (
        "A relative path is resolved against the run file's folder.\n\n"
        "Values are taken from these sources, the first having the highest priority:\n\n"
        "1. `--set table.key=value` on the command line\n"
        "2. the environment variable `TUNESMITH__TABLE__KEY`\n"
        "3. the run file\n"
        "4. the defaults below\n\n"
        "`tunesmith check --origin` shows the origin of each value.\n"
    )
    yield "## Tables of the core\n"
    for name, model in {**CORE_TABLES, "data": DataOptions}.items():
        yield f"### `[{name}]`\n"
        yield f"{table_summary(model)}\n"
        yield from table(model)
    yield "### `[[evaluators]]`\n"
    yield f"{table_summary(EvaluatorKeys)}\n"
    yield from table(EvaluatorKeys)
    parts: list[tuple[str, str, type[Any]]] = [
        ("Data loaders", "[data]", DataLoaderOffer),
        ("Splitters", "[split]", SplitterOffer),
        ("Techniques", "[technique]", TechniqueOffer),
        ("Evaluators", "[[evaluators]]", EvaluatorOffer),
        ("Baselines", "[baselines]", BaselineOffer),
        ("Encoders", "[encoder]", EncoderOffer),
        ("Reporters", "[[reporters]]", ReporterOffer),
    ]
    for title, where, kind in parts:
        yield f"## {title}: `{where}`\n"
        offers = [offered.offer for offered in catalog.offers(kind)]
        shared = SharedKeys.of([offer.config for offer in offers], title.lower())
        yield from shared.section(where.strip("[]"))
        for offer in offers:
            own = f"[baselines.{offer.name}]" if kind is BaselineOffer else f'use = "{offer.name}"'
            yield f"### `{own}`\n"
            yield f"{offer.summary[:1].upper()}{offer.summary[1:]}.\n"
            if isinstance(offer, SplitterOffer) and offer.by_default:
                yield "This is the default.\n"
            if isinstance(offer, TechniqueOffer) and not offer.promises.trains:
                yield "Options of training, such as `learning_rate`, have no effect.\n"
            yield from shared.table(offer.config)
            yield from shared.inner_tables(offer.config, where.strip("[]"))
    yield "## Tables of plugins\n"
    for name, offered in catalog.by_key(TableOffer).items():
        yield f"### `[{name}]`\n"
        yield f"{offered.offer.summary[:1].upper()}{offered.offer.summary[1:]}.\n"
        yield from table(offered.offer.config)
        yield from SharedKeys.of([], "").inner_tables(offered.offer.config, name)


def table_summary(model: type[BaseModel]) -> str:
    """Return the docstring of a table's options without the table's name in front."""
    text = " ".join((inspect.getdoc(model) or "").split()).partition(": ")[2]
    return text[:1].upper() + text[1:]


@dataclass
class SharedKeys:
    """The keys and inner tables that several components of a kind have; each is shown once."""

    title: str
    rows: list[str]
    tables: dict[type[BaseModel], tuple[str, FieldInfo]]
    """Key and description of each shared inner table."""
    seen: dict[type[BaseModel] | None, str] = field(default_factory=dict)
    """Path of each inner table that the page has already shown."""

    @classmethod
    def of(cls, models: Sequence[type[BaseModel]], components: str) -> SharedKeys:
        """Find the rows that at least three tables have, and the tables of several components."""
        inner = [(key, f) for model in models for key, f in fields_by_key(model).items()]
        found = [(table, (key, f)) for key, f in inner if (table := table_options(f)) is not None]
        counts = Counter(table for table, _ in found)
        every = dict.fromkeys([*models, *(table for table, _ in found)])
        rows = Counter(row for model in every for row in option_rows(model).values())
        return cls(
            f"Keys of several {components}",
            [row for row, count in rows.items() if count > 2],
            {table: key for table, key in reversed(found) if counts[table] > 1},
        )

    def section(self, where: str) -> Iterator[str]:
        """Yield the section on the shared keys and tables."""
        if self.rows or self.tables:
            yield f"### {self.title}\n"
        if self.rows:
            yield from markdown_table(self.rows)
        for table, (key, info) in reversed(self.tables.items()):
            yield from self.inner_table(table, info, f"{where}.{key}")

    def table(self, model: type[BaseModel]) -> Iterator[str]:
        """Yield the options of a model, with a link for those that are shared."""
        rows = option_rows(model)
        if own := [row for row in rows.values() if row not in self.rows]:
            yield from markdown_table(own)
        elif not rows:
            yield "All options are in inner tables:\n" if model.model_fields else "No options.\n"
        if names := [f"`{key}`" for key, row in rows.items() if row in self.rows]:
            link = f"[{self.title[0].lower()}{self.title[1:]}](#{anchor(self.title)})"
            yield f"{'It also has' if own else 'It has'} these {link}:\n"
            yield f"{', '.join(names)}\n"

    def inner_tables(self, model: type[BaseModel], where: str) -> Iterator[str]:
        """Yield the tables below a table, and links to those with the options of an earlier one."""
        links = []
        for key, info in fields_by_key(model).items():
            if first := self.seen.get(table_options(info)):
                links.append(f"[`[{where}.{key}]`](#{anchor(first)})")
        if links:
            yield f"Inner tables, with the options shown there: {', '.join(links)}.\n"
        for key, info in fields_by_key(model).items():
            table = table_options(info)
            if table is not None and table not in self.seen:
                yield from self.inner_table(table, info, f"{where}.{key}")

    def inner_table(self, model: type[BaseModel], info: FieldInfo, path: str) -> Iterator[str]:
        """Yield one inner table and those below it."""
        self.seen[model] = path
        yield f"#### `[{path}]`\n"
        yield f"{info.description}\n"
        yield from self.table(model)
        yield from self.inner_tables(model, path)


def anchor(heading: str) -> str:
    """Return the anchor of a heading on GitHub and on the site."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


def table(model: type[BaseModel]) -> Iterator[str]:
    """Yield the options of a model as a Markdown table."""
    yield from SharedKeys.of([], "").table(model)


def markdown_table(rows: Sequence[str]) -> Iterator[str]:
    """Yield a table of options."""
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    yield from rows
    yield ""


def option_rows(model: type[BaseModel]) -> dict[str, str]:
    """Return the row of each option that is not an inner table, by key."""
    schema = model.model_json_schema()
    rows = {}
    for key, info in fields_by_key(model).items():
        if table_options(info) is None:
            what = (info.description or "").replace("|", "\\|")
            type_ = kind(schema["properties"][key], schema)
            rows[key] = f"| `{key}` | {type_} | {default(info)} | {what} |"
    return rows


def kind(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """Return a JSON Schema type in words, including bounds."""
    if "$ref" in schema:
        return kind(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if "anyOf" in schema:
        return " or ".join(kind(branch, root) for branch in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    words = {"number": "number", "integer": "integer", "string": "text", "boolean": "true or false"}
    name = words.get(schema.get("type", ""), schema.get("type", "any"))
    if name == "array":
        inner = schema.get("items")
        return f"list of {kind(inner, root)}" if isinstance(inner, dict) and inner else "list"
    if name == "null":
        return "unset"
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([name, *bounds])


def default(info: FieldInfo) -> str:
    """Return the default value of an option in TOML notation."""
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        return "`[{}]`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`"
