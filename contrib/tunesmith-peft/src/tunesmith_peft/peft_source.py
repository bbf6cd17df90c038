"""Read the names and options of PEFT's methods from its source, because importing it takes seconds.

The sources are parsed, not imported: the classes of configs are dataclasses, and each method is
registered by a call of ``register_peft_method`` in the package of its tuner.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, Union

from pydantic import ConfigDict, TypeAdapter

_COMMON = ("PeftConfigMixin", "PeftConfig")
"""Classes whose fields belong to every config, and are set by the code that trains."""
_LEFT_OUT = frozenset(
    {
        *("task_type", "peft_type", "inference_mode", "runtime_config"),  # set by us
        *("tokenizer_name_or_path", "tokenizer_kwargs"),  # the base model's tokenizer is used
        *("opt_weighted_loss_type", "opt_loss_decay_factor"),  # of a loss that CPT's users compute
        *("megatron_config", "megatron_core", "shadow_model"),  # import code, or download a model
        *("loftq_config", "arrow_config"),  # need the model before quantization, trained adapters
    }
)
"""Fields of config classes that users cannot set."""
_TYPES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "dict": dict[str, Any], "list": list[Any],
}  # fmt: skip


@dataclass(frozen=True)
class MethodOption:
    """A field of a method's config."""

    name: str
    annotation: str
    default: str
    """The default as Python source; empty if there is none."""
    help: str
    type: Any
    """The type that a value must have."""
    table_class: str
    """Name of the config class that a table is for; empty for other options."""

    def check(self, value: Any) -> None:
        """Raise ``pydantic.ValidationError`` if the value has another type."""
        config = ConfigDict(strict=True, allow_inf_nan=False)
        TypeAdapter(self.type, config=config).validate_python(value)


@cache
def list_methods() -> dict[str, str]:
    """Return the config class of each method that the installed PEFT registers, by its name."""
    found = {}
    for path in _source_files("tuners/*/__init__.py"):
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "register_peft_method":
                given = {word.arg: word.value for word in node.keywords}
                found[ast.literal_eval(given["name"])] = ast.unparse(given["config_cls"])
    return dict(sorted(found.items()))


@cache
def read_options(method: str) -> dict[str, MethodOption]:
    """Return the options of a method by name, those of base classes first."""
    fields: dict[str, MethodOption] = {}
    for name in _lineage(list_methods()[method]):
        for node in _classes()[name].body if name not in _COMMON else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                option = _read_option(node.target.id, node)
                if option is not None:
                    fields[option.name] = option
    return fields


def _lineage(name: str) -> Iterator[str]:
    """Yield a config class and its base classes, the most general first."""
    for base in _classes()[name].bases:
        if ast.unparse(base) in _classes():
            yield from _lineage(ast.unparse(base))
    yield name


def _read_option(name: str, node: ast.AnnAssign) -> MethodOption | None:
    """Return the option that a field of a dataclass describes, or None if users do not set it."""
    given: dict[str | None, ast.expr] = {"default": node.value} if node.value else {}
    if isinstance(node.value, ast.Call) and ast.unparse(node.value.func).endswith("field"):
        given = {word.arg: word.value for word in node.value.keywords}
    if name in _LEFT_OUT or "ClassVar" in ast.unparse(node.annotation) or "init" in given:
        return None
    default = "{}" if "default_factory" in given else ""
    return MethodOption(
        name=name,
        annotation=ast.unparse(node.annotation),
        default=ast.unparse(given["default"]) if "default" in given else default,
        help=_read_help(given.get("metadata")),
        # PEFT's annotation of this option lacks values that its code accepts, such as lora_ga.
        type=bool | str if name == "init_lora_weights" else _read_type(node.annotation),
        table_class=next((c for c in _names(node.annotation) if c in _classes()), ""),
    )


def _read_help(metadata: ast.expr | None) -> str:
    try:
        text = ast.literal_eval(metadata)["help"] if metadata else ""
    except (ValueError, KeyError, TypeError):  # computed, such as an f-string
        return ""
    return " ".join(str(text).split())


def _names(node: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _read_type(node: ast.expr) -> Any:
    """Return the type that an annotation stands for; classes of configs are tables."""
    match node:
        case ast.Name(id=name) if values := _read_enum(name):
            return Literal[values]
        case ast.Name(id=name):
            table = dict[str, Any] if name in _classes() else Any
            return _TYPES.get(name, table)
        case ast.Constant(value=None):
            return None
        case ast.BinOp(left=left, right=right):
            return Union[_read_type(left), _read_type(right)]  # noqa: UP007 - of values
        case ast.Subscript(value=outer, slice=inner):
            return _read_generic(ast.unparse(outer).rpartition(".")[2], inner)
        case _:
            return Any


def _read_enum(name: str) -> tuple[str, ...]:
    """Return the values of an enumeration; empty for other classes."""
    node = _classes().get(name)
    bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases] if node else []
    values = node.body if node and "Enum" in bases else []
    return tuple(ast.literal_eval(part.value) for part in values if isinstance(part, ast.Assign))


def _read_generic(name: str, inner: ast.expr) -> Any:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    # A union of an enumeration with str accepts any text, which PEFT then ignores.
    parts = [p for p in parts if _read_enum(ast.unparse(p))] or parts
    if name == "Literal":
        return Literal[tuple(ast.literal_eval(part) for part in parts)]
    types = [_read_type(part) for part in parts]
    if name == "Optional":
        types.append(None)
    if name in ("Optional", "Union"):
        return Union[tuple(types)]  # noqa: UP007 - of values
    if name == "dict":
        return GenericAlias(dict, (str, types[-1]))
    return GenericAlias(list, (types[0] if name == "list" else Any,))


@cache
def _classes() -> dict[str, ast.ClassDef]:
    """Return the classes in the modules that define configs, by name."""
    paths = [*_source_files("tuners/**/config.py"), *_source_files("config.py")]
    paths += _source_files("tuners/lycoris_utils.py")
    nodes = [node for path in paths for node in _parse(path).body]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _source_files(pattern: str) -> list[Path]:
    spec = find_spec("peft")
    folders = spec.submodule_search_locations if spec else None
    return sorted(Path(folder) for folder in Path((folders or ["."])[0]).glob(pattern))


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
