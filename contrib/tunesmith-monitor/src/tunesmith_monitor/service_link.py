"""The link to the run in service: promote another run, and roll back.

::

    ln -s tickets-1 runs/service            the run in service
    tunesmith serve runs/service

A promotion replaces the link in one step, and keeps the earlier run in ``service.previous``. No
byte of a run changes.
"""

from __future__ import annotations

import os
from pathlib import Path

from tunesmith import api
from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import verify_folder


def require_link(link: Path) -> Path:
    """Return the run that a link leads to.

    Raises:
        UsageError: the path is not a link.
    """
    if not link.is_symlink():
        raise UsageError(
            f"{link}: is not a link, so no run can be promoted",
            hint=f"ln -s {link.name} {link.parent / 'service'}, and use that path here and in "
            "`tunesmith serve`",
        )
    return link.resolve()


def promote(link: Path, run: Path) -> None:
    """Put a run in service.

    Raises:
        IntegrityError: a file of the run's model is damaged.
    """
    earlier = require_link(link)
    verify_model(run)
    _replace_link(previous_link(link), earlier)
    _replace_link(link, run.resolve())


def roll_back(link: Path) -> Path:
    """Put the earlier run back in service; return its folder. A second call undoes the first.

    Raises:
        UsageError: nothing was promoted.
        IntegrityError: a file of the earlier run's model is damaged.
    """
    current, before = require_link(link), previous_link(link)
    if not before.is_symlink():
        raise UsageError(f"{link}: no run was promoted, so there is none to go back to")
    earlier = before.resolve()
    verify_model(earlier)
    _replace_link(link, earlier)
    _replace_link(before, current)
    return earlier


def verify_model(run: Path) -> None:
    """Compare the model of a run with its manifest.

    Raises:
        IntegrityError: a file is damaged.
    """
    trained = api.read_report(run).training_finished.get("")
    if trained is None:
        raise UsageError(f"{run}: the run has no trained model yet")
    problems = verify_folder(run / trained.artifact)
    if problems:
        raise IntegrityError(f"{run / trained.artifact}: {problems[0]}")


def previous_link(link: Path) -> Path:
    """Return the link to the earlier run."""
    return link.with_name(f"{link.name}.previous")


def _replace_link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that was killed
    temporary.symlink_to(os.path.relpath(target, link.parent.resolve()))
    temporary.replace(link)
