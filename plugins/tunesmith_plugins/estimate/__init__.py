"""Plugin ``estimate``: the memory, time and cost of a run before it starts.

It has the command ``tunesmith plan``, a review that refuses a run that cannot fit, a reporter that
calibrates predictions by finished runs, and the table ``[estimate]``. Techniques predict memory and
operations (``TechniqueOffer.estimate``). This plugin compares them with a table of hardware and
with this machine. It imports no tensor library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer, ReporterOffer, TableOffer

if TYPE_CHECKING:
    import click

    from tunesmith.contracts import ReviewResult
    from tunesmith.plan import ModelReview


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith plan``."""
    summary = "Estimate memory, time and cost, and list the GPUs the run fits on."
    return [CommandOffer(name="plan", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.estimate.command import command

    return command


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[estimate]``."""
    from tunesmith_plugins.estimate.offer import ESTIMATE

    return [ESTIMATE]


@hookimpl
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:
    """Offer the reporter ``calibration``."""
    from tunesmith_plugins.estimate.offer import CALIBRATION

    return [CALIBRATION]


@hookimpl
def tunesmith_review_model(review: ModelReview) -> ReviewResult:
    """Predict the memory of the run, and refuse it if it cannot fit."""
    from tunesmith_plugins.estimate.review import review_memory

    return review_memory(review)
