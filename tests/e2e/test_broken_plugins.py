"""Broken plugins, installed beside the run: each is named, and the run that can go on does.

The plugins are distributions as pip leaves them. The runs train the n-gram model of the kit, so
that each takes a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from distributions import Site

from tunesmith.testing import ngram
from tunesmith.testing.examples import PAIRS

pytestmark = pytest.mark.environment

RUN = """
[model]
base = "base"
{more}
[data]
{data}

[technique]
{technique}

[baselines]
use = []
{tables}
"""
HEADER = """
import json, os, signal, sys, time
from tunesmith.contracts import *
from tunesmith.errors import *
from tunesmith.events import *
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import *
from tunesmith.options import Options
from tunesmith.records import *
from tunesmith.testing.ngram import Ngram, NgramOptions
"""
EVALUATOR = (
    HEADER
    + """
class Odd:
    def measure(self, model, records):
        values = tuple(float(n) for n, _ in enumerate(records))
        {body}
        return [Measurement(metric="odd", values=values)]

@hookimpl
def tunesmith_evaluators():
    return [EvaluatorOffer(name="odd", summary="odd", config=Options, build=lambda options: Odd(),
                           metrics=(Metric(name="odd", higher_is_better=True),))]
"""
)
REPORTER = (
    HEADER
    + """
class Odd:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def report(self, event):
        {body}

@hookimpl
def tunesmith_reporters():
    return [ReporterOffer(name="odd", summary="odd", config=Options,
                          build=lambda options, folder: Odd())]
"""
)
LOADER = (
    HEADER
    + """
class Odd:
    def load(self):
        rows = [Completion(source=f"r:{{n}}", prompt=f"{{n}}?", completion="x") for n in range(40)]
        {body}
        return Dataset(train=rows)

@hookimpl
def tunesmith_data_loaders():
    return [DataLoaderOffer(name="odd", summary="odd", config=Options, build=lambda options: Odd())]
"""
)
TECHNIQUE = (
    HEADER
    + """
class Odd(Ngram):
    def train(self, job):
        {body}
        return super().train(job)

@hookimpl
def tunesmith_techniques():
    return [TechniqueOffer(name="odd", summary="odd", config=NgramOptions, build=Odd,
                           accepts=frozenset({{Chat, Completion}}){more})]
"""
)
REVIEW = (
    HEADER
    + """
@hookimpl
def tunesmith_review_plan(plan):
    {body}
    return []
"""
)


@dataclass(frozen=True)
class Case:
    """A broken plugin, a run that may need it, and what must come of that."""

    source: str
    exit_code: int = 0
    texts: tuple[str, ...] = ()
    """Texts that the messages of the run must have; ``~`` before those that it must not have."""
    uses: str = ""
    """Table of the run that uses the component ``odd``."""
    api: str = "1"
    listed: str = "active"
    files: dict[str, str] = field(default_factory=dict)
    """Content of files of the distribution's metadata that replaces the valid one."""


def evaluator(body: str, *texts: str, exit_code: int = 8) -> Case:
    return Case(EVALUATOR.format(body=body), exit_code, texts, uses="evaluators")


def reporter(body: str, *texts: str) -> Case:
    return Case(REPORTER.format(body=body), 0, texts, uses="reporters")


def loader(body: str, *texts: str) -> Case:
    return Case(LOADER.format(body=body), 8, texts, uses="data")


def technique(body: str, *texts: str, more: str = "", exit_code: int = 8) -> Case:
    return Case(TECHNIQUE.format(body=body, more=more), exit_code, texts, uses="technique")


