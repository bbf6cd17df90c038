"""The documentation is correct: reference pages match the code, examples run, links exist."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from tunesmith.events import EVENT_TYPES
from tunesmith.offers import RUN_FILE_TABLES
from tunesmith_cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUILT = [DOCS / "reference" / "toolkit.md"]
"""Pages that ``docs/generate.py`` and the site's build write, and that are not committed."""
CONTRIB_TABLES = {
    "adapters", "cloud", "monitor", "ray", "regulated", "remote", "retention", "slurm", "tune",
}  # fmt: skip
"""Tables of the run file that distributions in contrib/ own."""
CONTRIB_COMMANDS = {
    "ab", "adapters", "audit", "bom", "classifier", "continue", "dashboard", "data ablate",
    "data card", "data generate", "inspect-log", "mcp", "monitor", "peft", "ray", "remote",
    "retrain", "slurm", "submit", "tune", "vision",
}  # fmt: skip
"""Commands of distributions in contrib/, whose own tests parse them."""
CONTRIB_PAGES = [ROOT / "contrib" / "README.md", *sorted(ROOT.glob("contrib/*/*.md"))]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "RELEASING.md",
    ROOT / "SECURITY.md",
    *sorted({*DOCS.rglob("*.md")} - {*BUILT}),
    *CONTRIB_PAGES,
]
CODE_PAGES = [
    ROOT / "CONTRIBUTING.md",
    DOCS / "explanation" / "architecture.md",
    DOCS / "explanation" / "glossary.md",
]
"""Pages whose dotted names and paths in backticks are names of the code."""
PLAYED = [page for page in PAGES if re.search(r'^```\w+ title="', page.read_text(), re.MULTILINE)]
"""Guides, whose commands are run: ``test_guides.py`` and ``test_installed_guides.py``."""
OTHER_PROGRAMS = {
    "cd", "chromium", "curl", "export", "git", "hf", "llama-server", "lm_eval", "ln", "mkdir",
    "ollama", "openssl", "pip", "source", "vllm",
}  # fmt: skip
"""Programs in console blocks that are not checked."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date() -> None:
    for name, text in generator().pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, (
            f"docs/{name} is out of date: python docs/generate.py"
        )


def test_the_section_of_a_component_names_all_its_keys() -> None:
    """Keys that several components share are described elsewhere, but named in each section."""
    from tunesmith import plugins
    from tunesmith.catalog import Catalog
    from tunesmith.offers import DataLoaderOffer, EvaluatorOffer, TechniqueOffer
    from tunesmith.options import fields_by_key

    catalog = Catalog(plugins.find_plugins(plugins.Selection(allowed=frozenset())))
    page = (DOCS / "reference" / "run-file.md").read_text(encoding="utf-8")
    kinds = {"[data]": DataLoaderOffer, "[technique]": TechniqueOffer}
    for where, kind in {**kinds, "[[evaluators]]": EvaluatorOffer}.items():
        part = page.partition(f": `{where}`\n")[2].partition("\n## ")[0]
        for offer in (offered.offer for offered in catalog.offers(kind)):
            section = part.partition(f'### `use = "{offer.name}"`\n')[2].partition("\n### ")[0]
            named = set(re.findall(r"`(?:\[[\w.]+\.)?(\w+)\]?`", section))
            assert fields_by_key(offer.config).keys() <= named, offer.name


def test_pages_that_are_built_are_listed() -> None:
    assert [DOCS / name for name in generator().built_pages()] == BUILT


def test_every_field_of_an_event_has_a_sentence() -> None:
    page = (DOCS / "reference" / "events.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `([a-z-]+)`$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    for kind, cls in EVENT_TYPES.items():
        if cls.__module__ == "tunesmith.events":
            described = re.findall(
                r"^- `(\w+): [^\n]*\\\n  (?=\S.*\.$)", sections[kind], re.MULTILINE
            )
            assert described == [field.name for field in dataclasses.fields(cls)], kind


def test_the_commands_of_contrib_are_listed() -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    listed = re.findall(r"`tunesmith ([\w -]+)`", page.rpartition("\n## ")[2])
    assert {name if name in CONTRIB_COMMANDS else name.split()[0] for name in listed} == (
        CONTRIB_COMMANDS
    )


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_existing_targets(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    for target, anchor in links:
        if "://" not in target:
            path = (page.parent / target).resolve() if target else page
            assert path.exists() or path in BUILT, f"{page.name} links to {target}"
            if anchor and path.suffix == ".md":
                assert anchor in anchors(path), f"{page.name} links to {target}#{anchor}"


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = re.findall(r"\]\(([^)#]+)\)", (DOCS / "pages.md").read_text(encoding="utf-8"))
    pages = {
        str(path.relative_to(DOCS)) for kind in ("*.md", "*.ipynb") for path in DOCS.rglob(kind)
    }
    pages |= {str(path.relative_to(DOCS)) for path in BUILT}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages - {"pages.md"}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"(\S+\.(?:md|ipynb))$", navigation, re.MULTILINE)) == pages


def test_the_home_page_has_few_links() -> None:
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    assert len(re.findall(r"(?<!!)\[[^\]]+\]\([^)]+\)", home)) <= 12


def test_the_home_page_shows_the_verdict_of_the_readme() -> None:
    (verdict,) = blocks(DOCS / "index.md", "text")
    assert verdict == blocks(ROOT / "README.md", "text")[0]


def test_pictures_are_small_and_shown() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    pictures = {path for path in (DOCS / "pictures").iterdir() if path.suffix in (".png", ".svg")}
    assert pictures <= shown
    assert not [path.name for path in pictures if path.stat().st_size > 150_000]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_blocks_are_valid_toml(page: Path) -> None:
    for block in blocks(page, "toml"):
        tomllib.loads(block)


def test_the_readme_example_is_a_run_file(tmp_path: Path) -> None:
    """Its keys are valid; the model is replaced by a local one."""
    from tunesmith import plugins
    from tunesmith.catalog import Catalog
    from tunesmith.config import read_plan, run_file
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    text = blocks(ROOT / "README.md", "toml")[0]
    (tmp_path / "run.toml").write_text(text)
    (tmp_path / "tickets.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    model = save_tiny_model(tmp_path / "model")
    read = run_file.read_run_file(
        tmp_path / "run.toml", sets=[f"model.base={model}"], environment={}
    )
    plan = read_plan.make_plan(read, Catalog(plugins.find_plugins()))
    assert plan.technique.offer.name == "lora"


@pytest.mark.processes
def test_the_readme_plugin_is_short_and_works(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from tunesmith_cli.app import app
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    (tmp_path / "brief.py").write_text(code)
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_tiny_model(tmp_path / "model")
    settings = next(block for block in blocks(ROOT / "README.md", "toml") if "brief" in block)
    (tmp_path / "run.toml").write_text(
        f'{settings}\n[model]\nbase = "{model}"\n[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\n'
        '[technique]\nuse = "lora"\nmax_steps = 1\n'
    )
    result = CliRunner().invoke(app, ["run", str(tmp_path / "run.toml"), "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert {e["metric"] for e in report["evaluations"]} == {"brief"}


def undocumented(page: str) -> list[str]:
    """Return the functions and methods of a page of signatures that have no text below them."""
    return re.findall(r"^ *- `(?:class )?(\w[\w.]*)\(.*`$", page, re.MULTILINE)


def test_every_public_function_of_the_toolkits_is_documented() -> None:
    """A method that overrides one refers to the class that documents it."""
    (page,) = generator().built_pages().values()
    assert not undocumented(page)
    assert undocumented("- `f(x: int) -> int`\n- `g(y)`\\\n  Do it.\n") == ["f"]


def test_the_page_of_the_toolkits_has_each_public_name_and_no_other() -> None:
    (page,) = generator().built_pages().values()
    parts = re.split(r"^#+ `(tunesmith_[\w.]+)`$", page, flags=re.MULTILINE)[1:]
    shown = {
        module: re.findall(r"^- `(?:class )?(\w+)", text, re.MULTILINE)
        for module, text in zip(parts[::2], parts[1::2], strict=True)
    }
    public = {}
    for package in ("tunesmith_torch", "tunesmith_data", "tunesmith_evidence"):
        for path in (ROOT / "plugins" / package).rglob("*.py"):
            names = re.search(r"^__all__ = (\[[^\]]*\])", path.read_text("utf-8"), re.MULTILINE)
            parts = path.relative_to(ROOT / "plugins").with_suffix("").parts
            module = ".".join(part for part in parts if part != "__init__")
            public[module] = ast.literal_eval(names[1]) if names else []
    assert {module: names for module, names in shown.items() if names} == {
        module: names for module, names in public.items() if names
    }


# --------------------------------------------------------------------------- commands


def commands(page: Path) -> list[list[str]]:
    """Return the commands in a page's console blocks, each as a list of words."""
    lines = (line for block in blocks(page, "console") for line in block.splitlines())
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    parts = [part for line in typed for part in line.split(" && ")]
    return [shlex.split(part, comments=True) for part in parts]


