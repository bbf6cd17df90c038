"""Was it worth it? The tuned model against the best prompt, on the same held-out records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tunesmith.errors import GateError
from tunesmith.events import JSON, Gated, Measured
from tunesmith.execution.evaluate import read_values
from tunesmith.options import GateOptions
from tunesmith.statistics import compare

TUNED = "tuned"
NAMES = {"base": "the base model", "few-shot": "few-shot prompting"}


def judge(measured: Iterable[Measured], metric: str, folder: Path) -> JSON:
    """Compare the tuned model with every baseline on one metric, record by record.

    The rival is the best baseline. ``outcome`` is better, worse or unclear; it is decided by the
    95 % interval of the paired difference, not by whether two bars overlap.
    """
    events = {event.model: event for event in measured if event.metric == metric}
    tuned = events.pop(TUNED, None)
    if tuned is None:
        return {}
    if not events:
        text = f"tuned reaches {_number(tuned)}; no baseline was measured"
        return {"metric": metric, "tuned": tuned.value, "outcome": "unclear", "sentence": text}
    ours = read_values(folder / tuned.records, metric)
    comparisons = {}
    for name, event in events.items():
        theirs = read_values(folder / event.records, metric)
        # Token-weighted metrics weigh the same answer alike under every prompt.
        result = compare(
            theirs.values,
            ours.values,
            tuned.higher_is_better,
            weights=ours.weights,
            groups=ours.groups,
        )
        comparisons[name] = {
            "baseline": event.value,
            "difference": result.difference.value,
            "low": result.difference.low,
            "high": result.difference.high,
            "p_value": result.p_value,
            "outcome": result.better,
            "detectable": result.detectable,
        }
    sign = 1 if tuned.higher_is_better else -1
    # A stage of the run itself is compared with, and is no rival where there is a baseline.
    # Of equals the last one, few-shot, counts as the stronger rival.
    rivals = [name for name in events if name in NAMES] or list(events)
    rival = max(reversed(rivals), key=lambda name: sign * events[name].value)
    return {
        "metric": metric,
        "tuned": tuned.value,
        "rival": rival,
        **comparisons[rival],
        "comparisons": comparisons,
        "sentence": _sentence(tuned, rival, comparisons[rival]),
    }


def check_gate(
    gate: GateOptions, measured: Iterable[Measured], verdict: JSON, inner: Iterable[Gated] = ()
) -> None:
    """Hold the run to its ``[gate]``, and to the gates inside of its technique.

    Raises:
        GateError: naming everything that was not met.
    """
    failures = []
    for rival in gate.must_beat:
        outcome = verdict.get("comparisons", {}).get(rival, {}).get("outcome", "not measured")
        if outcome != "better":
            failures.append(f"gate.must_beat: tuned against {rival} is {outcome}")
    tuned = {event.metric: event for event in measured if event.model == TUNED}
    for metric, bound in gate.at_least.items():
        event = tuned.get(metric)
        if event is None:
            failures.append(f"gate.at_least.{metric}: the metric was not measured")
            continue
        met = event.value >= bound if event.higher_is_better else event.value <= bound
        if not met:
            failures.append(f"gate.at_least.{metric}: needs {bound:g}, got {event.value:.4g}")
    failures += [
        f"{event.stage}: {event.sentence}"
        for event in inner
        if not event.passed and not event.accepted
    ]
    if failures:
        raise GateError("\n".join(failures), hint="the artifact is kept; tunesmith report shows it")


def _sentence(tuned: Measured, rival: str, comparison: JSON) -> str:
    numbers = (
        f"{tuned.metric} {comparison['baseline']:.3f} -> {tuned.value:.3f} on {tuned.n} held-out "
        f"rows, difference {comparison['difference']:+.3f} "
        f"[{comparison['low']:+.3f}, {comparison['high']:+.3f}]"
    )
    match comparison["outcome"]:
        case "better":
            return f"fine-tuning was worth it: better than {_name(rival)}, {numbers}"
        case "worse":
            return f"fine-tuning did harm: worse than {_name(rival)}, {numbers}"
        case _:
            return (
                f"no clear difference to {_name(rival)}: {numbers}; so few rows can "
                f"only show a difference of {comparison['detectable']:.3f} or more"
            )


def _name(rival: str) -> str:
    return NAMES.get(rival, f"the {rival} stage")


def _number(event: Measured) -> str:
    return f"{event.metric} {event.value:.3f} [{event.low:.3f}, {event.high:.3f}]"
