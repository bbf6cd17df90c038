"""Run folders without a training: an event log, checkpoints and an artifact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tunesmith.storage import Checkpoints, commit_folder


def make_run(folder: Path, steps: Iterable[int] = (10, 20)) -> Path:
    """Write a run folder with a checkpoint for each step."""
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "lease").write_text("{}")
    (folder / "run.toml").write_text("[run]\n")
    (folder / "events.jsonl").touch()
    for step in steps:
        add_step(folder, step)
    return folder


def add_step(folder: Path, step: int) -> None:
    """Train up to a step: a line in the log, and a checkpoint."""

    def write(staging: Path) -> None:
        (staging / "weights").mkdir()
        (staging / "weights" / "model.bin").write_bytes(f"weights {step} ".encode() * 100)
        (staging / "state.json").write_text(f'{{"step": {step}}}')

    with (folder / "events.jsonl").open("a") as log:
        log.write(f'{{"event": "step-finished", "step": {step}}}\n')
    Checkpoints(folder / "checkpoints").save(step, write)


def add_artifact(folder: Path) -> None:
    """Commit an artifact, and name it in the log."""
    commit_folder(folder / "artifact", lambda path: (path / "model").write_text("trained") and None)
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"event": "training-finished"}\n')


def read_run(folder: Path) -> dict[str, bytes]:
    """Return the content of every file that belongs to the run, by its path."""
    own = {"lock", "lease", "remote.json"}
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    return {name: path.read_bytes() for path, name in names.items() if name not in own}
