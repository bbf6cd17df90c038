"""Judge a model that was fine-tuned elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith_evidence.existing import make_existing_run
from tunesmith_python.runs import Run, run


def verdict(
    base: str,
    tuned: str | Path,
    train: str | Path,
    test: str | Path,
    *,
    out: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
) -> Run:
    """Measure a fine-tuned model, its base and the baselines, without training.

    Args:
        base: the model before fine-tuning: a hub id, folder, GGUF file or ``wheel:PACKAGE``.
        tuned: an adapter or model folder, a GGUF file, or the address of an endpoint.
        train: the file of the rows that ``tuned`` was fine-tuned on.
        test: a file of rows that were not used in training.
        out: the run folder to create; None: a new folder in ``runs``.
        set: further run-file keys, such as ``{"baselines.budget": "2m"}``.

    Returns:
        The run; ``run.report.verdict`` has the verdict.

    Raises:
        TunesmithError: as for :func:`tunesmith.run`.
    """
    tables = make_existing_run(base, str(tuned), Path(train), Path(test))
    return run(tables, out=out, set=set or {})
