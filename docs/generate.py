"""Write the reference pages from the code: ``python docs/generate.py``.

A test compares the committed pages with what this gives, so that they cannot drift.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunesmith import api, errors, events, hookspecs, plugins
from tunesmith.catalog import Catalog
from tunesmith.cli import plan_view
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.contracts import Assumed
from tunesmith.estimate import hardware
from tunesmith.estimate.compare_techniques import study
from tunesmith.estimate.hardware import GIB
from tunesmith.estimate.memory_peak import peak_of
from tunesmith.machine import Device, Machine
from tunesmith.offers import DataLoaderOffer, EvaluatorOffer, ReporterOffer, TechniqueOffer
from tunesmith.options import DataOptions
from tunesmith.plugins import Selection

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code. Change the code, then run it again. -->\n"


def pages() -> dict[str, str]:
    """Every generated page by its path below docs/."""
    return {
        "reference/run-file.md": NOTE + "\n".join(run_file()),
        "reference/hooks.md": NOTE + "\n".join(hooks()),
        "reference/events.md": NOTE + "\n".join(event_kinds()),
        "reference/exit-codes.md": NOTE + "\n".join(exit_codes()),
        "how-to/plan.md": planning(),
    }


def run_file() -> Iterator[str]:
    """Every table of a run file, the core's and those of the built-in plugins."""
    catalog = Catalog(plugins.find(Selection(only=frozenset())))
    yield "# Run file\n"
    yield (
        "A run file is TOML. Every key has one owner: the tables in the first part belong to the "
        "core, all others to the component that `use` names. Unknown keys are errors.\n"
    )
    yield (
        "Relative paths are taken from the run file's folder. "
        "Values are overridden by `--set table.key=value` over environment variables "
        "`TUNESMITH__TABLE__KEY` over the file over the defaults below; "
        "`tunesmith check --origin` shows where each value came from.\n"
    )
    yield "## Tables of the core\n"
    for name, model in {**CORE_TABLES, "data": DataOptions}.items():
        yield f"### `[{name}]`\n"
        yield from table(model)
    parts: list[tuple[str, str, type[Any]]] = [
        ("Data loaders", "[data]", DataLoaderOffer),
        ("Techniques", "[technique]", TechniqueOffer),
        ("Evaluators", "[[evaluators]]", EvaluatorOffer),
        ("Reporters", "[[reporters]]", ReporterOffer),
    ]
    for title, where, kind in parts:
        yield f"## {title}: `{where}`\n"
        for offered in catalog.offers(kind):
            offer = offered.offer
            yield f'### `use = "{offer.name}"`\n'
            yield f"{offer.summary[:1].upper()}{offer.summary[1:]}.\n"
            yield from table(offer.config)
            yield from inner_tables(offer.config, where.strip("[]"))


def inner_tables(model: type[BaseModel], where: str) -> Iterator[str]:
    """The tables below an offer's own, each with its options."""
    for name, info in model.model_fields.items():
        if is_table(info) and info.annotation is not None:
            yield f"#### `[{where}.{name}]`\n"
            yield f"{info.description}\n"
            yield from table(info.annotation)


def is_table(info: FieldInfo) -> bool:
    """Whether an option is a table of options of its own."""
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def table(model: type[BaseModel]) -> Iterator[str]:
    """The options of a model as a Markdown table."""
    own = {name: info for name, info in model.model_fields.items() if not is_table(info)}
    if not own:
        yield "No options.\n" if not model.model_fields else "All options are in its tables:\n"
        return
    yield "| key | type | default | what it is |"
    yield "|---|---|---|---|"
    schema = model.model_json_schema()
    for name, info in own.items():
        key = info.alias or name
        what = (info.description or "").replace("|", "\\|")
        type_ = kind(schema["properties"][key], schema)
        yield f"| `{key}` | {type_} | {default(info)} | {what} |"
    yield ""


