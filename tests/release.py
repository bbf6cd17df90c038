"""Build what a release consists of, check it, and install it in empty environments.

``python -m tests.release`` writes the wheels and the source distribution to ``dist`` and prints a
table of all checks. ``--only NAME`` installs one distribution of ``contrib``, ``--no-install`` none
at all. It needs an index for the requirements, and asks it for none of our own names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from tests.installed import (
    Installed,
    Progress,
    list_missing,
    list_projects,
    load_plugins,
    name_wheels,
    pip_install,
    require,
    try_all,
)

sys.path.insert(0, str(Path(__file__).parent / "fixtures" / "python"))

from environment import Environment
from wheels import ROOT, build_wheels, find_faults

DIST = ROOT / "dist"
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "core/requirements.txt")


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


def try_light(wheel: Path, folder: Path) -> str:
    """Try the wheel with its light requirements alone."""
    environment = Environment.create(folder / "venv", only=())
    pip_install(environment, "--no-deps", wheel)
    pip_install(environment, "--requirement", ROOT / "core" / "requirements.txt")
    plugins = load_plugins(environment, "tunesmith", folder)
    missing = list_missing(plugins)
    return f"{len(plugins)} plugins load; {len(missing)} optional or missing requirements"


def main() -> int:
    """Run all steps."""
    projects = list_projects()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=[path.name for path in projects])
    parser.add_argument("--no-install", action="store_true")
    options = parser.parse_args()
    progress = Progress()
    if not progress.run("build", lambda: build([ROOT, *projects])):
        return progress.print_table()
    wheels = name_wheels(DIST)
    own = wheels["tunesmith"]
    for name, wheel in sorted(wheels.items()):
        progress.run(f"check the wheel of {name}", lambda wheel=wheel: check_wheel(wheel))
    with TemporaryDirectory(prefix="tunesmith-release-") as temporary:
        folder = Path(temporary)
        (sdist,) = DIST.glob("*.tar.gz")
        progress.run("check the sdist", lambda: check_sdist(sdist, own, folder / "sdist"))
        if options.no_install:
            return progress.print_table()
        progress.run("install with light requirements", lambda: try_light(own, folder / "light"))
        chosen = [path for path in projects if options.only is None or path.name in options.only]
        try_all(progress, Installed(folder / "installed", write=False), wheels, chosen)
    return progress.print_table()


if __name__ == "__main__":
    sys.exit(main())
