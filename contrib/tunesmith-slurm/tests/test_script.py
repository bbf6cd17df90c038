"""The script of a job: its text, and what a shell makes of it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import UsageError
from tunesmith.options import from_table
from tunesmith_slurm.job import parse_arguments
from tunesmith_slurm.options import SlurmOptions
from tunesmith_slurm.script import build_script

SMALLEST = """\
#!/bin/bash
# Written by `tunesmith slurm submit`. Every start of the job continues the run, both
# the first attempt and those after a requeue.
#SBATCH --job-name=tickets
#SBATCH --output=/runs/a/slurm/%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

exec /env/bin/python -P -m tunesmith_slurm.job --processes 1 --max-requeues 100 \
--shutdown-seconds 120 /runs/a
"""
LARGEST = """\
#!/bin/bash
# Written by `tunesmith slurm submit`. Every start of the job continues the run, both
# the first attempt and those after a requeue.
#SBATCH --job-name='it'"'"'s "mine"'
#SBATCH --output='/runs/my run 5%%/slurm/%j.log'
#SBATCH --open-mode=append
#SBATCH --partition=gpu,long
#SBATCH --account=lab
#SBATCH --qos=high
#SBATCH --constraint='a100|h100'
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=a100:2
#SBATCH --mem=64G
#SBATCH --time=1-06:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --no-requeue
#SBATCH --mail-type=END
#SBATCH --comment='two words'
#SBATCH --exclusive

module load cuda
export NCCL_DEBUG="INFO"
exec '/my env/bin/python' -P -m tunesmith_slurm.job --processes 2 --max-requeues 0 \
--shutdown-seconds 300 '/runs/my run 5%'
"""


def options(**table: Any) -> SlurmOptions:
    return from_table(SlurmOptions, table)


def test_a_table_without_options_gives_the_smallest_script() -> None:
    script = build_script(options(), Path("/runs/a"), name="tickets", python="/env/bin/python")
    assert script == SMALLEST


def test_every_option_is_in_the_script() -> None:
    everything = options(
        partition="gpu,long",
        account="lab",
        qos="high",
        constraint="a100|h100",
        gpus="a100:2",
        cpus_per_task=16,
        mem="64G",
        time="1-06:00:00",
        grace_seconds=300,
        max_requeues=0,
        setup=["module load cuda", 'export NCCL_DEBUG="INFO"'],
        sbatch=["--mail-type=END", "--comment=two words", "--exclusive"],
    )
    script = build_script(
        everything, Path("/runs/my run 5%"), name='it\'s "mine"', python="/my env/bin/python"
    )
    assert script == LARGEST


AWKWARD = [
    "a b",
    "it's",
    'say "hi"',
    "$HOME",
    "`id`",
    "$(id)",
    "a;b&c|d",
    "*?[x]",
    "é ü 漢",
    "#x",
    "-r",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_shell_reads_back_what_was_written(tmp_path: Path, name: str) -> None:
    """The interpreter and the folder reach the process as they are."""
    python = tmp_path / name / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$PRINTED"\n')
    python.chmod(0o755)
    folder, printed = tmp_path / "runs" / name, tmp_path / "printed"
    script = build_script(options(processes=2), folder, name=name, python=str(python))
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(
        ["bash", str(tmp_path / "job.sh")], env={**os.environ, "PRINTED": str(printed)}, check=True
    )
    arguments = printed.read_text().split("\0")[:-1]
    assert arguments[:3] == ["-P", "-m", "tunesmith_slurm.job"]
    work = parse_arguments(arguments[3:])
    assert (work.folder, work.processes, work.max_requeues) == (folder, 2, 100)
    (line,) = (line for line in script.splitlines() if "--job-name" in line)
    assert shlex.split(line.removeprefix("#SBATCH ")) == [f"--job-name={name}"]


def test_no_variable_of_the_environment_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    monkeypatch.setenv("TUNESMITH__DATA__URL", "postgres://me:secret@host/db")
    script = build_script(options(), Path("/runs/a"), name="a")
    assert "hf_0123" not in script and "secret" not in script and "TOKEN" not in script


@pytest.mark.parametrize("folder", ["/runs/back\\slash", "/runs/two\nlines"])
def test_a_path_that_slurm_changes_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="Slurm cannot use a path"):
        build_script(options(), Path(folder), name="a")
