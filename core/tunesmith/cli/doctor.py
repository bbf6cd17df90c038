"""``tunesmith doctor``: is this machine fit to train?"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click

from tunesmith._version import __version__
from tunesmith.catalog import Catalog
from tunesmith.cli import render
from tunesmith.cli.common import State, common_options, json_option, pass_state
from tunesmith.errors import EnvironmentProblem
from tunesmith.execution.versions import versions
from tunesmith.machine import available_memory, available_processors
from tunesmith.offers import DataLoaderOffer, TechniqueOffer
from tunesmith.plugins import missing
from tunesmith.text import bytes_text, count_text, one_line

Level = Literal["ok", "warn", "fail"]
STYLES: dict[Level, str] = {"ok": "good", "warn": "odd", "fail": "bad"}
LOW_MEMORY, LOW_DISK = 4_000_000_000, 5_000_000_000
PATIENCE = 120
"""Seconds that the libraries may take to be imported."""

PROBE = """
import json, sys
try:
    import torch
    found = {"version": torch.__version__, "threads": torch.get_num_threads(), "devices": []}
    for n in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(n)
        found["devices"].append({"name": p.name, "memory": p.total_memory,
                                 "bf16": torch.cuda.is_bf16_supported()})
    if torch.backends.mps.is_available():
        found["devices"].append({"name": "mps", "memory": 0, "bf16": False})
    (torch.ones(2, 2, dtype=torch.bfloat16) @ torch.ones(2, 2, dtype=torch.bfloat16)).sum().item()
except BaseException as error:
    found = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(found))
"""
"""Run in a child process: a torch that crashes on import is a finding, not our end."""


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    level: Level
    subject: str
    said: str


@click.command("doctor")
@json_option
@common_options
@pass_state
def command(state: State, as_json: bool) -> None:
    """Check this machine: versions, devices, memory, disk, offline state, plugins.

    Exit code 4 if something is missing that training needs.
    """
    checks = list(examine(state.catalog()))
    failed = [check for check in checks if check.level == "fail"]
    if as_json:
        found = [asdict(check) for check in checks]
        render.data({"schema": "tunesmith.doctor/1", "ok": not failed, "checks": found})
    else:
        for check in checks:
            line = f"{check.level:<5} {check.subject}: {one_line(check.said, 300)}"
            render.say(line, style=STYLES[check.level])
    if failed:
        raise EnvironmentProblem(f"{failed[0].subject}: {failed[0].said}")


def examine(catalog: Catalog) -> Iterator[Check]:
    """All checks, in the order in which they are shown."""
    yield Check("ok", "python", f"{platform.python_version()}, {sys.executable}")
    known = versions()
    libraries = ", ".join(f"{name} {known[name]}" for name in known if name not in _OWN)
    yield Check("ok", "tunesmith", f"{__version__}; {libraries}; {known['platform']}")
    yield from _torch()
    yield from _room()
    yield _hub()
    yield from _plugins(catalog)


def _torch() -> Iterator[Check]:
    """Devices and number formats, asked from a child process."""
    if importlib.util.find_spec("torch") is None:
        yield Check("fail", "torch", "is not installed: pip install torch")
        return
    found = probe()
    if "error" in found:
        yield Check("fail", "torch", f"cannot be used: {found['error']}")
        return
    yield Check("ok", "torch", f"{found['version']}, {count_text(found['threads'], 'thread')}")
    for device in found["devices"]:
        bf16 = "bfloat16" if device["bf16"] else "no bfloat16"
        size = f", {bytes_text(device['memory'], binary=True)}" if device["memory"] else ""
        yield Check("ok", "device", f"{device['name']}{size}, {bf16}")
    if not found["devices"]:
        yield Check("warn", "device", "CPU only: fit for small models, slow for large ones")


def probe(code: str = PROBE) -> dict[str, Any]:
    """What a child process finds out about torch; ``error`` if it could not."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"importing it takes more than {PATIENCE} s"}
    try:
        found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = "".join(child.stderr.strip().splitlines()[-1:])
        return {"error": f"its process ended with code {child.returncode}: {last}"}
    return found


def _room() -> Iterator[Check]:
    """Memory and disk."""
    memory = available_memory()
    if memory is not None:
        level: Level = "ok" if memory >= LOW_MEMORY else "warn"
        yield Check(level, "memory", f"{bytes_text(memory, binary=True)} available")
    free = shutil.disk_usage(Path.cwd()).free
    level = "ok" if free >= LOW_DISK else "warn"
    yield Check(level, "disk", f"{bytes_text(free)} free here; checkpoints and artifacts need room")
    yield Check("ok", "processors", f"{os.cpu_count()}, {available_processors()} for this process")


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return Check("ok", "hub", "HF_HUB_OFFLINE is set: models come from this machine alone")
    token = "a token is set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN is set"
    return Check("ok", "hub", f"online, if the network lets us; {token}")


def _plugins(catalog: Catalog) -> Iterator[Check]:
    """Every plugin that does not work, and whether there is enough to train with."""
    for kind in (TechniqueOffer, DataLoaderOffer):
        offers = catalog.offers(kind)
        names = ", ".join(o.offer.name for o in offers)
        level: Level = "ok" if offers else "fail"
        yield Check(level, f"{kind.kind}s", names or "none is installed")
    for technique in catalog.offers(TechniqueOffer):
        lacking = "; ".join(missing(technique.offer.needs))
        if lacking:
            yield Check("warn", technique.offer.name, lacking)
    for plugin in catalog.plugins.broken():
        yield Check("warn", "plugin", f"{plugin.full_name} {plugin.version}: {plugin.reason}")


_OWN = {"tunesmith", "python", "platform"}
