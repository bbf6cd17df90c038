"""A run as ranks above 0 see it: the same data and the same technique, and nothing is told."""

from __future__ import annotations

from tunesmith import distributed
from tunesmith.errors import DataError
from tunesmith.events import Event
from tunesmith.execution.execute import data_event, job_of, read_parts, recorded
from tunesmith.plan import Plan
from tunesmith.plugins import blame
from tunesmith.storage import Checkpoints, RunFolder


def train(plan: Plan, folder: RunFolder) -> None:
    """Train with rank 0, which has read the data and begins to train now.

    Raises:
        DataError: this rank reads other data.
        TunesmithError: what kept this rank from taking part; what ended training is rank 0's.
    """
    dataset, parts = read_parts(plan)
    read, told = data_event(dataset, parts), recorded(folder).data
    if told is None or read.fingerprint != told.fingerprint:
        raise DataError("data", f"rank {distributed.number()} reads other rows than rank 0")
    model = plan.found_model.fetch()
    checkpoints = Checkpoints(folder.checkpoints, on_problem=_unheard, owned=False)
    with blame(plan.technique.offered.plugin):
        technique = plan.technique.offer.build(plan.technique.config)
        try:
            technique.train(job_of(plan, model, parts, checkpoints, _unheard))
        except distributed.Dismissed:
            return


def _unheard(told: Event | str) -> None:
    """Rank 0 says it."""
