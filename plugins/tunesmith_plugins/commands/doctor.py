"""``tunesmith doctor``: check if this machine and installation can train models."""

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

from tunesmith import __version__
from tunesmith.catalog import Catalog
from tunesmith.errors import EnvironmentProblem
from tunesmith.execution.versions import collect_versions
from tunesmith.fence import call_in_fence
from tunesmith.install import NO_ENCODER, install_encoder
from tunesmith.offers import DataLoaderOffer, EncoderOffer, TechniqueOffer
from tunesmith.plugins import missing_requirements
from tunesmith.text import format_bytes, format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_data import find_offline_variable
from tunesmith_torch.runtime.machine import available_memory, available_processors

Level = Literal["ok", "warn", "fail"]
STYLES: dict[Level, str] = {"ok": "good", "warn": "warning", "fail": "bad"}
LOW_MEMORY, LOW_DISK = 4_000_000_000, 5_000_000_000
IMPORT_TIMEOUT = 120
"""Seconds to wait until torch is imported."""

TORCH_QUERY = """
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
"""Code for a child process, so that doctor survives if importing torch crashes."""


@dataclass(frozen=True)
class Check:
    """The result of checking one part of the installation."""

    level: Level
    subject: str
    message: str


@click.command("doctor")
@result_options
def command(state: CliState, as_json: bool) -> None:
    """Check the installation: versions, GPUs, memory, disk, Hugging Face Hub, plugins.

    The exit code is 4 if something that training needs is missing.
    """
    checks = list(run_checks(state.catalog()))
    failed = [check for check in checks if check.level == "fail"]
    if as_json:
        found = [asdict(check) for check in checks]
        render.print_json({"schema": "tunesmith.doctor/1", "ok": not failed, "checks": found})
    else:
        for check in checks:
            line = f"{check.level:<5} {check.subject}: {one_line(check.message, 300)}"
            render.print_text(line, style=STYLES[check.level])
    if failed:
        raise EnvironmentProblem(f"{failed[0].subject}: {failed[0].message}")


def run_checks(catalog: Catalog) -> Iterator[Check]:
    """Run all checks, and yield their results as they are printed."""
    yield Check("ok", "python", f"{platform.python_version()}, {sys.executable}")
    known = collect_versions()
    libraries = ", ".join(f"{name} {known[name]}" for name in known if name not in _SHOWN_ELSEWHERE)
    yield Check("ok", "tunesmith", f"{__version__}; {libraries}; {known['platform']}")
    yield from _check_torch()
    yield from _check_memory_and_disk()
    yield _check_hub()
    yield _check_encoder(catalog)
    yield from _check_plugins(catalog)


def _check_torch() -> Iterator[Check]:
    """Check torch, its devices and bfloat16, in a child process."""
    if importlib.util.find_spec("torch") is None:
        yield Check("fail", "torch", "not installed; run `pip install torch`")
        return
    found = query_torch()
    if "error" in found:
        yield Check("fail", "torch", f"cannot be imported: {found['error']}")
        return
    yield Check("ok", "torch", f"{found['version']}, {format_count(found['threads'], 'thread')}")
    for device in found["devices"]:
        bf16 = "bfloat16" if device["bf16"] else "no bfloat16"
        size = f", {format_bytes(device['memory'])}" if device["memory"] else ""
        yield Check("ok", "device", f"{device['name']}{size}, {bf16}")
    if not found["devices"]:
        yield Check("warn", "device", "no GPU found, so training large models will be slow")


def query_torch(code: str = TORCH_QUERY) -> dict[str, Any]:
    """Run ``code`` in a child process and return its JSON, with the key ``error`` on failure."""
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"the import took longer than {IMPORT_TIMEOUT} s"}
    try:
        found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = "".join(child.stderr.strip().splitlines()[-1:])
        return {"error": f"the Python process exited with code {child.returncode}: {last}"}
    return found


def _check_memory_and_disk() -> Iterator[Check]:
    """Check memory, disk and processors."""
    memory = available_memory()
    if memory is not None:
        level: Level = "ok" if memory >= LOW_MEMORY else "warn"
        yield Check(level, "memory", f"{format_bytes(memory)} available")
    free = shutil.disk_usage(Path.cwd()).free
    level = "ok" if free >= LOW_DISK else "warn"
    yield Check(level, "disk", f"{format_bytes(free)} free in this folder")
    yield Check(
        "ok",
        "processors",
        f"{os.cpu_count()}, {available_processors()} available to this process",
    )


def _check_hub() -> Check:
    if variable := find_offline_variable():
        return Check("ok", "hub", f"{variable} is set, so only local models are available")
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
    return Check("ok", "hub", f"downloads are allowed (network not tested); {token}")


def _check_encoder(catalog: Catalog) -> Check:
    """Check whether an encoder is installed, which the `embedding` baseline needs."""
    for offered in catalog.offers(EncoderOffer):
        config = offered.offer.config()
        if call_in_fence(offered, "is_installed", offered.offer.is_installed, config):
            return Check("ok", "encoder", offered.offer.name)
    return Check("warn", "encoder", f"{NO_ENCODER}; run `{install_encoder()}`")


def _check_plugins(catalog: Catalog) -> Iterator[Check]:
    """Check for techniques and data loaders, and report missing packages and broken plugins."""
    for kind in (TechniqueOffer, DataLoaderOffer):
        offers = catalog.offers(kind)
        names = ", ".join(o.offer.name for o in offers)
        level: Level = "ok" if offers else "fail"
        yield Check(level, f"{kind.kind}s", names or "none installed")
    for technique in catalog.offers(TechniqueOffer):
        lacking = "; ".join(missing_requirements(technique.offer.needs))
        if lacking:
            yield Check("warn", technique.offer.name, lacking)
    for plugin in catalog.plugins.broken():
        yield Check("warn", "plugin", f"{plugin.full_name} {plugin.version}: {plugin.reason}")


_SHOWN_ELSEWHERE = {"tunesmith", "python", "platform"}