def check_command(words: list[str]) -> None:
    """Fail if a command of a console block does not exist or does not have these options."""
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[:2] == ["python", "-m"]:
        module = ROOT.joinpath(*words[2].split("."))
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), words
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), words
    elif words[0].endswith("python"):
        assert (ROOT / words[1]).is_file(), words
    elif words[0] == "tunesmith" and {words[1], " ".join(words[1:3])} & CONTRIB_COMMANDS:
        pass  # not installed here
    elif words[0] == "tunesmith":
        parse(app, words[1:])
    else:
        assert words[0] in OTHER_PROGRAMS, f"unknown program: {words}"


def parse(command: click.Command, words: list[str]) -> None:
    """Parse a command line without running it; subcommands are followed.

    Raises:
        click.UsageError: no such command or option, or an option without its value.
        TunesmithError: no such command.
    """
    context = click.Context(command, obj=None)
    context.allow_interspersed_args = not isinstance(command, click.Group)
    _, rest, _ = command.make_parser(context).parse_args(list(words))
    if isinstance(command, click.Group) and rest:
        _, subcommand, rest = command.resolve_command(context, rest)
        assert subcommand is not None
        parse(subcommand, rest)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in PLAYED], ids=lambda page: page.name
)
def test_console_blocks_hold_commands_that_exist(page: Path) -> None:
    for words in commands(page):
        check_command(words)


