"""Run a script of this package in a separate process, with time and memory limits.

Untrusted files contain small programs: chat templates, regular expressions, tokenizer rules. Such a
program can loop forever, fill the memory, or crash the interpreter, and no exception handler helps.
In a separate process it does no harm.

This file is also the program of that process: it sets the limits, then runs the script.
"""

from __future__ import annotations

import os
import resource
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 2
WALL_SECONDS = 20.0
"""Limit of elapsed seconds, for a process that only waits. Work is limited by CPU time."""
MEMORY_BYTES = 1 << 30
NO_MEMORY = 4
"""Exit code of a process that ran out of memory."""


@dataclass(frozen=True)
class LimitedResult:
    """A script's exit code and output, and the limit that it reached."""

    code: int
    """Exit code of the process; if negative, the signal that ended it."""
    output: str
    reason: str
    """The limit that was reached, such as "it needs too much memory"; empty if no limit was
    reached."""


def run_limited(
    script: Path,
    data: bytes,
    *,
    cpu_seconds: int = CPU_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
    wall_seconds: float = WALL_SECONDS,
) -> LimitedResult:
    """Run a script with ``data`` as its stdin, until it ends or reaches a limit."""
    # -I: neither environment variables nor files in the working directory change imports.
    command = [sys.executable, "-I", __file__, str(script), str(cpu_seconds), str(memory_bytes)]
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=wall_seconds,
            check=False,
            # One thread only, because each thread's stack counts as memory.
            env={**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    except subprocess.TimeoutExpired:
        return LimitedResult(-signal.SIGKILL, "", f"it runs longer than {wall_seconds:g} seconds")
    output = (done.stdout + done.stderr[-1000:]).decode("utf-8", "replace")
    return LimitedResult(done.returncode, output, _describe_limit(done.returncode, cpu_seconds))


def _describe_limit(code: int, cpu_seconds: int) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it computes longer than {cpu_seconds} seconds"
    if code == NO_MEMORY:
        return "it needs too much memory"
    # Rust ends the process if it cannot allocate memory.
    return "it needs too much memory, or crashes" if code < 0 else ""


def set_limits(cpu_seconds: int, memory_bytes: int) -> None:
    """Limit this process's CPU time and memory, as far as the system allows."""
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):  # macOS cannot limit memory; the time limits remain
            continue


if __name__ == "__main__":
    set_limits(int(sys.argv[2]), int(sys.argv[3]))
    try:
        runpy.run_path(sys.argv[1], run_name="__main__")
    except MemoryError:
        sys.exit(NO_MEMORY)
