"""Write the reference pages from the code: ``python docs/generate.py``.

``tests/contract/test_docs.py`` fails if a committed page differs from what this script writes.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunesmith import api, errors, events, hookspecs, plugins
from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import CORE_TABLES
from tunesmith.estimates import Assumptions
from tunesmith.offers import (
    DataLoaderOffer,
    EvaluatorOffer,
    ReporterOffer,
    RivalOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.options import DataOptions, EvaluatorKeys, fields_by_key, table_options
from tunesmith.plugins import Selection
from tunesmith_plugins.estimate import hardware, view
from tunesmith_plugins.estimate.compare_techniques import compare_techniques
from tunesmith_plugins.estimate.hardware import GIB
from tunesmith_plugins.estimate.memory_peak import compute_peak
from tunesmith_torch.runtime.machine import Device, Machine

HERE = Path(__file__).parent
PLUGINS = HERE.parent / "plugins"
NOTE = "<!-- Written by docs/generate.py from the code. Change the code, then run it again. -->\n"


def pages() -> dict[str, str]:
    """Return every generated page by its path below docs/."""
    return {
        "reference/run-file.md": NOTE + "\n".join(run_file()),
        "reference/hooks.md": NOTE + "\n".join(hooks()),
        "reference/events.md": NOTE + "\n".join(event_kinds()),
        "reference/exit-codes.md": NOTE + "\n".join(exit_codes()),
        "reference/toolkit.md": NOTE + "\n".join(toolkit()),
        "how-to/plan.md": planning(),
        "../contrib/README.md": NOTE + "\n".join(contrib()),
    }


def run_file() -> Iterator[str]:
    """Yield the page on run files: the tables of the core and of the built-in plugins."""
    catalog = Catalog(plugins.find_plugins(Selection(allowed=frozenset())))
    yield "# Run file\n"
    yield (
        "A run file is TOML. The tables in the first part belong to the core. The keys of the "
        "next ones belong to the component that `use` names, and the last tables to a plugin. "
        "An unknown key is an error.\n"
    )
    yield (
        "A relative path is resolved against the run file's folder. "
        "`--set table.key=value` on the command line has precedence over the environment variable "
        "`TUNESMITH__TABLE__KEY`, the variable over the run file, and the run file over the "
        "defaults below. `tunesmith check --origin` shows the origin of each value.\n"
    )
    yield "## Tables of the core\n"
    for name, model in {**CORE_TABLES, "data": DataOptions}.items():
        yield f"### `[{name}]`\n"
        yield from table(model)
    yield "### `[[evaluators]]`\n"
    yield from table(EvaluatorKeys)
    parts: list[tuple[str, str, type[Any]]] = [
        ("Data loaders", "[data]", DataLoaderOffer),
        ("Techniques", "[technique]", TechniqueOffer),
        ("Evaluators", "[[evaluators]]", EvaluatorOffer),
        ("Rivals", "[baselines]", RivalOffer),
        ("Reporters", "[[reporters]]", ReporterOffer),
    ]
    for title, where, kind in parts:
        yield f"## {title}: `{where}`\n"
        for offered in catalog.offers(kind):
            offer = offered.offer
            own = f"[baselines.{offer.name}]" if kind is RivalOffer else f'use = "{offer.name}"'
            yield f"### `{own}`\n"
            yield f"{offer.summary[:1].upper()}{offer.summary[1:]}.\n"
            yield from table(offer.config)
            yield from inner_tables(offer.config, where.strip("[]"))
    yield "## Tables of plugins\n"
    for name, offered in catalog.by_key(TableOffer).items():
        yield f"### `[{name}]`\n"
        yield f"{offered.offer.summary[:1].upper()}{offered.offer.summary[1:]}.\n"
        yield from table(offered.offer.config)
        yield from inner_tables(offered.offer.config, name)


def inner_tables(
    model: type[BaseModel], where: str, seen: dict[type[BaseModel], str] | None = None
) -> Iterator[str]:
    """Yield the tables below an offer's own table, each with its options.

    Tables with the same options are written once; the others refer to the first one.
    """
    seen = {} if seen is None else seen
    for key, info in fields_by_key(model).items():
        inner, path = table_options(info), f"{where}.{key}"
        if inner is None:
            continue
        yield f"#### `[{path}]`\n"
        yield f"{info.description}\n"
        if inner in seen:
            yield f"The options are those of `[{seen[inner]}]`.\n"
            continue
        seen[inner] = path
        yield from table(inner)
        yield from inner_tables(inner, path, seen)


def table(model: type[BaseModel]) -> Iterator[str]:
    """Yield the options of a model as a Markdown table."""
    own = {key: f for key, f in fields_by_key(model).items() if table_options(f) is None}
    if not own:
        yield "No options.\n" if not model.model_fields else "All options are in its tables:\n"
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
    """Return a JSON Schema type in words, bounds included."""
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
    """Return the default value of an option as TOML writes it."""
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
"""Rules of thumb: technique, model, rows per micro-batch, tokens per row, rows."""


def planning() -> str:
    """Return the page on planning, with its table of rules of thumb computed by the planner."""
    page = (HERE / "how-to" / "plan.md").read_text(encoding="utf-8")
    head, begin, rest = page.partition("<!-- rules: written by docs/generate.py -->\n")
    _, end, tail = rest.partition("<!-- end of rules -->\n")
    return head + begin + "\n" + "\n".join(rules(page)) + "\n\n" + end + tail


def rules(page: str) -> Iterator[str]:
    """Yield the table: the planner's estimates of the run file and the models on the page."""
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
    """Return one row: the first estimate, which is independent of the machine."""
    sets = [f"technique.use={technique}", f"model.base={model}"]
    plan, catalog = api.load_plan(folder / "run.toml", sets=sets)
    assumed = Assumptions(sequence=sequence, micro_batch=micro_batch, rows=rows)
    machine = Machine(Device(type="cpu", name="any CPU", memory=None))
    table = hardware.load_hardware(environment={"XDG_CONFIG_HOME": str(folder)})
    comparison = next(compare_techniques(plan, catalog, ((), ()), assumed, machine, table))
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
        view.format_duration_range(comparison.times(row)[gpu.name]),
        view.format_cost_range(comparison.costs(row)[gpu.name]),
    ]
    return f"| {' | '.join(cells)} |"


