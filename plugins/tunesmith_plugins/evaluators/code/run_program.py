"""Run generated programs with their tests, each in a process with limits."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SANDBOX = Path(__file__).with_name("sandbox.py")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The resource limits for one program."""

    seconds: float = 10.0
    memory_bytes: int = 1_000_000_000
    file_bytes: int = 10_000_000


def passes_tests(program: str, tests: str, limits: Limits) -> bool:
    """Return True if the program, followed by its tests, runs to the end within the limits.

    The program runs in an empty folder with an empty environment, and cannot use the network or
    start processes.
    """
    secret = secrets.token_hex(16)
    options = {
        "cpu_seconds": max(1, round(limits.seconds)),
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        "secret": secret,
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-code-") as folder:
        for name, text in (("program.py", program), ("tests.py", tests)):
            Path(folder, name).write_text(f"{text}\n", encoding="utf-8", errors="surrogatepass")
        command = [sys.executable, "-I", "-S", "-B", str(SANDBOX), "program.py", "tests.py"]
        try:
            finished = subprocess.run(
                [*_without_network(), *command],
                input=json.dumps(options) + "\n",
                capture_output=True,
                text=True,
                timeout=limits.seconds + 1,
                cwd=folder,
                env={},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return finished.returncode == 0 and finished.stdout == secret


@cache
def _without_network() -> tuple[str, ...]:
    """Return a command prefix that disables the network, or () if this system has none."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    command = (unshare, "--user", "--map-current-user", "--net")
    tried = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, check=False)
    return command if tried.returncode == 0 else ()
