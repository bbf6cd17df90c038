"""A launcher that writes the events of a run at once, from the options of its run file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.events import JSON

Script = Callable[[dict[str, Any]], Sequence[JSON]]


def succeed(value: float, validation_losses: Sequence[float] = (), steps: int = 10) -> list[JSON]:
    """Return the events of a run with this result and these validation losses, evenly spaced."""
    measured = {"event": "measured", "model": "tuned", "evaluator": "loss", "metric": "loss"}
    return [
        {"event": "run-started"},
        {"event": "training-started", "steps": steps},
        *(
            {
                "event": "monitored",
                "step": steps * n // len(validation_losses),
                "metrics": {"validation_loss": x},
            }
            for n, x in enumerate(validation_losses, 1)
        ),
        {**measured, "value": value, "low": value - 0.5, "high": value + 0.5, "n": 20},
        {"event": "run-finished", "status": "ok", "error": "", "seconds": 2.0},
    ]


def fail(reason: str) -> list[JSON]:
    """Return the events of a run that fails."""
    end = {"event": "run-finished", "status": "failed", "error": reason, "seconds": 1.0}
    return [{"event": "run-started"}, end]


@dataclass
class FakeLauncher:
    """Ends each run at the first look, or after some."""

    script: Script
    looks: int = 0
    """Looks at a run at which it is still active."""
    poll_seconds: float = 0.0
    leaves_runs: bool = False
    started: list[Path] = field(default_factory=list)
    stopped: list[Path] = field(default_factory=list)
    most: int = 0
    """Most runs at the same time."""
    _left: dict[Path, int] = field(default_factory=dict)

    def start(self, folder: Path) -> None:
        self.started.append(folder)
        self._left[folder] = self.looks
        self.most = max(self.most, len(self._left))
        options = tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))["technique"]
        with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + "\n" for event in self.script(options))

    def is_active(self, folder: Path) -> bool:
        self._left[folder] -= 1
        if self._left[folder] >= 0:
            return True
        del self._left[folder]
        return False

    def stop(self, folder: Path) -> None:
        self.stopped.append(folder)
        self._left[folder] = 0

    def describe_end(self, folder: Path) -> str:
        return "its process was killed"