NAMED = '"tunesmith-odd:odd"'
CASES: dict[str, Case] = {
    "import error": Case("import a_library_that_is_nowhere", listed="broken"),
    "import error of what is needed": Case(
        "import a_library_that_is_nowhere", 8, (NAMED, "a_library_that_is_nowhere"),
        uses="technique", listed="broken",
    ),
    "syntax error": Case("def odd(:", listed="broken"),
    "exits when it is imported": Case("import sys; sys.exit(0)", listed="broken"),
    "a requirement is missing": technique(
        "pass", "no-such-thing>=1 is not installed", more=", needs=('no-such-thing>=1',)",
        exit_code=4,
    ),
    "wrong argument of a hook": Case(
        HEADER + "@hookimpl\ndef tunesmith_evaluators(plan):\n    return []\n", listed="broken"
    ),
    "unknown hook": Case(
        HEADER + "@hookimpl\ndef tunesmith_evaluator():\n    return []\n", listed="broken"
    ),
    "reporter raises": reporter(
        "raise KeyError('key')", 'reporter "odd" failed: KeyError', "it is muted",
    ),
    "reporter exits": reporter("sys.exit(3)", 'reporter "odd" failed: SystemExit'),
    "reporter changes the environment": reporter(
        "os.environ['ODD'] = str(len(os.environ))", "changed the environment variable ODD",
    ),
    "technique raises": technique(
        "raise ValueError('odd rows')", f"{NAMED} 1.0", "ValueError: odd rows",
    ),
    "technique exits": technique("sys.exit(0)", NAMED, "SystemExit"),
    "technique returns nothing": technique(
        "super().train(job); return None", NAMED, "Artifact",
    ),
    "loader raises": loader("raise ValueError('odd file')", NAMED, "ValueError: odd file"),
    "loader exits at once": loader("os._exit(0)", NAMED, "os._exit(0)"),
    "technique exits at once": technique("os._exit(0)", NAMED, "os._exit(0)"),
    "reporter exits at once": reporter("os._exit(0)", 'reporter "odd" failed', "os._exit(0)"),
    "exits at once when it is imported": Case("import os; os._exit(0)", listed="broken"),
    "loader returns a list": loader("return rows", NAMED, "list"),
    "loader yields": loader("yield rows", NAMED, "generator"),
    "loader returns dictionaries": loader("rows = [{} for _ in rows]", NAMED),
    "evaluator exits": evaluator("sys.exit(0)", NAMED, "SystemExit"),
    "evaluator returns nothing": evaluator("return None", NAMED),
    "evaluator loses a row": evaluator("values = values[1:]", NAMED),
    "value is not a number": evaluator("values = (float('nan'), *values[1:])", NAMED),
    "evaluator changes a record": evaluator(
        "object.__setattr__(records[0], 'completion', 'x')", NAMED, "record",
    ),
    "evaluator changes the folder": evaluator(
        "os.chdir('/')", "changed the current folder", exit_code=0,
    ),
    "evaluator changes the log": evaluator(
        "import logging; logging.basicConfig(level=0, force=True)", "changed the root logger",
        exit_code=0,
    ),
    "evaluator changes signals": evaluator(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "changed the signal handlers",
        exit_code=0,
    ),
    "review raises": Case(REVIEW.format(body="1 / 0"), 0, ("tunesmith-odd:odd", "ZeroDivision")),
    "review exits": Case(REVIEW.format(body="sys.exit(1)"), 0, ("tunesmith-odd:odd", "SystemExit")),
    "review returns a text": Case(REVIEW.format(body="return 'odd'"), 0, ("tunesmith-odd:odd",)),
    "offers are of a wrong type": Case(
        HEADER + "@hookimpl\ndef tunesmith_evaluators():\n    return ['odd']\n",
        8, (NAMED,), uses="evaluators", listed="broken",
    ),
    "offers are a coroutine": Case(
        HEADER + "@hookimpl\nasync def tunesmith_evaluators():\n    return []\n",
        8, (NAMED,), uses="evaluators", listed="broken",
    ),
    "the name of a built-in": Case(
        EVALUATOR.format(body="pass").replace('name="odd", summary', 'name="exact-match", summary'),
        2, ('"tunesmith-odd:exact-match" or "tunesmith:exact-match"',), uses="exact-match",
    ),
    "another version of the plugin API": Case(
        EVALUATOR.format(body="pass"), 0, api="99", listed="broken"
    ),
    "no version": Case(
        EVALUATOR.format(body="pass"), files={"METADATA": "Metadata-Version: 2.1\n"}, listed="any"
    ),
    "metadata is no text": Case(
        EVALUATOR.format(body="pass"), files={"METADATA": "\udcff\udcfe"}, listed="any"
    ),
    "entry point is no name": Case(
        EVALUATOR.format(body="pass"), files={"entry_points.txt": "[tunesmith]\nodd = 1 2 3\n"},
        listed="any",
    ),
    "entry points are no list": Case(
        EVALUATOR.format(body="pass"), files={"entry_points.txt": "\0[[tunesmith\nodd"},
        listed="any",
    ),
}  # fmt: skip


