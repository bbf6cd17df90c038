"""The planner's tracer against published measurements of peak memory.

``python -m tests.benchmarks.memory_cases FILE.json`` reads a list of cases (fields: ``source``,
``model``, ``params``, ``technique``, ``dtype``, ``optimizer``, ``batch``, ``seq`` or
``fitted_seq``, ``checkpointing``, ``gpu``, ``peak_gib``, ``note``, and where there are any
``rank``, ``targets``, ``trainable``, ``peft_config``), traces the loop that each was measured of,
see :mod:`tests.benchmarks.memory_loops`, and prints what came out. A case that says too little is
listed with the reason.
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

from tests.benchmarks.memory_loops import CANNOT, Prediction, Unclear, predict

GIB = 2**30


@dataclass(frozen=True)
class Outcome:
    """A case beside its prediction, or beside the reason why there is none."""

    case: Mapping[str, Any]
    prediction: Prediction | None
    why: str = ""

    @property
    def measured(self) -> float:
        return float(self.case["peak_gib"]) * GIB

    @property
    def ceiling(self) -> bool:
        """Whether the number is no measurement but a size that was enough."""
        return bool(re.search(r"upper bound|<|fits on", str(self.case.get("note") or "")))

    @property
    def error(self) -> float:
        assert self.prediction is not None
        return self.prediction.expected / self.measured - 1

    @property
    def over(self) -> bool:
        """Whether the measured peak is above the upper bound."""
        return (
            self.prediction is not None
            and self.prediction.high < self.measured
            and (not self.ceiling)
        )

    @property
    def within(self) -> bool:
        """Whether the interval holds the peak; a size that was enough is above its lower end."""
        found = cast(Prediction, self.prediction)
        return found.low <= self.measured and (self.ceiling or self.measured <= found.high)

    @property
    def known(self) -> bool:
        return self.prediction is not None and self.prediction.known and not self.ceiling


def judge(case: Mapping[str, Any]) -> Outcome:
    """A case beside its prediction. What cannot be predicted is said, and nothing is raised."""
    try:
        if not isinstance(case.get("peak_gib"), int | float):
            raise Unclear("no peak_gib")
        return Outcome(case, predict(case))
    except Unclear as error:
        return Outcome(case, None, str(error))
    except CANNOT as error:
        return Outcome(case, None, f"{type(error).__name__}: {error!s:.120}")


# --------------------------------------------------------------------------- the table


def run(cases: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """Every case with its prediction."""
    found = []
    for number, case in enumerate(cases):
        outcome = judge(case)
        found.append(outcome)
        print(f"{number:3d} {_line(outcome)}", flush=True)
    return found


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Median and 90th percentile of absolute errors, and how often the upper bound was too low."""
    known = [o for o in outcomes if o.known]
    others = [o for o in outcomes if o.prediction is not None and not o.known]
    errors = sorted(abs(o.error) for o in known)
    return {
        "known": len(known),
        "median": median(errors) if errors else None,
        "p90": errors[math.ceil(0.9 * len(errors)) - 1] if errors else None,
        "worst": errors[-1] if errors else None,
        "upper_bound_under": sum(o.over for o in known),
        "others": len(others),
        "others_within": sum(o.within for o in others),
        "unclear": len(outcomes) - len(known) - len(others),
    }


def held_out(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Whether the width that all other cases ask for holds for the cases of each group."""
    known = [o for o in outcomes if o.known]
    for name in sorted({group for o in known for group in _groups(o)}):
        inside = [o for o in known if name in _groups(o)]
        outside = [abs(o.error) for o in known if name not in _groups(o)]
        if not outside:
            continue
        needed = max(o.measured / cast(Prediction, o.prediction).expected - 1 for o in inside)
        said = "holds" if needed <= max(outside) else "TOO NARROW"
        middle = median(abs(o.error) for o in inside)
        yield (
            f"{name:24} {len(inside):3d} cases, median error {middle:5.1%}, "
            f"most above {needed:+6.1%}, worst of the others {max(outside):5.1%}: {said}"
        )


def _groups(outcome: Outcome) -> tuple[str, ...]:
    """By source, by model, and two halves by the name of the method."""
    case = outcome.case
    source = str(case.get("source") or "").split("/")[:2]
    method = str(case.get("technique") or "")
    half = sum(map(ord, method)) % 2
    return f"source {'/'.join(source)[:16]}", f"model {str(case['model'])[-16:]}", f"half {half}"


def _line(outcome: Outcome) -> str:
    case, found = outcome.case, outcome.prediction
    model, technique = str(case.get("model"))[-22:], str(case.get("technique"))[:26]
    what = f"{model:22} {technique:26} b{case.get('batch')}"
    if found is None:
        return f"{what}  {outcome.why}"
    flag = "  ABOVE THE UPPER BOUND" if outcome.over else ""
    interval = f"{found.low / GIB:6.2f} {found.expected / GIB:6.2f} {found.high / GIB:6.2f}"
    mark = "known" if outcome.known else "limit" if outcome.ceiling else "     "
    said = f"[{interval}] {outcome.error:+7.1%} {mark} {found.how}{flag}"
    return f"{what} {case['peak_gib']:6.2f} {said}"


def main(arguments: Sequence[str]) -> int:
    """Print the table, its summary, and how widths hold for cases that they were not read off."""
    if len(arguments) != 1:
        print("usage: python -m tests.benchmarks.memory_cases FILE.json", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    outcomes = run(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    print(json.dumps(summary(outcomes), indent=2))
    print("\n".join(held_out(outcomes)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