@pytest.mark.parametrize(
    "line",
    [
        "tunesmith trian run.toml",
        "tunesmith run run.toml --sett a=b",
        "tunesmith run run.toml --set",
        "tunesmith data annotate --samples 4",
        "make quickstrat",
        "python -m tests.benchmarks.nothing",
        "rm -rf x",
    ],
)
def test_a_wrong_command_fails(line: str) -> None:
    from tunesmith.errors import TunesmithError

    with pytest.raises((click.UsageError, TunesmithError, AssertionError)):
        check_command(shlex.split(line))


# --------------------------------------------------------------------------- run files


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("docs") / "tiny")


def run_files(page: Path) -> Iterator[dict[str, Any]]:
    """Yield the TOML blocks of a page that are run files, or tables of one."""
    known = {*RUN_FILE_TABLES, "advise", "estimate", "lineage", *CONTRIB_TABLES}
    for block in blocks(page, "toml"):
        tables = tomllib.loads(block)
        if tables.keys() <= known:
            yield tables
        elif tables.keys().isdisjoint({"generator", "roles"}):  # not an options or policy file
            assert tables.keys() <= {"gpus", "prices"}, f"{page.name}: {sorted(tables)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_blocks_are_run_files(page: Path, tiny: Path, tmp_path: Path) -> None:
    """Their keys and values are valid. Tables that a block skips are added."""
    import tomli_w

    from tunesmith import api

    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for code in blocks(ROOT / "README.md", "python"):
        (tmp_path / "brief.py").write_text(code)
    for tables in run_files(page):
        is_contrib = page.parent.parent.name == "contrib"
        if is_contrib or not tables.keys().isdisjoint(CONTRIB_TABLES):
            continue  # not installed here; the tests of that distribution run them
        tables.setdefault("technique", {"use": "lora"})
        tables.setdefault("data", {"use": "jsonl", "train": "rows.jsonl"})
        tables["model"] = {"base": str(tiny)}
        (tmp_path / "run.toml").write_text(tomli_w.dumps(tables))
        api.load_plan(tmp_path / "run.toml")


