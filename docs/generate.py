"""Write the reference pages from the code: ``python docs/generate.py``.

``tests/contract/test_docs.py`` fails if a committed page differs from the output of this script.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunesmith import api, hookspecs, plugins
from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.estimates import Assumptions
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
from tunesmith_plugins.estimate import hardware, view
from tunesmith_plugins.estimate.compare_techniques import PlannedLaunch, compare_techniques
from tunesmith_plugins.estimate.hardware import GIB
from tunesmith_plugins.estimate.memory_peak import compute_peak
from tunesmith_torch.runtime.machine import Device, Machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from generator.commands import command_page  # noqa: E402 - found there
from generator.contracts import (  # noqa: E402
    check_page,
    contract_page,
    error_page,
    event_page,
    offer_page,
)
from generator.directory import directory  # noqa: E402
from generator.python_api import python_api  # noqa: E402
from generator.toolkit import toolkit  # noqa: E402

NOTE = "<!-- Written by docs/generate.py from the code. Change the code, then run it again. -->\n"

DIRECTORY = "plugins/tunesmith_plugins/commands/plugin_list/directory.json"


def pages() -> dict[str, str]:
    """Return every generated page that is committed, by its path below docs/."""
    return {
        "reference/run-file.md": NOTE + "\n".join(run_file()),
        "reference/hooks.md": NOTE + "\n".join(hooks()),
        "reference/commands.md": NOTE + "\n".join(command_page()),
        "reference/contracts.md": NOTE + "\n".join(contract_page()),
        "reference/offers.md": NOTE + "\n".join(offer_page()),
        "reference/conformance.md": NOTE + "\n".join(check_page()),
        "reference/events.md": NOTE + "\n".join(event_page()),
        "reference/exit-codes.md": NOTE + "\n".join(error_page()),
        "reference/python.md": NOTE + "\n".join(python_api()),
        "how-to/plan.md": planning(),
        f"../{DIRECTORY}": directory(HERE.parent / "contrib"),
        "../contrib/README.md": NOTE + "\n".join(contrib()),
    }


def built_pages() -> dict[str, str]:
    """Return the pages that are too long to commit, by their path below docs/."""
    return {"reference/toolkit.md": NOTE + "\n".join(toolkit())}


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
        for offered in catalog.offers(kind):
            offer = offered.offer
            own = f"[baselines.{offer.name}]" if kind is BaselineOffer else f'use = "{offer.name}"'
            yield f"### `{own}`\n"
            yield f"{offer.summary[:1].upper()}{offer.summary[1:]}.\n"
            if isinstance(offer, SplitterOffer) and offer.by_default:
                yield "This is the default.\n"
            yield from table(offer.config)
            yield from inner_tables(offer.config, where.strip("[]"))
    yield "## Tables of plugins\n"
    for name, offered in catalog.by_key(TableOffer).items():
        yield f"### `[{name}]`\n"
        yield f"{offered.offer.summary[:1].upper()}{offered.offer.summary[1:]}.\n"
        yield from table(offered.offer.config)
        yield from inner_tables(offered.offer.config, name)


def table_summary(model: type[BaseModel]) -> str:
    """Return the docstring of a table's options without the table's name in front."""
    text = " ".join((inspect.getdoc(model) or "").split()).partition(": ")[2]
    return text[:1].upper() + text[1:]


def inner_tables(
    model: type[BaseModel], where: str, seen: dict[type[BaseModel], str] | None = None
) -> Iterator[str]:
    """Yield the tables below an offer's own table, each with its options.

    Tables with the same options are written once; later ones refer to the first one.
    """
    seen = {} if seen is None else seen
    for key, info in fields_by_key(model).items():
        inner, path = table_options(info), f"{where}.{key}"
        if inner is None:
            continue
        yield f"#### `[{path}]`\n"
        yield f"{info.description}\n"
        if inner in seen:
            yield f"The options are the same as in `[{seen[inner]}]`.\n"
            continue
        seen[inner] = path
        yield from table(inner)
        yield from inner_tables(inner, path, seen)


def table(model: type[BaseModel]) -> Iterator[str]:
    """Yield the options of a model as a Markdown table."""
    own = {key: f for key, f in fields_by_key(model).items() if table_options(f) is None}
    if not own:
        yield "No options.\n" if not model.model_fields else "All options are in inner tables:\n"
        return
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    schema = model.model_json_schema()
    for key, info in own.items():
        what = (info.description or "").replace("|", "\\|")
        type_ = kind(schema["properties"][key], schema)
        yield f"| `{key}` | {type_} | {default(info)} | {what} |"
    yield ""


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


def hooks() -> Iterator[str]:
    """Yield the page on hooks: every hook with its exact signature."""
    yield "# Hooks\n"
    yield inspect.cleandoc(hookspecs.__doc__ or "") + "\n"
    hooks = {name: each for name, each in vars(hookspecs).items() if name.startswith("tunesmith_")}
    for name, function in {"lazy_plugin": hookspecs.lazy_plugin, **hooks}.items():
        if inspect.isfunction(function):
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
"""Rules of thumb: technique, model, rows per micro-batch, tokens per row, rows."""


def planning() -> str:
    """Return the page on planning, with its table of rules of thumb computed by the planner."""
    page = (HERE / "how-to" / "plan.md").read_text(encoding="utf-8")
    head, begin, rest = page.partition("<!-- rules: written by docs/generate.py -->\n")
    _, end, tail = rest.partition("<!-- end of rules -->\n")
    return head + begin + "\n" + "\n".join(rules(page)) + "\n\n" + end + tail


def rules(page: str) -> Iterator[str]:
    """Yield the table: the planner's estimates for the run file and the models on the page."""
    yield "| options | memory, GiB | fits on | cheapest GPU | training time | cost |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
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
    """Return one row: the first estimate, which does not depend on the machine."""
    sets = [f"technique.use={technique}", f"model.base={model}"]
    plan, catalog = api.load_plan(folder / "run.toml", sets=sets)
    assumed = Assumptions(sequence=sequence, micro_batch=micro_batch, rows=rows)
    machine = Machine(Device(type="cpu", name="any CPU", memory=None))
    table = hardware.load_hardware(environment={"XDG_CONFIG_HOME": str(folder)})
    comparison = next(
        compare_techniques(plan, catalog, ((), ()), assumed, PlannedLaunch(machine), table)
    )
    row = comparison.chosen
    peak, gpu = compute_peak(row.estimates["cuda"]), comparison.cheapest(row)
    assert gpu is not None
    sizes = [size for size, fits in comparison.fits(row).items() if fits == "yes"]
    gpus = [g.name for g in table.gpus if g.usable >= peak.high and str(g.gigabytes) not in sizes]
    fits_on = ", ".join([*gpus, f"{sizes[0]} GB and more"] if sizes else gpus) or "none"
    assume = f"sequence={sequence},micro_batch={micro_batch},rows={rows}"
    cells = [
        f"`--set technique.use={technique} --set model.base={model} --assume {assume}`",
        f"{peak.low / GIB:.0f} to {peak.high / GIB:.0f}",
        fits_on,
        gpu.name,
        view.format_duration_range(*comparison.times(row)[gpu.name]),
        view.format_cost_range(comparison.costs(row)[gpu.name]),
    ]
    return f"| {' | '.join(cells)} |"


