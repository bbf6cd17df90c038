"""Write the reference pages from the code: ``python docs/generate.py``.

``tests/contract/test_docs.py`` fails if a committed page differs from the output of this script.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tunesmith import api, hookspecs
from tunesmith.estimates import Assumptions
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
from generator.run_file import run_file  # noqa: E402
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
        "explanation/planner.md": planning(),
        f"../{DIRECTORY}": directory(HERE.parent / "contrib"),
        "../contrib/README.md": NOTE + "\n".join(contrib()),
    }


def built_pages() -> dict[str, str]:
    """Return the pages that are too long to commit, by their path below docs/."""
    return {"reference/toolkit.md": NOTE + "\n".join(toolkit())}


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
    """Return the page on the planner, with its table of rules of thumb computed by the planner."""
    page = (HERE / "explanation" / "planner.md").read_text(encoding="utf-8")
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
    yield from _tested()
    yield (
        "`make test-contrib` tests each distribution in its own environment. A new distribution "
        "needs:\n\n"
        "- a `pyproject.toml` with a version range for tunesmith and an extra `dev`\n"
        "- sources below `src/`\n"
        "- tests that run the conformance kit\n"
        "- a README.md with a run file, which a test runs\n"
        "- in `[tool.tunesmith.readme]` of its `pyproject.toml`, the commands of the README that "
        "`make test-wheels` runs, if these are others than `tunesmith run run.toml`\n"
    )


def _tested() -> Iterator[str]:
    """Yield the results of the newest trial of each wheel, which ``tests.installed`` recorded."""
    yield "## Tested versions\n"
    yield (
        "`make test-wheels` builds each distribution as a wheel and installs it with its "
        "requirements in an empty environment. In a folder outside of the checkout, it runs the "
        "conformance kit on its plugins, and then commands of its README with a tiny model. "
        "`python -m tests.installed --write` records the results. The versions are those of the "
        "direct requirements, and of packages that these made pip change.\n"
    )
    yield "| distribution | date | Python | tested with | conformance kit | README | not shown |"
    yield "|---|---|---|---|---|---|---|"
    folder = HERE.parent / "contrib"
    tested = json.loads((folder / "tested.json").read_text(encoding="utf-8"))
    names = [path.parent.name for path in sorted(folder.glob("*/pyproject.toml"))]
    for name in ("tunesmith", *names):
        if name in tested:
            about = tested[name]
            versions = ", ".join(f"{package} {v}" for package, v in about["packages"].items())
            cells = [f"{name} {about['version']}", about["date"], about["python"], versions]
            cells += [about["kit"], about["readme"], about["not_shown"]]
        else:
            cells = [name, "not tried yet", *[""] * 5]
        yield f"| {' | '.join(cells)} |"
    yield ""


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