# --------------------------------------------------------------------------- tutorials


@pytest.mark.processes
@pytest.mark.parametrize(
    "page",
    [DOCS / "tutorials" / "first-run.md", ROOT / "README.md", DOCS / "index.md"],
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_run_in_order(
    page: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run as printed; the tiny model has a short context, so the prompts are short."""
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH__MODEL__BASE", str(tiny))
    monkeypatch.setenv("TUNESMITH__TECHNIQUE__MAX_STEPS", "1")
    prompts = ["zero-shot", "random-shots", "retrieved-shots"]
    monkeypatch.setenv("TUNESMITH__BASELINES__USE", json.dumps(prompts))
    monkeypatch.setenv("TUNESMITH__BASELINES__SYSTEM_PROMPT", "Name the queue.")
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(12)]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [words[1:] for words in commands(page) if words[0] == "tunesmith"]
    assert lines[0][0] == "init"
    folder = "RUN"
    for words in lines:
        arguments = [folder if word == "RUN" else word for word in words]
        result = CliRunner().invoke(app, arguments, input="the heating is off\n")
        assert result.exit_code == 0, f"{words}: {result.stderr or result.exception!r}"
        if found := re.search(r"^run folder: (.+)$", result.stdout, re.MULTILINE):
            folder = found[1]
    assert folder != "RUN"


# --------------------------------------------------------------------------- names


def test_tests_that_are_named_exist() -> None:
    """The tests that the page on reliability names exist."""
    page = (DOCS / "explanation" / "reliability.md").read_text(encoding="utf-8")
    files = list((ROOT / "tests").rglob("test_*.py"))
    names = {path.name for path in files} | {str(path.relative_to(ROOT)) for path in files}
    functions = {
        node.name
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    named = re.findall(r"`((?:tests/)?[\w/]*test_\w+(?:\.py)?)`", page)
    assert len(named) > 20
    for name in named:
        assert name in names | functions, f"reliability.md names {name}, which does not exist"


@pytest.mark.parametrize("page", CODE_PAGES, ids=lambda page: page.name)
def test_names_of_the_code_exist(page: Path) -> None:
    """Paths and dotted names in backticks lead to a file, a folder or a definition."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", text)
    for path in (q for q in quoted if re.fullmatch(r"(core|plugins|tests|docs)/[\w./-]*", q)):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    for name in (q for q in quoted if re.fullmatch(r"tunesmith\w*(\.\w+)+", q)):
        assert resolves(name), f"{page.name} names {name}"


def resolves(name: str) -> bool:
    """Return True if a dotted name is a module, or a name in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if part in getattr(found, "model_fields", {}) or part in vars(found).get(
                "__dataclass_fields__", {}
            ):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_an_unknown_name_is_detected() -> None:
    assert resolves("tunesmith.run") and resolves("tunesmith.contracts.Job.train")
    assert not resolves("tunesmith.contracts.Nothing") and not resolves("tunesmith.nothing")


def test_environment_variables_are_documented() -> None:
    from tunesmith_torch.runtime.environment import DEFAULTS

    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    sources = [path for root in ("core", "plugins") for path in (ROOT / root).rglob("*.py")]
    read = {
        name
        for path in sources
        for name in re.findall(r"\bTUNESMITH_[A-Z]+\b", path.read_text(encoding="utf-8"))
    }
    assert read >= {"TUNESMITH_PLUGINS", "TUNESMITH_CACHE"}
    assert not {name for name in read if f"`{name}`" not in page}
    for name, value in DEFAULTS.items():
        assert re.search(rf"^\| `{name}` \|.*\| `{value}` \|", page, re.MULTILINE), name


def test_the_tests_on_the_security_page_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "explanation" / "security.md").read_text()))
    files = (ROOT / "tests").rglob("test_*.py")
    defined = {name for f in files for name in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}
    assert len(named) > 20 and named <= defined, named - defined
