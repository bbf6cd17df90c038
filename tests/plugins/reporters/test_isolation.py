"""The built-in reporters change nothing outside: a run does not isolate them, to save time."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tunesmith.catalog import Catalog
from tunesmith.global_state import preserve_global_state
from tunesmith.offers import Offered, ReporterOffer
from tunesmith.plugins import find_plugins
from tunesmith.storage import EventLog, RunFolder
from tunesmith.testing import sample_run

REPORTERS = Catalog(find_plugins()).offers(ReporterOffer)


def random_numbers() -> tuple[float, ...]:
    return (random.random(), float(numpy.random.rand()), float(torch.rand(1)))


@pytest.mark.parametrize("offered", REPORTERS, ids=lambda offered: offered.offer.name)
def test_a_built_in_reporter_changes_nothing(tmp_path: Path, offered: Offered[Any]) -> None:
    assert offered.plugin.is_builtin
    folder = RunFolder.create(tmp_path, "x")
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    expected = random_numbers()
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    with EventLog(folder.events) as log, preserve_global_state() as changes:
        with offered.offer.build(offered.offer.config(), folder) as reporter:
            for event in sample_run():
                before = asdict(event)
                reporter.report(event)
                assert asdict(event) == before
                log.append(event.to_json())
        assert random_numbers() == expected
    assert changes == []
