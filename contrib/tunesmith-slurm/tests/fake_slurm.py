"""Programs named like Slurm's: they record their calls, and answer as they are configured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")


@dataclass(frozen=True)
class FakeSlurm:
    """The folder of the programs."""

    folder: Path

    @classmethod
    def install(cls, folder: Path, patch: pytest.MonkeyPatch) -> FakeSlurm:
        """Put the programs first in PATH; each answers with nothing and succeeds."""
        fake = cls(folder)
        for name in PROGRAMS:
            fake.answer(name, "")
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return fake

    def answer(self, name: str, stdout: str, *, stderr: str = "", code: int = 0) -> None:
        """Set what a program prints, and its exit code."""
        (self.folder / f"{name}.out").write_text(stdout)
        (self.folder / f"{name}.err").write_text(stderr)
        program = self.folder / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{self.folder}/calls"\n'
            f'cat "{self.folder}/{name}.out"; cat "{self.folder}/{name}.err" >&2\nexit {code}\n'
        )
        program.chmod(0o755)

    def calls(self, name: str = "") -> list[str]:
        """Return the calls so far, of one program or all."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(name)]
