"""Laws about names and imports across packages, checked on the syntax trees of the sources.

Built-in plugins and the distributions in contrib/ use public names only, as third-party plugins
must; packages have a docstring and
stay small; there is no import cycle; and every module has a test.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SOURCE_ROOTS = {
    "tunesmith": ROOT / "core",
    "tunesmith_cli": ROOT / "plugins",
    "tunesmith_data": ROOT / "plugins",
    "tunesmith_evidence": ROOT / "plugins",
    "tunesmith_torch": ROOT / "plugins",
    "tunesmith_plugins": ROOT / "plugins",
    "tunesmith_python": ROOT / "plugins",
    **{path.name: path.parent for path in sorted(ROOT.glob("contrib/*/src/*"))},
}
PLUGINS = "tunesmith_plugins"
TOOLKITS = ("tunesmith_torch", "tunesmith_data", "tunesmith_evidence")
CONTRIB = {path.name: path.parents[1] for path in sorted(ROOT.glob("contrib/*/src/*"))}
"""The folder of the distribution of each package in contrib/."""
MOST_MODULES = 30
"""Modules of one folder, ``__init__`` included: an alarm, not a target.

A folder is too large when its name no longer tells what is in it; divide it by meaning.
"""

TESTED_THROUGH = {
    # Commands run through the command line, as a user runs them.
    "tests/cli/test_commands.py": ("tunesmith.execution.versions",),
    "tests/core/execution/test_execute.py": ("tunesmith.execution.model_phases",),
    # Each check of the conformance kit runs on a plugin that keeps it and on one that breaks it.
    "tests/core/testing/test_kit.py": (
        "tunesmith.testing.loaders",
        "tunesmith.testing.splitters",
        "tunesmith.testing.reviews",
        "tunesmith.testing.techniques.contract",
        "tunesmith.testing.techniques.correctness",
        "tunesmith.testing.techniques.estimates",
        "tunesmith.testing.techniques.setup",
        "tunesmith.testing.techniques.written_files",
    ),
    # Row files are read through the loader that uses all of these.
    "tests/data/test_formats.py": ("tunesmith_data.conversation",),
    "tests/data/test_demo_files.py": (
        "tunesmith_data.build_records",
        "tunesmith_data.message",
        "tunesmith_data.tools",
    ),
    "tests/plugins/loaders/test_arrow.py": ("tunesmith_data.typed_row",),
    "tests/plugins/loaders/test_jsonl.py": ("tunesmith_data.skipped_rows",),
    # One algorithm, compared with a plain comparison of all texts.
    "tests/data/near_duplicates/test_search.py": (
        "tunesmith_data.near_duplicates.boilerplate",
        "tunesmith_data.near_duplicates.forest",
        "tunesmith_data.near_duplicates.inverted_index",
        "tunesmith_data.near_duplicates.minhash",
    ),
    # Parts of one algorithm, compared together with transformers' own result.
    "tests/toolkit/generation/test_text_model.py": ("tunesmith_torch.generation.scored_rows",),
    "tests/toolkit/generation/test_generate.py": (
        "tunesmith_torch.generation.transformers_generate",
    ),
    # Models are divided and joined, with all of their parts.
    "contrib/tunesmith-vision/tests/test_families.py": ("tunesmith_vision.projectors",),
    # Imported in processes of their own: the import itself is what is tested.
    "tests/toolkit/models/test_quantization.py": ("tunesmith_torch.runtime.peft_import",),
    # Around TRL's trainer, and driven by it.
    "contrib/tunesmith-trl/tests/policy_run.py": (
        "tunesmith_trl.callback",
        "tunesmith_trl.contexts",
        "tunesmith_trl.settings",
    ),
}
"""Modules that no test imports, below the test file that runs them through another module."""


# --------------------------------------------------------------------------- reading the sources


@cache
def modules() -> Mapping[str, Path]:
    """Return the file of every module: core, toolkits, built-in plugins, and contrib/."""
    found = {}
    for package, root in SOURCE_ROOTS.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Yield module, name and line of every import.

    Imports inside functions and under ``TYPE_CHECKING`` count. The name is empty where a module
    is imported. The sources have no relative imports, which this function could not resolve.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in line {node.lineno}"
            for alias in node.names:
                yield node.module or "", alias.name, node.lineno


def package_of(module: str) -> str:
    """Return the package that a module is in; a package is in itself."""
    path = modules()[module]
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


# --------------------------------------------------------------------------- private names


def foreign_private_names(tree: ast.Module, package: str) -> list[str]:
    """Return the private names that a module of a package uses although others define them.

    A private name belongs to the package that its module is in. Found are imports of private
    modules and names, and private attributes of imported modules.
    """
    found, bound = [], set()
    for module, name, line in imports(tree):
        full = f"{module}.{name}".rstrip(".")
        if full.partition(".")[0] not in SOURCE_ROOTS:
            continue
        if full in modules():
            bound.add(name or module)
        parts = full.split(".")
        private = next((i for i, part in enumerate(parts) if is_private(part)), None)
        if private is not None and not f"{package}.".startswith(f"{owner(parts[:private])}."):
            found.append(f"line {line}: {full}")
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and is_private(node.attr)
            and ast.unparse(node.value) in bound
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def owner(parts: list[str]) -> str:
    """Return the package that owns a private name found below these parts of a dotted name."""
    module = ".".join(parts)
    return package_of(module) if module in modules() else module


def test_plugins_use_public_names_only() -> None:
    """The built-in plugins and contrib/ import what a third-party plugin may import."""
    found = [
        f"{module}: {use}"
        for module, path in modules().items()
        if module.partition(".")[0] in (PLUGINS, *CONTRIB)
        for use in foreign_private_names(parsed(path), package_of(module))
    ]
    assert not found, "\n".join(found)


def test_private_names_stay_in_their_package() -> None:
    """Neither the core nor the toolkits use a private name of another package."""
    found = [
        f"{module}: {use}"
        for module, path in modules().items()
        if module.partition(".")[0] not in (PLUGINS, *CONTRIB)
        for use in foreign_private_names(parsed(path), package_of(module))
    ]
    assert not found, "\n".join(found)


def test_a_foreign_private_name_is_detected() -> None:
    """Imports at the top, in functions and under TYPE_CHECKING; modules, names and attributes."""
    sources = [
        "from tunesmith.storage._files import file_of",
        "import tunesmith.storage._files",
        "from tunesmith.storage import _files",
        "from tunesmith.storage.atomic import _anything",
        "def f():\n    from tunesmith_data.row import _anything",
        "if TYPE_CHECKING:\n    from tunesmith_torch.training.loop import _anything",
        "from tunesmith.storage import atomic\natomic._anything()",
        "import tunesmith.text\ntunesmith.text._anything()",
    ]
    for source in sources:
        assert len(foreign_private_names(ast.parse(source), "tunesmith_plugins.x")) == 1, source
    own = ast.parse("from tunesmith.storage._files import file_of")
    assert not foreign_private_names(own, "tunesmith.storage")
    assert foreign_private_names(own, "tunesmith.execution")
    fine = "from tunesmith import __version__\nfrom torch import _anything\nself._x = other._x"
    assert not foreign_private_names(ast.parse(fine), "tunesmith_plugins.x")


# --------------------------------------------------------------------------- public names


@cache
def exported(module: str) -> frozenset[str]:
    """Return the names in the ``__all__`` of a module; without one, none."""
    for node in parsed(modules()[module]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def internal_names(tree: ast.AST, package: str) -> list[str]:
    """Return the names of other packages' toolkits that a module uses and no ``__all__`` has.

    A name may be imported, or an attribute of a module that is.
    """
    found, bound = [], dict[str, str]()
    for node in ast.walk(tree):
        source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            full = f"{source}.{alias.name}".lstrip(".")
            top = full.partition(".")[0]
            if top not in TOOLKITS or package.partition(".")[0] == top:
                continue
            if source in modules() and alias.name in exported(source):
                continue
            if full in modules():
                bound[alias.asname or alias.name] = full
            else:
                found.append(f"line {node.lineno}: {full}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in bound:
            module = bound[ast.unparse(node.value)]
            if f"{module}.{node.attr}" not in modules() and node.attr not in exported(module):
                found.append(f"line {node.lineno}: {module}.{node.attr}")
    return found


def test_only_public_names_of_the_toolkits_are_used_outside_of_them() -> None:
    """By the built-in plugins, contrib/ with its tests, and the other toolkits.

    Add the name to the ``__all__`` of its module if strangers may build on it.
    """
    others = [*ROOT.glob("contrib/*/tests/**/*.py"), *TESTS.glob("fixtures/third_party/**/*.py")]
    files = {**modules(), **{str(path.relative_to(ROOT)): path for path in others}}
    found = [
        f"{name}: {use}"
        for name, path in files.items()
        for use in internal_names(parsed(path), name)
    ]
    assert not found, "\n".join(found)


def test_examples_use_public_names_of_the_toolkits() -> None:
    """The code in the documentation, and the templates of `tunesmith plugins new`."""
    toolkit = f"(?:{'|'.join(TOOLKITS)})"
    statement = re.compile(rf"\bfrom {toolkit}[\w.]* import (?:\([^)]*\)|[\w, ]+)")
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb")]
    templates = [*(ROOT / "plugins").rglob("*.py.template")]
    imported, found = 0, []
    for path in [*pages, *ROOT.glob("contrib/*/README.md"), *templates]:
        for text in statement.findall(path.read_text(encoding="utf-8")):
            imported += 1
            found += [f"{path.name}: {use}" for use in internal_names(ast.parse(text), "")]
    assert not found, "\n".join(found)
    assert imported > 40, "the imports are not found any more"


def test_an_internal_name_is_detected() -> None:
    """Also as an attribute of its module, and under another name."""
    sources = [
        "from tunesmith_torch.kernels.tree_attention import register",
        "from tunesmith_torch.kernels import tree_attention\ntree_attention.register()",
        "from tunesmith_torch.kernels import tree_attention as t\ndef f():\n    t.register()",
        "import tunesmith_torch.kernels.tree_attention\n"
        "tunesmith_torch.kernels.tree_attention.register_tree_attention()",
        "from tunesmith_data.near_duplicates.search import cluster_texts",
        "from tunesmith_data import nothing",
    ]
    for source in sources:
        assert len(internal_names(ast.parse(source), "tunesmith_plugins.x")) == 1, source
    fine = [
        "from tunesmith_data import RowLoader, guess_columns",
        "from tunesmith_torch.runtime import distributed\ndistributed.is_rank_0()",
        "from tunesmith.storage.atomic import anything",
    ]
    for source in fine:
        assert not internal_names(ast.parse(source), "tunesmith_plugins.x"), source
    own = ast.parse("from tunesmith_torch.kernels.tree_attention import register")
    assert not internal_names(own, "tunesmith_torch.training.loop")


def imported_packages(module: str) -> set[str]:
    """Return the packages that a module imports, anywhere in its source."""
    return {target.partition(".")[0] for target, _, _ in imports(parsed(modules()[module]))}


def own_libraries(project: Path) -> set[str]:
    """Return the packages that a distribution in contrib/ needs besides this one."""
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = table.get("optional-dependencies", {})
    texts = [
        *table["dependencies"],
        *(t for name in groups if name != "dev" for t in groups[name]),
    ]
    names = {re.split(r"[^A-Za-z0-9._-]", text)[0].replace("-", "_") for text in texts}
    return names - {"tunesmith"}


def test_contrib_depends_on_the_core_and_the_toolkits_alone() -> None:
    """Not on a built-in plugin, and on another distribution in contrib/ only as an extra."""
    assert CONTRIB
    found = [
        f"{module}: {other}"
        for module in modules()
        if (own := module.partition(".")[0]) in CONTRIB
        for other in imported_packages(module) & {PLUGINS, *CONTRIB}
        if other != own and other not in own_libraries(CONTRIB[own])
    ]
    assert not found, "\n".join(found)


def test_nothing_here_imports_contrib_or_what_it_needs() -> None:
    """Neither core nor plugins import, say, TRL: it belongs to tunesmith-trl."""
    theirs = {*CONTRIB, *(name for project in CONTRIB.values() for name in own_libraries(project))}
    assert {"tunesmith_trl", "trl", "vllm"} <= theirs
    found = [
        f"{module}: {other}"
        for module in modules()
        if module.partition(".")[0] not in CONTRIB
        for other in imported_packages(module) & theirs
    ]
    assert not found, "\n".join(found)


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public functions and classes of a module that have no docstring."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def test_public_functions_and_classes_are_documented() -> None:
    """The page on the toolkit is written from their docstrings."""
    found = [
        f"{module}: {', '.join(undocumented(parsed(path)))}"
        for module, path in modules().items()
        if not any(map(is_private, module.split("."))) and undocumented(parsed(path))
    ]
    assert not found, "\n".join(found)


def test_a_function_without_a_docstring_is_seen() -> None:
    source = "def f():\n    pass\nclass C:\n    pass\ndef _f():\n    pass"
    assert undocumented(ast.parse(source)) == ["f", "C"]


# --------------------------------------------------------------------------- packages


def undescribed(name: str, tree: ast.Module) -> str:
    """Return a message if the docstring of a package is not a sentence; "" otherwise."""
    text = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    if len(re.findall(r"\w+", text)) >= 2 and text.endswith((".", ":", "::")):
        return ""
    return f"{name}: its docstring is {text!r}"


def test_every_package_has_a_docstring() -> None:
    found = [
        undescribed(module, parsed(path))
        for module, path in modules().items()
        if path.name == "__init__.py"
    ]
    assert not list(filter(None, found)), "\n".join(filter(None, found))


def test_a_package_without_a_docstring_is_detected() -> None:
    for text in ("", "import os", '"""Statistics"""', '"""Utilities."""'):
        assert undescribed("x", ast.parse(text))
    assert not undescribed("x", ast.parse('"""Built-in reporters."""'))


def crowded(files: Mapping[str, Path]) -> dict[str, int]:
    """Return the folders that hold too many modules, with their number."""
    counts: dict[str, int] = {}
    for path in files.values():
        counts[str(path.parent)] = counts.get(str(path.parent), 0) + 1
    return {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def test_no_folder_has_too_many_modules() -> None:
    assert not crowded(modules())


def test_a_folder_with_too_many_modules_is_detected() -> None:
    files = {f"m{n}": Path("a", f"m{n}.py") for n in range(MOST_MODULES)}
    assert not crowded(files)
    assert crowded({**files, "one more": Path("a", "b.py")}) == {"a": MOST_MODULES + 1}


# --------------------------------------------------------------------------- cycles


def import_graph(sources: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return for every module the modules that it imports, anywhere in its source.

    ``from package import name`` is an import of the module ``package.name`` where there is one,
    else of the package. That Python also runs the packages above a module is left out: a package
    that re-exports its own modules would be a circle of every two of them.
    """
    graph: dict[str, set[str]] = {}
    for module, tree in sources.items():
        targets = {
            f"{target}.{name}" if f"{target}.{name}" in sources else target
            for target, name, _ in imports(tree)
        }
        graph[module] = {target for target in targets if target in sources} - {module}
    return graph


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], order[target])
        if lowest[node] == order[node]:
            index = stack.index(node)
            component = stack[index:]
            del stack[index:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def test_there_is_no_import_cycle() -> None:
    graph = import_graph({module: parsed(path) for module, path in modules().items()})
    assert sum(map(len, graph.values())) > 500, "the imports are not found any more"
    assert not cycles(graph), "\n".join(" <-> ".join(cycle) for cycle in cycles(graph))


def test_an_import_cycle_is_detected() -> None:
    """Also one that is closed inside a function or under TYPE_CHECKING."""
    first = "from p import b"
    closing = [
        "import p.a",
        "from p.a import name",
        "def f():\n    from p import a",
        "if TYPE_CHECKING:\n    from p.a import Name",
        "class C:\n    def f(self):\n        import p.a",
    ]
    for source in closing:
        sources = {"p": "", "p.a": first, "p.b": source}
        graph = import_graph({name: ast.parse(text) for name, text in sources.items()})
        assert cycles(graph) == [["p.a", "p.b"]], source
    straight = {"p": "from p.a import x", "p.a": first, "p.b": "import os"}
    graph = import_graph({name: ast.parse(text) for name, text in straight.items()})
    assert graph == {"p": {"p.a"}, "p.a": {"p.b"}, "p.b": set()}
    assert not cycles(graph)


def test_separate_import_cycles_are_distinguished() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(cycles(graph)) == [["a", "b", "c"], ["d", "e"]]


# --------------------------------------------------------------------------- tests of modules


def defining_module(module: str, name: str) -> str:
    """Return the module that an import gets its name from, seen through a package's re-exports."""
    if f"{module}.{name}" in modules():
        return f"{module}.{name}"
    if module in modules() and modules()[module].name == "__init__.py":
        for source, exported, _ in imports(parsed(modules()[module])):
            if exported == name and source != module:
                return defining_module(source, name)
    return module


def untested(trees: Iterator[ast.Module]) -> list[str]:
    """Return the public modules of core, toolkits and contrib/ that no test imports."""
    imported = {
        defining_module(module, name) for tree in trees for module, name, _ in imports(tree)
    }
    return [
        module
        for module, path in modules().items()
        if path.name != "__init__.py"
        and module.partition(".")[0] != PLUGINS
        and not any(part.startswith("_") for part in module.split("."))
        and module not in imported
    ]


def test_every_module_is_imported_by_a_test() -> None:
    files = [*sorted(TESTS.rglob("*.py")), *sorted(ROOT.glob("contrib/*/tests/**/*.py"))]
    found = untested(map(parsed, files))
    listed = [module for group in TESTED_THROUGH.values() for module in group]
    missing = [module for module in found if module not in listed]
    assert not missing, "no test imports:\n" + "\n".join(missing)
    outdated = [module for module in listed if module not in found]
    assert not outdated, "a test imports these now, take them off:\n" + "\n".join(outdated)


def test_listed_tests_import_their_modules() -> None:
    """Every test file of the list imports, over any number of modules, what it is listed for."""
    graph = import_graph({module: parsed(path) for module, path in modules().items()})
    for test, expected in TESTED_THROUGH.items():
        tree = parsed(ROOT / test)
        start = {defining_module(module, name) for module, name, _ in imports(tree)}
        unreached = set(expected) - reachable(graph, start & graph.keys())
        assert not unreached, f"{test} does not import {', '.join(sorted(unreached))}"


def reachable(graph: Mapping[str, set[str]], start: set[str]) -> set[str]:
    """Return the nodes to which a path leads from the given ones, these included."""
    found: set[str] = set()
    queue = list(start)
    while queue:
        node = queue.pop()
        if node not in found:
            found.add(node)
            queue += graph[node]
    return found


def test_a_module_without_a_test_is_detected() -> None:
    module = "tunesmith.storage.checkpoints"
    assert module in untested(iter([ast.parse("import tunesmith.storage.atomic")]))
    for source in (f"import {module}", f"from {module} import Checkpoints"):
        assert module not in untested(iter([ast.parse(source)])), source
    through_package = ast.parse("from tunesmith.storage import Checkpoints")
    assert module not in untested(iter([through_package]))
