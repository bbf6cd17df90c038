"""Command ``evaluate``: measure a trained model, an endpoint, or any other model, on rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

    from tunesmith.contracts import Finding, FoundModel
    from tunesmith.plan import Plan


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith evaluate``."""
    summary = "Measure a trained model, an endpoint, or any other model, on rows."
    return [CommandOffer(name="evaluate", summary=summary, load=_load)]


@hookimpl
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Find an endpoint, ``https://host/v1``: it can be evaluated, but has no weights here."""
    from tunesmith_plugins.commands.evaluate.find import find_endpoint

    return find_endpoint(reference)


@hookimpl
def tunesmith_review_plan(plan: Plan) -> Sequence[Finding]:
    """Refuse an endpoint as the base model of a run."""
    from tunesmith_plugins.commands.evaluate.find import review_plan

    return review_plan(plan)


def _load() -> click.Command:
    from tunesmith_plugins.commands.evaluate.command import command

    return command
