"""Run a script of this package in a process of its own, with limits of time and memory.

Files of strangers hold small programs: chat templates, regular expressions, the rules of a
tokenizer. Such a program can run without end, fill the memory, or crash the interpreter, and no
exception handler helps. In a process of its own it can do no harm.

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
"""The CPU time limits the work; the wall time limits a process that waits."""
MEMORY_BYTES = 1 << 30
NO_MEMORY = 4
"""Exit code of a process that ran out of memory."""


@dataclass(frozen=True)
class LimitedResult:
    """The exit code of the script, what it wrote, and the limit that it reached, if any."""

    code: int
    """Exit code of the process; negative: the number of the signal that ended it."""
    output: str
    reason: str
    """For messages, as in "it needs too much memory"; empty if no limit was reached."""


def run_limited(
    script: Path,
    data: bytes,
    *,
    cpu_seconds: int = CPU_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
    wall_seconds: float = WALL_SECONDS,
) -> LimitedResult:
    """Run a script, which reads ``data`` from stdin, to its end or to the first limit."""
    # -I: no variable and no file of the working directory changes what is imported.
    command = [sys.executable, "-I", __file__, str(script), str(cpu_seconds), str(memory_bytes)]
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=wall_seconds,
            check=False,
            # One thread: each has a stack, which counts as memory.
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
    # Rust ends the process when it gets no memory.
    return "it needs too much memory, or crashes" if code < 0 else ""


def set_limits(cpu_seconds: int, memory_bytes: int) -> None:
    """Limit this process, as far as the system allows."""
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):  # macOS has no limit of addresses; the wall time remains
            continue


if __name__ == "__main__":
    set_limits(int(sys.argv[2]), int(sys.argv[3]))
    try:
        runpy.run_path(sys.argv[1], run_name="__main__")
    except MemoryError:
        sys.exit(NO_MEMORY)
