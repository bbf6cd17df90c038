"""Replay the events of a run for a reporter."""

from __future__ import annotations

from pathlib import Path

from tunesmith import api
from tunesmith.catalog import OfferNotFoundError
from tunesmith.errors import UsageError
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import ReporterOffer
from tunesmith.plan import Component
from tunesmith.storage import read_known_events


def replay_events(folder: Path, reporter: str) -> None:
    """Send all events in a run's log to a reporter, as if the run were in progress.

    The reporter gets its options from the run file, or its defaults if the run file does not list
    the reporter. The run may have been killed, and the reporter installed later.

    Raises:
        UsageError: no such reporter is installed; for other errors see
            :func:`tunesmith.api.load_run`.
    """
    run_folder, plan, catalog = api.load_run(folder)
    component = next((c for c in plan.reporters if reporter in (c.use, c.offer.name)), None)
    if component is None:
        try:
            offered = catalog.find(ReporterOffer, reporter)
        except OfferNotFoundError as error:
            raise UsageError(f"--to: {error.what}", hint=error.hint) from None
        component = Component(offered, offered.offer.config())
    with (
        attribute_errors_to(component.offered.plugin),
        component.offer.build(component.config, run_folder) as target,
    ):
        for event in read_known_events(run_folder.events):
            target.report(event)