def kind(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """A JSON Schema type in words, bounds included."""
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
    """The default as it would stand in TOML."""
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


def hooks() -> Iterator[str]:
    """Every hook with its exact signature."""
    yield "# Hooks\n"
    yield inspect.cleandoc(hookspecs.__doc__ or "") + "\n"
    for name, function in vars(hookspecs).items():
        if name.startswith("tunesmith_") and inspect.isfunction(function):
            signature = inspect.signature(function)
            yield f"## `{name}({', '.join(signature.parameters)})`\n"
            yield f"```python\ndef {name}{signature}\n```\n".replace("'", "")
            yield inspect.cleandoc(function.__doc__ or "") + "\n"


RULES = (
    ("full", "llama-7b", 1, 1024, 200_000),
    ("lora", "llama-7b", 1, 1024, 100_000),
    ("qlora", "llama-7b", 1, 512, 10_000),
    ("qlora", "llama-65b", 1, 512, 10_000),
    ("full", "llama-7b", 1, 512, 50_000),
    ("lora", "llama-7b", 1, 512, 50_000),
    ("qlora", "llama-7b", 1, 512, 50_000),
)
"""Technique, model, rows at once, tokens a row, rows: what the rules of thumb are about."""


def planning() -> str:
    """The page on planning, its table of rules of thumb made by the planner itself."""
    page = (HERE / "how-to" / "plan.md").read_text(encoding="utf-8")
    head, begin, rest = page.partition("<!-- rules: written by docs/generate.py -->\n")
    _, end, tail = rest.partition("<!-- end of rules -->\n")
    return head + begin + "\n" + "\n".join(rules(page)) + "\n\n" + end + tail


def rules(page: str) -> Iterator[str]:
    """The table: what the planner says about the run file and the models that the page shows."""
    yield "| options | memory, GiB | surely fits on | cheapest | training takes | and costs |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        configs = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        for name, text in zip(("llama-7b", "llama-65b"), configs, strict=True):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(text, encoding="utf-8")
        (run,) = (t for t in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "[data]" in t)
        (folder / "run.toml").write_text(run, encoding="utf-8")
        for rule in RULES:
            yield rule_row(folder, *rule)


def rule_row(
    folder: Path, technique: str, model: str, micro_batch: int, sequence: int, rows: int
) -> str:
    """One row: the first estimate, on paper alone."""
    sets = [f"technique.use={technique}", f"model.base={model}"]
    plan, catalog = api.load(folder / "run.toml", sets=sets)
    assumed = Assumed(sequence=sequence, micro_batch=micro_batch, rows=rows)
    nobody = Machine(Device(kind="cpu", name="nobody's", memory=None))
    table = hardware.load(environment={"XDG_CONFIG_HOME": str(folder)})
    found = next(study(plan, catalog, ((), ()), assumed, nobody, table))
    row = found.chosen
    peak, gpu = peak_of(row.found["cuda"]), found.cheapest(row)
    assert gpu is not None
    sure = [name for name, fits in found.fits(row).items() if fits == "yes"]
    cards = [g.name for g in table.gpus if g.usable >= peak.high and str(g.gigabytes) not in sure]
    where = ", ".join([*cards, f"{sure[0]} GB and more"] if sure else cards) or "none"
    assume = f"sequence={sequence},micro_batch={micro_batch},rows={rows}"
    cells = [
        f"`--set technique.use={technique} --set model.base={model} --assume {assume}`",
        f"{peak.low / GIB:.0f} to {peak.high / GIB:.0f}",
        where,
        gpu.name,
        plan_view.span(found.times(row)[gpu.name]),
        plan_view.money(found.costs(row)[gpu.name]),
    ]
    return f"| {' | '.join(cells)} |"


def event_kinds() -> Iterator[str]:
    """Every event with its fields."""
    yield "# Events\n"
    yield inspect.cleandoc(events.__doc__ or "") + "\n"
    for name, cls in events.EVENT_TYPES.items():
        if cls.__module__ != events.__name__:
            continue
        yield f"## `{name}`\n"
        yield inspect.cleandoc(cls.__doc__ or "") + "\n"
        yield f"Fields: {', '.join(f'`{field}`' for field in cls.__dataclass_fields__)}.\n"


def exit_codes() -> Iterator[str]:
    """The error tree with its exit codes."""
    yield "# Exit codes\n"
    yield inspect.cleandoc(errors.__doc__ or "").replace("::", "", 1) + "\n"


def main() -> None:
    """Write the pages; say which changed."""
    for name, text in pages().items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
