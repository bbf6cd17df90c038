"""Write the script of a job: sbatch options, and the command that works on the run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import UsageError
from tunesmith_slurm.options import SlurmOptions

STOP_SIGNAL = "USR1"
"""Signal that Slurm sends to the script before the time limit.

TERM is not used, because Slurm sends it to every process of a job that it ends, and a stopping run
exits immediately on a second TERM. A second USR1 has no effect.
"""


def build_script(
    options: SlurmOptions,
    folder: Path,
    *,
    name: str,
    python: str = sys.executable,
) -> str:
    """Return the sbatch script that works on a run.

    The script sets no environment variables, because sbatch passes on those of the submitting
    shell.

    Args:
        options: resources of the job.
        folder: absolute path of the run folder.
        name: name of the job.
        python: Python interpreter of tunesmith's environment.

    Raises:
        UsageError: Slurm cannot handle the folder's path.
    """
    _refuse_unusable(folder)
    command = [python, "-P", "-m", "tunesmith_slurm.job", "--processes", str(options.process_count)]
    command += ["--max-requeues", str(options.max_requeues)]
    command += ["--shutdown-seconds", str(options.grace_seconds), str(folder)]
    lines = [
        "#!/bin/bash",
        "# Written by `tunesmith slurm submit`. Every start of the job continues the run, both",
        "# the first attempt and those after a requeue.",
        *(f"#SBATCH {line}" for line in _list_options(options, folder, name)),
        "",
        *options.setup,
        # exec, because Slurm signals the script's own process, which must be the one that handles
        # signals.
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def _list_options(options: SlurmOptions, folder: Path, name: str) -> Iterator[str]:
    """Yield the options of sbatch, quoted because sbatch parses quotes like a shell."""
    # %j in the name of the log is the job number, so a % in the path must be doubled.
    log = f"{str(folder).replace('%', '%%')}/slurm/%j.log"
    values = {
        "job-name": name,
        "output": log,
        "open-mode": "append",
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "nodes": options.nodes,
        "ntasks": 1,
        "cpus-per-task": options.cpus_per_task,
        "gpus-per-node": options.gpus if options.gpu_count else None,
        "mem": options.mem,
        "time": options.time,
        "signal": f"B:{STOP_SIGNAL}@{options.grace_seconds}",
    }
    for key, value in values.items():
        if value is not None:
            yield f"--{key}={shlex.quote(str(value))}"
    yield "--requeue" if options.max_requeues else "--no-requeue"
    for option in options.sbatch:
        key, equals, value = option.partition("=")
        yield f"{key}{equals}{shlex.quote(value) if equals else ''}"


def _refuse_unusable(folder: Path) -> None:
    """Raise an error for a path that Slurm would change. It removes backslashes from log names."""
    if re.search(r"[\x00-\x1f\x7f\\]", str(folder)):
        raise UsageError(
            f"{folder}: Slurm cannot use a path with a backslash or control character",
            hint="choose another folder with --out",
        )
