"""Build what a release consists of, check it, and install it in empty environments.

``python -m tests.release`` writes the wheels and the source distribution to ``dist`` and prints a
table of all checks. ``--only NAME`` installs one distribution of ``contrib``, ``--no-install`` none
at all. It needs an index for the requirements, and asks it for none of our own names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent / "fixtures" / "python"))

from environment import Environment
from wheels import ROOT, build_wheels, find_faults

DIST = ROOT / "dist"
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "core/requirements.txt")
NOT_HERE = ("No matching distribution", "Could not find a version", "ResolutionImpossible")
"""What pip prints if there is no version of a requirement for this machine."""


class NotHere(Exception):
    """A requirement cannot be installed on this machine."""


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


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program; raise an error with the end of its output if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    require(done.returncode == 0, output.strip()[-800:])
    return done.stdout


# --------------------------------------------------------------------------- build and check


def build(projects: list[Path]) -> str:
    """Build all wheels and the source distribution of tunesmith."""
    rmtree(DIST, ignore_errors=True)
    wheels = build_wheels(projects, DIST)
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(DIST))
    changed = run("git", "status", "--porcelain").splitlines()
    note = f"; NOT from a clean checkout: {len(changed)} changes" if changed else ""
    return f"{len(wheels)} wheels and a source distribution in {DIST}{note}"


def check_wheel(wheel: Path) -> str:
    faults = list(find_faults(wheel))
    require(not faults, "; ".join(faults))
    files = len(zipfile.ZipFile(wheel).namelist())
    return f"{wheel.stat().st_size / 1000:,.0f} kB, {files} files"


def check_sdist(sdist: Path, wheel: Path, folder: Path) -> str:
    """Check that it has everything, and that the same wheel can be built from it."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (project,) = folder.iterdir()
    missing = [name for name in IN_SDIST if not (project / name).is_file()]
    require(not missing, f"it lacks {', '.join(missing)}")
    unwanted = [p for p in project.rglob("*") if p.name in (".venv", ".git", "__pycache__")]
    require(not unwanted, f"it has {unwanted[:3]}")
    (rebuilt,) = build_wheels([project], folder / "wheels")
    names = [set(zipfile.ZipFile(path).namelist()) for path in (wheel, rebuilt)]
    require(names[0] == names[1], f"its wheel differs: {sorted(names[0] ^ names[1])[:5]}")
    return f"{sdist.stat().st_size / 1000:,.0f} kB; the wheel built from it has the same files"


# --------------------------------------------------------------------------- install and try


def pip_install(environment: Environment, *arguments: str | Path) -> None:
    """Install from the index. A name of ours can only come from the files that are given."""
    command = [sys.executable, "-m", "pip", "--python", str(environment.python)]
    command += ["--disable-pip-version-check", "install", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=DIST, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    if done.returncode and any(text in done.stderr for text in NOT_HERE):
        raise NotHere(errors[0] if errors else done.stderr[-300:])
    require(done.returncode == 0, done.stderr.strip()[-800:])


def smoke(environment: Environment, distribution: str, folder: Path) -> str:
    """Import the plugins of a distribution, and run the conformance kit on a third party's."""
    environment.variables["TUNESMITH_CACHE"] = str(environment.folder / "cache")
    done = environment.tunesmith("plugins", "list", "--json", cwd=folder)
    require(done.returncode == 0, done.stderr[-500:])
    plugins = json.loads(done.stdout)["plugins"]
    own = [plugin for plugin in plugins if plugin["distribution"] == distribution]
    broken = [f"{p['full_name']}: {p['reason']}" for p in plugins if p["state"] != "active"]
    require(own and not broken, "; ".join(broken) or f"{distribution} has no plugin")
    missing = {text for p in own for about in (p, *p["offers"]) for text in about["missing"]}
    detail = f"{len(own)} plugins load"
    if distribution == "tunesmith":
        return f"{detail}; {len(missing)} optional or missing requirements"
    require(not missing, "; ".join(sorted(missing)))
    for plugin in own:
        done = environment.tunesmith("plugins", "check", plugin["full_name"], cwd=folder)
        require(done.returncode == 0, done.stderr[-500:])
        detail += f"; {plugin['name']}: {done.stderr.strip().splitlines()[-1]}"
    return detail


def try_light(wheel: Path, folder: Path) -> str:
    """Try the wheel with its light requirements alone."""
    environment = Environment.create(folder / "venv", only=())
    pip_install(environment, "--no-deps", wheel)
    pip_install(environment, "--requirement", ROOT / "core" / "requirements.txt")
    return smoke(environment, "tunesmith", folder)


def try_whole(wheel: Path, folder: Path) -> str:
    """Try the wheel with all of its requirements; the environment stays for those of contrib."""
    environment = Environment.create(folder / "whole", only=())
    pip_install(environment, wheel)
    done = environment.tunesmith("example", "repairs", "example", cwd=folder)
    require(done.returncode == 0, done.stderr[-500:])
    return smoke(environment, "tunesmith", folder)


def try_contrib(wheel: Path, project: Path, folder: Path) -> str:
    """Try a distribution of contrib in a copy of the environment that has tunesmith alone."""
    environment = Environment(folder / "venv")
    copytree(folder.parent / "whole", environment.folder, symlinks=True, copy_function=os.link)
    pip_install(environment, wheel)
    return smoke(environment, project.name, folder)


def main() -> int:
    """Run all steps."""
    projects = [path.parent for path in sorted(ROOT.glob("contrib/*/pyproject.toml"))]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=[path.name for path in projects])
    parser.add_argument("--no-install", action="store_true")
    options = parser.parse_args()
    progress = Progress()
    if not progress.run("build", lambda: build([ROOT, *projects])):
        return progress.print_table()
    wheels = {path.name.split("-")[0].replace("_", "-"): path for path in DIST.glob("*.whl")}
    own = wheels["tunesmith"]
    for name, wheel in sorted(wheels.items()):
        progress.run(f"check the wheel of {name}", lambda wheel=wheel: check_wheel(wheel))
    with TemporaryDirectory(prefix="tunesmith-release-") as temporary:
        folder = Path(temporary)
        for name in ("sdist", "light", *wheels):
            (folder / name).mkdir()
        (sdist,) = DIST.glob("*.tar.gz")
        progress.run("check the sdist", lambda: check_sdist(sdist, own, folder / "sdist"))
        if options.no_install:
            return progress.print_table()
        progress.run("install with light requirements", lambda: try_light(own, folder / "light"))
        if progress.run("install tunesmith", lambda: try_whole(own, folder)):
            for project in projects:
                if options.only is None or project.name in options.only:
                    place = folder / project.name

                    def work(project: Path = project, place: Path = place) -> str:
                        return try_contrib(wheels[project.name], project, place)

                    progress.run(f"install {project.name}", work)
                    rmtree(place)
    return progress.print_table()


if __name__ == "__main__":
    sys.exit(main())