@dataclass
class Workplace:
    """A folder with data, a base model and installed plugins."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "site").mkdir()
        self.site = Site(self.folder / "site")
        ngram.save_ngram_model(self.folder / "base")
        rows = [{"prompt": f"{n}: {c}?", "completion": a} for n in range(3) for c, a in PAIRS]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / "rows.jsonl").write_text(text, encoding="utf-8")

    def write_run(self, uses: str) -> None:
        """Write a run file that uses the component ``odd`` in a table, or a run without it."""
        odd = 'use = "odd"\n'
        lists = {
            "evaluators": f"[[evaluators]]\n{odd}",
            "exact-match": '[[evaluators]]\nuse = "exact-match"\n',
            "reporters": f'[[reporters]]\n{odd}[[reporters]]\nuse = "console"\n',
        }
        text = RUN.format(
            more="",
            data=odd if uses == "data" else 'train = "rows.jsonl"',
            technique=odd if uses == "technique" else 'use = "ngram"',
            tables=lists.get(uses, ""),
        )
        (self.folder / "run.toml").write_text(text, encoding="utf-8")

    def tunesmith(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tunesmith", "--plugin", ngram.__file__, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(self.folder / "site"), *filter(None, sys.path)]),
                "TUNESMITH_CACHE": str(self.folder / "cache"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_a_broken_plugin_is_named_and_harms_nothing_else(name: str, workplace: Workplace) -> None:
    case = CASES[name]
    workplace.site.add("odd", case.source, api=case.api)
    for file, content in case.files.items():
        (info,) = workplace.site.folder.glob("tunesmith_odd-*.dist-info")
        (info / file).write_text(content, encoding="utf-8", errors="surrogateescape")
    workplace.write_run(case.uses)
    done = workplace.tunesmith("run", "run.toml", "--out", "out")
    output = done.stdout + done.stderr
    assert done.returncode == case.exit_code, output
    assert "Traceback" not in output
    for text in case.texts:
        assert text in output, output
    if done.returncode == 0:
        assert (workplace.folder / "out" / "report.json").is_file()
    listed = workplace.tunesmith("plugins", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    states = {p["name"]: p["state"] for p in json.loads(listed.stdout)["plugins"]}
    assert states["lora"] == "active"
    assert case.listed == "any" or states["odd"] == case.listed


def test_what_a_plugin_prints_does_not_precede_json(workplace: Workplace) -> None:
    workplace.site.add("odd", REVIEW.format(body="print('reviewing')") + "\nprint('importing')\n")
    workplace.write_run("")
    done = workplace.tunesmith("check", "run.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "tunesmith.check/2"
    assert "importing" in done.stderr and "reviewing" in done.stderr


def test_a_list_of_entry_points_that_cannot_be_read_ends_no_command(workplace: Workplace) -> None:
    workplace.site.add("odd", EVALUATOR.format(body="pass"))
    (info,) = workplace.site.folder.glob("tunesmith_odd-*.dist-info")
    (info / "entry_points.txt").write_bytes(b"\xff\xfe")
    workplace.write_run("")
    assert "usage:" in workplace.tunesmith("--help").stdout.lower()
    assert workplace.tunesmith("run", "run.toml", "--out", "out").returncode == 0
    listed = workplace.tunesmith("plugins", "list")
    assert listed.returncode == 0 and f"{info}/entry_points.txt cannot be read" in listed.stdout
    workplace.write_run("evaluators")
    refused = workplace.tunesmith("check", "run.toml")
    assert refused.returncode == 2 and f"{info}/entry_points.txt" in refused.stderr


def test_a_plugin_that_hangs_when_it_is_imported_is_named(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_HOOK_SECONDS", "0.5")
    workplace.site.add("odd", HEADER + "while True: time.sleep(1)\n")
    workplace.write_run("evaluators")
    done = workplace.tunesmith("check", "run.toml")
    assert done.returncode == 8
    assert "did not finish within 0.5 s" in done.stderr and "tunesmith-odd:odd" in done.stderr


def test_an_upgraded_plugin_is_noticed_when_a_run_is_resumed(workplace: Workplace) -> None:
    fails = (
        'if not (job.out / "again").exists(): (job.out / "again").touch(); raise OSError("full")'
    )
    source = TECHNIQUE.format(body=fails, more="")
    workplace.site.add("odd", source)
    workplace.write_run("technique")
    assert workplace.tunesmith("run", "run.toml", "--out", "out").returncode == 8
    workplace.site.add("odd", source, version="2.0")
    refused = workplace.tunesmith("resume", "out", "--trust-plugins")
    assert refused.returncode == 2 and "tunesmith-odd" in refused.stderr, refused.stderr
    assert "2.0" in refused.stderr
    accepted = workplace.tunesmith("resume", "out", "--trust-plugins", "--accept-changes")
    assert accepted.returncode == 0, accepted.stderr
