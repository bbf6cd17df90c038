"""Write a plugin from templates: a distribution with tests, or a single file.

The templates are in the folder ``files``, with placeholders such as ``$name``. The plugin's name
only occurs in strings and in the package name, so no name can conflict with the code, not even a
Python keyword or a module's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template

from tunesmith import __version__
from tunesmith.errors import UsageError
from tunesmith.offers import BaselineOffer
from tunesmith.renamed import find_present_name
from tunesmith.storage import write_atomic
from tunesmith.text import suggest_name
from tunesmith_plugins.commands.plugin_template.kinds import KINDS, PluginKind

MAX_NAME_LENGTH = 64
RESERVED = frozenset((
    "cli", "data", "evidence", "plugins", "python", "torch",
    "bom", "classifier", "cloud", "continual", "croissant", "distill", "gguf", "inspect", "lm-eval",
    "mcp", "mlflow", "mlx", "monitor", "onnx", "openvino", "optuna", "otel", "peft", "personal",
    "presidio", "ray", "recipes-code", "recipes-health", "recipes-legal", "recipes-service",
    "regulated", "remote", "slurm", "sparse", "synthetic", "tensorboard", "traces", "trackio",
    "trl", "tui", "vision", "vllm", "wandb",
))  # fmt: skip
"""Names after ``tunesmith-`` that tunesmith's own packages and distributions use."""
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_HOOK = """

@hookimpl
def {hook}({arguments}) -> {result}:
    \"\"\"{docstring}\"\"\"
    return {returned}
"""


def write_plugin(folder: Path, name: str, kind: str) -> list[Path]:
    """Write a distribution called ``tunesmith-NAME`` to a new or empty folder.

    Raises:
        UsageError: the name is not valid or is reserved, the kind does not exist, or the folder is
            not empty.
    """
    chosen, values = _prepare(name, kind)
    if name in RESERVED:
        hint = f"add your own prefix, such as acme-{name}"
        raise UsageError(f"{name}: the name tunesmith-{name} is reserved", hint=hint)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder}: already exists and is not an empty folder",
            hint="choose another folder with --out",
        )
    package = f"src/{values['package']}"
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        **{f"{package}/{file}": source for file, source in chosen.files.items()},
        "tests/test_contract.py": "contract-$kind.py",
    }
    return [_write(folder / file, _fill(source, values)) for file, source in templates.items()]


def write_file(path: Path, name: str, kind: str) -> Path:
    """Write a plugin as a single Python file, without tests.

    Raises:
        UsageError: the name is not valid, the kind does not exist, or the file exists.
    """
    chosen, values = _prepare(name, kind)
    if path.exists():
        raise UsageError(f"{path}: already exists", hint="choose a new file with --out")
    imports = "from tunesmith.hookspecs import hookimpl\n"
    if kind == "command":
        imports += "from tunesmith.offers import CommandOffer\n"
    text = _fill(chosen.single_file, {**values, "hookimpl_import": imports})
    hook = _HOOK.format(
        hook=chosen.hook,
        arguments=chosen.arguments,
        result=chosen.result,
        docstring="Review the training rows." if kind == "check" else f"Offer ``{name}``.",
        returned=Template(chosen.returned).substitute(values),
    )
    return _write(path, text + hook)


def _prepare(name: str, kind: str) -> tuple[PluginKind, dict[str, str]]:
    """Return the kind of plugin, and the values of the templates' placeholders."""
    if kind not in KINDS:
        guess = find_present_name(kind, KINDS) or suggest_name(kind, KINDS)
        hint = f"did you mean {guess}?" if guess else f"kinds: {', '.join(KINDS)}"
        raise UsageError(f"{kind}: no such kind of plugin", hint=hint)
    if not _NAME.fullmatch(name):
        hint = "use a name such as first-word"
        raise UsageError(
            f"{name}: names must consist of lowercase letters, digits and hyphens", hint=hint
        )
    if len(name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"{name:.20}...: a name must have at most {MAX_NAME_LENGTH} characters",
            hint="choose a shorter name",
        )
    if kind == "baseline" and name in BaselineOffer.reserved:
        raise UsageError(
            f"{name}: a baseline cannot have this name, which is a key of [baselines]",
            hint="choose another name",
        )
    chosen = KINDS[kind]
    article = "an" if kind[0] in "aeiou" else "a"
    return chosen, {
        "name": name,
        "package": f"tunesmith_{name.replace('-', '_')}",
        "kind": kind,
        "article": article,
        "Article": article.capitalize(),
        "hook": chosen.hook,
        "usage": Template(chosen.usage).substitute(name=name),
        "minor": ".".join(__version__.split(".")[:2]),
        "hookimpl_import": "",
    }


def _fill(source: str, values: Mapping[str, str]) -> str:
    """Return a template file with its placeholders filled in."""
    template = resources.files("tunesmith_plugins.commands.plugin_template").joinpath(
        "files", f"{Template(source).substitute(values)}.template"
    )
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    return path
