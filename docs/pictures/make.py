"""Make the pictures of the documentation: ``python docs/pictures/make.py RUN LOW HIGH``.

``RUN`` is a finished run of ``make quickstart``. ``LOW`` and ``HIGH`` are two of LoRA with
different learning rates::

    tunesmith run quickstart/run.toml --set technique.use=lora --set baselines.budget=1s --out LOW
    tunesmith run quickstart/run.toml --set technique.use=lora --set baselines.budget=1s \\
        --set technique.learning_rate=1e-3 --out HIGH

It writes six files beside this script, every number in them from these runs:

* ``example.svg``: the result card of ``RUN``
* ``live.svg``: the live display of ``RUN`` at a step of its training, replayed from its event log
* ``report.svg``: the beginning of ``tunesmith report RUN``
* ``report-page.png``: the first screen of its page, as the browser ``chromium`` shows it
* ``compare.svg``: ``tunesmith compare LOW HIGH``
* ``compare-page.png``: its page
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tunesmith.events import StepFinished, from_json
from tunesmith.storage import RunFolder
from tunesmith.storage.event_log import read_events
from tunesmith_plugins.reporters.console.live import LiveReporter

HERE = Path(__file__).parent
WIDTH = 100
"""Columns of the terminals in the pictures."""
PAGE_WIDTH = 1200
"""Width of the pictures of pages."""
STEP = 40
"""The step of the training that the picture of the live display shows."""
LIVE_LINES, REPORT_LINES = 20, 15
"""The last lines of the live display, and the first ones of the report, that are shown."""
SVG = re.sub(r"\s*@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace"
)
SVG = SVG.replace("<svg ", '<svg xml:space="preserve" ', 1)
"""Format of an SVG that loads no font from elsewhere and keeps the spaces of a line."""


def main() -> None:
    """Write the pictures of the runs that the command line names."""
    run, low, high = map(Path, sys.argv[1:])
    card = HERE / "example.svg"
    card.unlink(missing_ok=True)
    capture("tunesmith", "report", str(run), "--card", str(card))
    shown = live_display(run)
    save(terminal(shown[-LIVE_LINES:]), "live.svg", f"tunesmith run, at step {STEP}")
    report = capture("tunesmith", "report", str(run))
    save(terminal(report.splitlines()[:REPORT_LINES]), "report.svg", "tunesmith report RUN")
    capture("tunesmith", "report", str(run), "--to", "html")
    screenshot(run.resolve() / "report.html", "report-page.png", 705)
    compared = capture("tunesmith", "compare", str(low), str(high), "--items", "1")
    title = f"tunesmith compare {low.name} {high.name}"
    save(terminal(compared.splitlines()), "compare.svg", title)
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        capture("tunesmith", "compare", str(low), str(high), "--page", str(page))
        screenshot(page, "compare-page.png", 1000)


def screenshot(page: Path, name: str, height: int) -> None:
    """Write the beginning of a page as a picture beside this script."""
    size = f"--window-size={PAGE_WIDTH},{height}"
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", size]
    picture = f"--screenshot={HERE / name}"
    subprocess.run(["chromium", *options, picture, page.as_uri()], check=True, capture_output=True)


def capture(*command: str) -> str:
    """Run a command in a terminal and return what it prints, with its colors."""
    program = Path(sys.executable).parent / command[0]
    here, there = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    with subprocess.Popen([program, *command[1:]], stdout=there, env=environment) as process:
        os.close(there)
        chunks = []
        with suppress(OSError):  # the end of the output
            while chunk := os.read(here, 1 << 16):
                chunks.append(chunk)
    os.close(here)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return b"".join(chunks).decode().replace("\r\n", "\n")


def terminal(lines: Iterable[str]) -> Console:
    """Return a terminal that shows these lines."""
    console = recorder()
    console.print(Text.from_ansi("\n".join(lines).rstrip()))
    return console


def live_display(run: Path) -> list[str]:
    """Return the lines of the live display of a run, at the times of its event log."""
    log = RunFolder(run).events
    reporter = LiveReporter(sys.stderr, log)
    reporter._console = console = recorder()
    with mock.patch("tunesmith_plugins.reporters.console.live.time") as clock:
        for line in read_events(log):
            clock.monotonic.return_value = line["time"]
            event = from_json(line)
            if event is not None:
                reporter.report(event)
            if isinstance(event, StepFinished) and event.step == STEP:
                break
        console.print(reporter._render())
    return console.export_text(styles=True).splitlines()


def recorder() -> Console:
    """Return a console that remembers what it prints."""
    return Console(
        record=True,
        width=WIDTH,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        markup=False,
        emoji=False,
    )


def save(console: Console, name: str, title: str) -> None:
    """Write what a console printed as an SVG beside this script."""
    svg = console.export_svg(title=title, code_format=SVG, unique_id=Path(name).stem)
    (HERE / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
