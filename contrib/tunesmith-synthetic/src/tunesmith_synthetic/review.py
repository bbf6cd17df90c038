"""Review of data: warn about synthetic rows whose gain was not measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tunesmith.contracts import Finding
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith_synthetic.dataset import digest_rows, read_card
from tunesmith_synthetic.loader import SyntheticOptions
from tunesmith_synthetic.request import PROVENANCE


def review(plan: Plan, train: Sequence[Record]) -> list[Finding]:
    """Return a warning if training rows are synthetic and no ablation shows that they help."""
    names = Counter(
        value for r in train for name, value in r.slices if name == PROVENANCE and value
    )
    if not names:
        return []
    count = names.total()
    rows = f"{count:,} of {len(train):,} training rows are synthetic ({', '.join(sorted(names))})"
    options = plan.data.config
    if not isinstance(options, SyntheticOptions):
        return [_warn(f"{rows}, and nothing shows whether they help", count)]
    folder = Path(options.folder)
    ablation = read_card(folder).get("ablation")
    if ablation is None:
        return [_warn(f"{rows}, and nothing shows whether they help", count)]
    if ablation["sha256"] != digest_rows(folder):
        return [_warn(f"{rows}, and they have changed since the ablation", count)]
    if ablation["word"] == "helped":
        return [Finding(level="info", where="data synthetic", message=f"{rows}; they helped")]
    word = "harmed" if ablation["word"] == "harmed" else "were not shown to help"
    return [_warn(f"{rows}; in the ablation they {word}: {ablation['sentence']}", count)]


def _warn(message: str, count: int) -> Finding:
    return Finding(
        level="warning",
        where="data synthetic",
        message=message,
        count=count,
        hint="measure it: tunesmith data ablate GEN.toml",
    )
