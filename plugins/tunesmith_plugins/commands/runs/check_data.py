"""Check the data of a plan, even if libraries that only the run needs are missing."""

from __future__ import annotations

from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import list_requirements
from tunesmith.contracts import Dataset
from tunesmith.events import FindingReported
from tunesmith.execution.execute import collect_findings
from tunesmith.execution.run_data import DataParts, load_data
from tunesmith.plan import Plan
from tunesmith.plugins import missing_requirements


def check_data(plan: Plan, catalog: Catalog) -> tuple[Dataset, DataParts, list[FindingReported]]:
    """Load and review the data of a plan; return the data, its splits and the findings.

    Report an error if the run could not fetch its model now, and a warning about missing libraries
    that the run needs. If the splitter's libraries are missing, do not split the rows.

    Raises:
        DataError: the data cannot be read, or the technique cannot train on one of its records.
    """
    splits = not missing_requirements(plan.split.offer.needs)
    dataset, parts = load_data(plan, splits=splits)
    found = list(collect_findings(plan, catalog, dataset, parts))
    if not splits:
        text = "the rows are not split, because libraries of the splitter are missing"
        found.insert(0, FindingReported(level="warning", source="data", message=text))
    if obstacle := plan.found_model.find_obstacle():
        found.append(FindingReported(level="error", source="model.base", message=obstacle))
    sources = {finding.source for finding in found}
    for name, needs in list_requirements(plan, catalog).items():
        if name not in sources and (missing := missing_requirements(needs)):
            text = f"libraries that the run needs are missing: {'; '.join(missing)}"
            found.append(FindingReported(level="warning", source=name, message=text))
    return dataset, parts, found
