"""Compare the planner's tracer with published measurements of peak memory.

``python -m tests.benchmarks.memory_cases FILE.json`` reads a list of cases (fields: ``source``,
``model``, ``params``, ``technique``, ``dtype``, ``optimizer``, ``batch``, ``seq`` or
``fitted_seq``, ``checkpointing``, ``gpu``, ``peak_gib``, ``note``, and where there are any
``rank``, ``targets``, ``trainable``, ``peft_config``), traces the training loop of each
(:mod:`tests.benchmarks.memory_loops`), and prints the predictions and their errors. A case that
states too little is listed with the reason.
"""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

from tests.benchmarks.memory_loops import TRACE_ERRORS, Prediction, UnclearCase, predict

GIB = 2**30


@dataclass(frozen=True)
class Outcome:
    """A case with its prediction, or with the reason why there is none."""

    case: Mapping[str, Any]
    prediction: Prediction | None
    why: str = ""

    @property
    def measured(self) -> float:
        return float(self.case["peak_gib"]) * GIB

    @property
    def is_upper_bound(self) -> bool:
        """True if the number is not a measurement but a memory size that was enough."""
        return bool(re.search(r"upper bound|<|fits on", str(self.case.get("note") or "")))

    @property
    def error(self) -> float:
        assert self.prediction is not None
        return self.prediction.expected / self.measured - 1

    @property
    def is_above(self) -> bool:
        """True if the measured peak is above the upper bound."""
        return (
            self.prediction is not None
            and self.prediction.high < self.measured
            and (not self.is_upper_bound)
        )

    @property
    def is_within(self) -> bool:
        """True if the interval contains the peak; a size that was enough may be above it."""
        prediction = cast(Prediction, self.prediction)
        fits = self.is_upper_bound or self.measured <= prediction.high
        return prediction.low <= self.measured and fits

    @property
    def is_known(self) -> bool:
        """True if it is a measurement of which all important settings are stated."""
        return self.prediction is not None and self.prediction.is_known and not self.is_upper_bound


def predict_case(case: Mapping[str, Any]) -> Outcome:
    """Predict a case. If that is not possible, the outcome has the reason; nothing is raised."""
    try:
        if not isinstance(case.get("peak_gib"), int | float):
            raise UnclearCase("no peak_gib")
        return Outcome(case, predict(case))
    except UnclearCase as error:
        return Outcome(case, None, str(error))
    except TRACE_ERRORS as error:
        return Outcome(case, None, f"{type(error).__name__}: {error!s:.120}")


# --------------------------------------------------------------------------- the table


def predict_all(cases: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Predict every case, and print a line for each."""
    outcomes = []
    for number, case in enumerate(cases):
        outcome = predict_case(case)
        outcomes.append(outcome)
        print(f"{number:3d} {_line(outcome)}", flush=True)
    return outcomes


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return median and 90th percentile of absolute errors, and counts of too low upper bounds."""
    known = [o for o in outcomes if o.is_known]
    others = [o for o in outcomes if o.prediction is not None and not o.is_known]
    errors = sorted(abs(o.error) for o in known)
    return {
        "known": len(known),
        "median": median(errors) if errors else None,
        "p90": errors[math.ceil(0.9 * len(errors)) - 1] if errors else None,
        "worst": errors[-1] if errors else None,
        "upper_bound_under": sum(o.is_above for o in known),
        "others": len(others),
        "others_within": sum(o.is_within for o in others),
        "unclear": len(outcomes) - len(known) - len(others),
    }


def check_width(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield for each group of cases if the interval width that all others need is enough for it."""
    known = [o for o in outcomes if o.is_known]
    for name in sorted({group for o in known for group in _case_groups(o)}):
        inside = [o for o in known if name in _case_groups(o)]
        outside = [abs(o.error) for o in known if name not in _case_groups(o)]
        if not outside:
            continue
        needed = max(o.measured / cast(Prediction, o.prediction).expected - 1 for o in inside)
        verdict = "holds" if needed <= max(outside) else "TOO NARROW"
        middle = median(abs(o.error) for o in inside)
        yield (
            f"{name:24} {len(inside):3d} cases, median error {middle:5.1%}, "
            f"most above {needed:+6.1%}, worst of the others {max(outside):5.1%}: {verdict}"
        )


def _case_groups(outcome: Outcome) -> tuple[str, ...]:
    """Return the case's groups: its source, its model, and a half by its method's name."""
    case = outcome.case
    source = str(case.get("source") or "").split("/")[:2]
    method = str(case.get("technique") or "")
    half = sum(map(ord, method)) % 2
    return f"source {'/'.join(source)[:16]}", f"model {str(case['model'])[-16:]}", f"half {half}"


def _line(outcome: Outcome) -> str:
    case, prediction = outcome.case, outcome.prediction
    model, technique = str(case.get("model"))[-22:], str(case.get("technique"))[:26]
    what = f"{model:22} {technique:26} b{case.get('batch')}"
    if prediction is None:
        return f"{what}  {outcome.why}"
    flag = "  ABOVE THE UPPER BOUND" if outcome.is_above else ""
    interval = " ".join(
        f"{size / GIB:6.2f}" for size in (prediction.low, prediction.expected, prediction.high)
    )
    mark = "known" if outcome.is_known else "limit" if outcome.is_upper_bound else "     "
    verdict = f"[{interval}] {outcome.error:+7.1%} {mark} {prediction.basis}{flag}"
    return f"{what} {case['peak_gib']:6.2f} {verdict}"


def main(arguments: Sequence[str]) -> int:
    """Print the table, its summary, and the check of the interval's width."""
    if len(arguments) != 1:
        print("usage: python -m tests.benchmarks.memory_cases FILE.json", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    outcomes = predict_all(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    print(json.dumps(summarize(outcomes), indent=2))
    print("\n".join(check_width(outcomes)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
