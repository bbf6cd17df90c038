"""Fixtures of every test: run folders, and the dashboard at a fixed size."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import sample_runs

from tunesmith_tui.app import Dashboard
from tunesmith_tui.library import Library

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with three runs and a search of three trials."""
    return sample_runs.write_library(tmp_path / "runs")


def read_screen(app: Dashboard) -> str:
    """Return what the terminal shows, without styles."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


@pytest.fixture
def press() -> Callable[..., list[str]]:
    """Return a function that presses keys in the dashboard, and returns the text after each."""

    def run(folder: Path, *keys: str, size: tuple[int, int] = (80, 24)) -> list[str]:
        async def drive() -> list[str]:
            screens = []
            app = Dashboard(Library([folder]), lambda: "load 0.5 on 2 processors")
            async with app.run_test(size=size) as pilot:
                app.library.advance(60)
                app.refresh_view()
                for sequence in keys:
                    await pilot.press(*sequence.split())
                    await pilot.pause()
                    await app.workers.wait_for_complete()
                    app.refresh_view()
                    await pilot.pause()
                    screens.append(read_screen(app))
            return screens

        return asyncio.run(drive())

    return run
