"""Every architecture of transformers: none is wrong, none crashes, and no verdict gets worse."""

from __future__ import annotations

import pytest
from tests.architectures import page
from tests.architectures.cases import all_cases
from tests.architectures.compare import FAST_RUNS, Result, Setting
from tests.architectures.sizes import Sizes
from tests.architectures.workers import examine_all, prepare

pytestmark = [pytest.mark.long, pytest.mark.timeout(6000)]

OTHER_SETTING = Setting(seed=7, lengths=(6, 50, 2, 30), sizes=Sizes(hidden=48), runs=FAST_RUNS)


@pytest.fixture(scope="module", params=[Setting(), OTHER_SETTING], ids=["stored", "other"])
def results(request: pytest.FixtureRequest) -> list[Result]:
    """The result of every architecture, with the setting of the page and with another one."""
    setting: Setting = request.param
    prepare()
    return list(examine_all(all_cases(setting.sizes), setting))


def test_no_architecture_is_wrong_or_crashes(results: list[Result]) -> None:
    bad = [f"{r.name}: {r.reason}\n{r.trace}" for r in results if r.verdict in ("wrong", "crash")]
    assert not bad, "\n".join(bad)


def test_no_verdict_is_worse_than_that_of_the_page(results: list[Result]) -> None:
    stored = {r["name"]: r["verdict"] for r in page.read()["results"]}
    worse = [
        f"{result.name}: {result.verdict}, {result.reason}"
        for result in results
        if stored.get(result.name) == "exact" != result.verdict
    ]
    assert not worse, "\n".join(worse)


def test_most_architectures_are_exact(results: list[Result]) -> None:
    assert sum(result.verdict == "exact" for result in results) >= 90