def contrib() -> Iterator[str]:
    """Yield the page on contrib/: its distributions, read from their pyproject.toml."""
    yield "# Separate distributions\n"
    yield (
        "Each folder here is a separate distribution that extends tunesmith, just like a "
        "third-party plugin. It has its own version, requirements and tests, is found by entry "
        "points, and uses only public names of the core and the toolkits. `pip install tunesmith` "
        "does not install any of them.\n"
    )
    yield "| distribution | version | description | plugins | requires |"
    yield "|---|---|---|---|---|"
    for path in sorted((HERE.parent / "contrib").glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        names = ", ".join(f"`{name}`" for name in project["entry-points"]["tunesmith"])
        requirements = ", ".join(f"`{text}`" for text in project["dependencies"])
        link = f"[{project['name']}]({path.parent.name})"
        cells = [link, project["version"], project["description"], names, requirements]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "Install one from a checkout, and list its plugins:\n"
    yield "```console\n$ pip install contrib/tunesmith-trl\n$ tunesmith plugins list\n```\n"
    yield (
        "`make test-contrib` tests each distribution in its own environment. A new distribution "
        "needs:\n\n"
        "- a `pyproject.toml` with a version range for tunesmith and an extra `dev`\n"
        "- sources below `src/`\n"
        "- tests that run the conformance kit\n"
        "- a README.md with a run file, which a test runs\n"
    )


def main() -> None:
    """Write the pages that changed and print their paths."""
    for name, text in {**pages(), **built_pages()}.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
