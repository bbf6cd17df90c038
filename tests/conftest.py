"""Set-up of every test: few threads, lanes, and fixtures of the conformance kit."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
THIRD_PARTY = HERE / "fixtures" / "third_party"

# Before torch is imported by anybody.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in [n for n in os.environ if n.startswith("TUNESMITH_")]:
    del os.environ[name]
# Runs of tests do not ask general prompts, except where side effects are tested.
os.environ["TUNESMITH__RUN__SIDE_EFFECTS"] = "false"

# Helpers of the tests, and the third-party technique as a plain module.
sys.path[:0] = [str(HERE / "fixtures" / "python"), str(THIRD_PARTY / "tunesmith-echo" / "src")]

import trials  # noqa: E402 - found there

pytest_plugins = ["tunesmith.testing.fixtures", "property_law"]

# Machines differ in speed, and the first draws wait for imports: neither is a defect.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


MARKERS = {
    "third_party": "environment",
    "workshop": "processes",
    "ranks_folder": "processes",
    "smollm2": "real_model",
}
"""The marker that a test needs if it uses this fixture: it decides the lane of the test."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            marker = MARKERS.get(fixture)
            if marker is not None and item.get_closest_marker(marker) is None:
                raise pytest.UsageError(
                    f"{item.nodeid} uses {fixture}, so it needs pytest.mark.{marker}"
                )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while libraries are imported: they create a million objects to keep."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(autouse=True, scope="module")
def few_objects_to_visit() -> None:
    """Exempt what exists from garbage collection, above all the modules of libraries.

    Otherwise each ``gc.collect()`` of a run, of which there are several, visits a million objects.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a hub would serve it. Read it, copy it, do not change it."""
    from tunesmith_torch.testing.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(autouse=True)
def no_encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the encoder that ``make install`` brings: to load it takes most of a second per run."""
    if request.node.get_closest_marker("real_model") is None:
        found = "tunesmith_plugins.encoders.sentence_encoder.find_in_wheel"
        monkeypatch.setattr(found, lambda package: None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands over what it counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["trials"] = trials.export_counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it; a worker that died hands nothing over."""
    if handed := getattr(node, "workeroutput", {}).get("trials"):
        trials.merge_counts(handed)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    trials.print_summary(terminalreporter)
