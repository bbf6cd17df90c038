"""Take part in a run as a worker rank (above 0): load the same data, train, report nothing."""

from __future__ import annotations

from tunesmith import distributed
from tunesmith.errors import DataError
from tunesmith.events import Event
from tunesmith.execution.execute import load_report
from tunesmith.execution.run_data import build_job, load_data
from tunesmith.fence import fence
from tunesmith.plan import Plan
from tunesmith.storage import Checkpoints, RunFolder


def run_worker_rank(plan: Plan, folder: RunFolder) -> None:
    """Join the training of rank 0, which has loaded the data and is starting to train.

    Raises:
        DataError: this rank loads different data than rank 0.
        TunesmithError: this rank could not join the training. Rank 0 reports errors in training.
    """
    _, parts = load_data(plan)
    on_rank_zero = load_report(folder).data
    if on_rank_zero is None or parts.fingerprint != on_rank_zero.fingerprint:
        what = f"rank {distributed.rank()} has loaded different rows than rank 0"
        hint = "give all ranks the same data files"
        raise DataError("data", what, hint=hint)
    model = plan.found_model.fetch()
    checkpoints = Checkpoints(folder.checkpoints, on_problem=_ignore_event, owned=False)
    plugin = plan.technique.offered.plugin
    # Built-in techniques may change global state here, because a worker rank has nothing left to
    # do after training.
    with fence(plugin, "train", guards_state=False, may_take_long=True):
        technique = plan.technique.offer.build(plan.technique.config)
        try:
            technique.train(build_job(plan, model, parts, checkpoints, _ignore_event))
        except distributed.EndedByRankZero:
            return


def _ignore_event(event: Event | str) -> None:
    """Discard an event, because rank 0 emits it."""