def event_kinds() -> Iterator[str]:
    """Yield the page on events: every event with its fields."""
    yield "# Events\n"
    yield inspect.cleandoc(events.__doc__ or "") + "\n"
    for name, cls in events.EVENT_TYPES.items():
        if cls.__module__ != events.__name__:
            continue
        yield f"## `{name}`\n"
        yield inspect.cleandoc(cls.__doc__ or "") + "\n"
        yield f"Fields: {', '.join(f'`{field}`' for field in cls.__dataclass_fields__)}.\n"


def exit_codes() -> Iterator[str]:
    """Yield the page on exit codes: the errors that tunesmith raises."""
    yield "# Exit codes\n"
    yield inspect.cleandoc(errors.__doc__ or "").replace("::", "", 1) + "\n"


def contrib() -> Iterator[str]:
    """Yield the page on contrib/: its distributions, read from their pyproject.toml."""
    yield "# Distributions of their own\n"
    yield (
        "Each folder here is a distribution that extends tunesmith as a third party's would: "
        "with its own version, requirements and tests, found by entry points, and written with "
        "the public names of the core and the toolkits alone. `pip install tunesmith` installs "
        "none of them.\n"
    )
    yield "| distribution | version | what it is | plugins | requires |"
    yield "|---|---|---|---|---|"
    for path in sorted((HERE.parent / "contrib").glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        names = ", ".join(f"`{name}`" for name in project["entry-points"]["tunesmith"])
        requirements = ", ".join(f"`{text}`" for text in project["dependencies"])
        link = f"[{project['name']}]({path.parent.name})"
        cells = [link, project["version"], project["description"], names, requirements]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "Install one from a checkout, and list what it brings:\n"
    yield "```console\n$ pip install contrib/tunesmith-trl\n$ tunesmith plugins list\n```\n"
    yield (
        "`make test-contrib` tests each of them in an environment of its own. A new one has a "
        "`pyproject.toml` with a range for tunesmith's version and an extra `dev`, sources below "
        "`src/`, tests that run the conformance kit, and a README.md with a run file that a test "
        "runs.\n"
    )


TOOLKITS = ("tunesmith_torch", "tunesmith_data", "tunesmith_evidence")


def toolkit() -> Iterator[str]:
    """Yield the page on the toolkits: the public functions and classes of every module, by layer.

    Signatures and docstrings are read from the source, so that torch is not imported.
    """
    yield "# Toolkit\n"
    yield (
        "The functions and classes that plugins may use to build techniques (`tunesmith_torch`), "
        "data loaders and checks of data (`tunesmith_data`), and verdicts and rivals "
        "(`tunesmith_evidence`). The layers are in order: a module imports from its own layer "
        "and from those further down. A module's public names are those in its "
        "`__all__`; without one, the functions and classes that it defines and whose names do not "
        "begin with an underscore.\n"
    )
    for package in TOOLKITS:
        home = PLUGINS / package
        yield f"## `{package}`\n"
        yield docstring(parsed(home / "__init__.py")) + "\n"
        yield from exports(parsed(home / "__init__.py"))
        for layer in layers_of(package):
            path = home / layer
            if not path.is_dir():
                yield from module_section(path.with_suffix(".py"), level=3)
                continue
            yield f"### `{package}.{layer}`\n"
            yield docstring(parsed(path / "__init__.py")) + "\n"
            for module in sorted(path.glob("[!_]*.py")):
                yield from module_section(module, level=4)


def layers_of(package: str) -> list[str]:
    """Return the rooms or modules of a toolkit, the highest layer first.

    Raises:
        ValueError: a room or module of the package is in no layer of pyproject.toml.
    """
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == [package])
    names = [name.strip() for layer in layers for name in layer.split("|")]
    home = PLUGINS / package
    found = {p.stem for p in home.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    if missing := {name for name in found if not name.startswith("_")} - set(names):
        raise ValueError(f"{package}: in no layer of pyproject.toml: {', '.join(sorted(missing))}")
    return names


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def public_names(module: ast.Module) -> list[str]:
    """Return the public names of a module.

    Those are the names in its ``__all__`` or, without one, the functions and classes that the
    module defines and whose names do not begin with an underscore.
    """
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    defined = (ast.FunctionDef, ast.ClassDef)
    return [
        node.name
        for node in module.body
        if isinstance(node, defined) and not node.name.startswith("_")
    ]


def exports(package: ast.Module) -> Iterator[str]:
    """Yield the names that a package re-exports, each with the module that defines it."""
    homes = {
        alias.name: node.module
        for node in package.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = [name for name in public_names(package) if name in homes]
    if names:
        yield "Importable from the package itself:\n"
        yield from (f"- `{name}`, from `{homes[name]}`" for name in names)
        yield ""


def module_section(path: Path, *, level: int) -> Iterator[str]:
    """Yield the section of one module; nothing if it has no public function or class."""
    module = parsed(path)
    nodes = {n.name: n for n in module.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    shown = [nodes[name] for name in public_names(module) if name in nodes]
    if not shown:
        return
    name = ".".join(path.relative_to(PLUGINS).with_suffix("").parts)
    yield f"{'#' * level} `{name}`\n"
    yield docstring(module) + "\n"
    for node in shown:
        yield from item(signature_of(node), docstring(node))
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                yield from item(signature_of(method, node.name), docstring(method), "  ")
    yield ""


def item(signature: str, text: str, indent: str = "") -> Iterator[str]:
    """Yield a list item: a signature and, on the next line, what it does."""
    yield f"{indent}- `{signature}`" + ("\\" if text else "")
    if text:
        yield f"{indent}  {text}"


def signature_of(node: ast.FunctionDef | ast.ClassDef, owner: str = "") -> str:
    """Return a function's signature, or a class with the arguments that make an instance."""
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}{constructor(node)}"
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    name = f"{owner}.{node.name}" if owner else node.name
    if decorators & {"property", "cached_property"}:
        return f"{name}: {ast.unparse(node.returns)}" if node.returns else name
    bound = bool(owner) and "staticmethod" not in decorators
    return f"{name}({arguments_of(node, bound=bound)}){result}"


def constructor(node: ast.ClassDef) -> str:
    """Return the arguments in brackets that make an instance; empty if that is not for callers."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return f"({arguments_of(method, bound=True)})"
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return ""
    fields = [
        argument(node.target.id, node.annotation, node.value)
        for node in node.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(node.annotation)
    ]
    return f"({', '.join(fields)})" if fields else ""


def arguments_of(node: ast.FunctionDef, *, bound: bool) -> str:
    """Return the arguments of a function, without ``self`` or ``cls`` if it is bound."""
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + args.defaults
    pairs = list(zip(positional, defaults, strict=True))[1 if bound else 0 :]
    parts = [argument(arg.arg, arg.annotation, value) for arg, value in pairs]
    if args.vararg:
        parts.append("*" + argument(args.vararg.arg, args.vararg.annotation))
    elif args.kwonlyargs:
        parts.append("*")
    named = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    parts += [argument(arg.arg, arg.annotation, value) for arg, value in named]
    if args.kwarg:
        parts.append("**" + argument(args.kwarg.arg, args.kwarg.annotation))
    return ", ".join(parts)


def argument(name: str, annotation: ast.expr | None, default: ast.expr | None = None) -> str:
    """Return one argument or dataclass field as a signature shows it."""
    text = name if annotation is None else f"{name}: {ast.unparse(annotation)}"
    if default is None:
        return text
    value = ast.unparse(default)
    return f"{text} = {'...' if value.startswith('field(') else value}"


def docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """Return the first paragraph of a docstring as one line of Markdown."""
    paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
    text = " ".join(paragraph.split())
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"``\1``", text)
    return text.replace("``", "`")


def main() -> None:
    """Write the pages that changed and print their paths."""
    for name, text in pages().items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
