"""Check that there is enough disk space for checkpoints."""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import EnvironmentProblem
from tunesmith.storage import free_bytes
from tunesmith.text import format_bytes


def require_free_space(path: Path, needed: int) -> None:
    """Check that ``needed`` bytes fit on the disk, before starting the work that writes them.

    Raises:
        EnvironmentProblem: they do not fit; the message states the needed and the free bytes.
    """
    free = free_bytes(path)
    if free < needed:
        raise EnvironmentProblem(
            f"{path}: not enough disk space, {format_bytes(needed)} needed, "
            f"{format_bytes(free)} free",
            hint="free some disk space, keep fewer checkpoints (checkpoints.keep), or choose a "
            "run folder on another disk (--out)",
        )
