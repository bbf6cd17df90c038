"""Check a run file, and estimate the costs of its run, before training."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from tunesmith import api
from tunesmith.estimates import Assumptions
from tunesmith.events import JSON, FindingReported
from tunesmith.plan import Plan


def check(
    run_file: api.RunFileLike, *, set: Mapping[str, Any] | None = None
) -> list[FindingReported]:
    """Check a run file and its data without a model, like ``tunesmith check``.

    Args:
        run_file: path of the run file, or its tables.
        set: overrides by dotted key.

    Returns:
        The findings. A finding with the level ``error`` stops a run, unless it concerns only test
        rows.

    Raises:
        ConfigError: the run file is wrong; the error lists every problem.
        DataError: none of the rows can be used, or more rows are skipped than the options allow.
    """
    from tunesmith_plugins.commands.runs.check_data import check_data

    return check_data(*api.load_plan(run_file, sets=set or {}, runnable=False))[2]


def make_plan(run_file: api.RunFileLike, *, set: Mapping[str, Any] | None = None) -> Plan:
    """Check a run file and return its plan, with defaults filled in; no data is read.

    ``plan.to_toml()`` is what ``tunesmith plan --resolved`` prints.

    Args:
        run_file: path of the run file, or its tables.
        set: overrides by dotted key.

    Raises:
        ConfigError: the run file is wrong; the error lists every problem.
    """
    return api.load_plan(run_file, sets=set or {})[0]


def estimate(
    run_file: api.RunFileLike,
    *,
    set: Mapping[str, Any] | None = None,
    assume: Assumptions | None = None,
    quick: bool = False,
    processes: int = 1,
) -> JSON:
    """Estimate a run's memory (bytes), time (seconds) and cost (US dollars).

    Args:
        run_file: path of the run file, or its tables.
        set: overrides by dotted key.
        assume: sizes to plan with instead of the data.
        quick: compute only the analytic estimate, without tracing a training step.
        processes: number of processes that train together; memory is per process.

    Returns:
        The object that ``tunesmith plan --json`` prints, ``tunesmith.plan/1``.

    Raises:
        ConfigError: the run file is wrong.
        DataError: the data cannot be used.
        EnvironmentProblem: the base model's ``config.json`` is not on this machine.
    """
    from tunesmith_plugins.estimate import command, hardware, view
    from tunesmith_plugins.estimate.compare_techniques import PlannedLaunch, compare_techniques
    from tunesmith_plugins.estimate.offer import EstimateOptions
    from tunesmith_torch.runtime.machine import detect_machine

    plan, catalog = api.load_plan(run_file, sets=set or {})
    data = command.load_records(plan) if assume is None else ((), ())
    prices = hardware.load_hardware(plan.table(EstimateOptions).prices)
    launch = PlannedLaunch(detect_machine(), processes)
    estimates = compare_techniques(plan, catalog, data, assume, launch, prices)
    first = next(estimates)
    last = first if quick else (deque(estimates, maxlen=1) or [first])[-1]
    return view.to_json(last)
