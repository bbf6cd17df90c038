"""Signals, limits, losses that go wrong, and what changed between two halves of a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from tunesmith.storage import Checkpoints, verify
from tunesmith_data.load import RowLoader
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models import adapters
from tunesmith_torch.training import loop, training_state

PLACES: dict[str, tuple[Any, str, int]] = {
    "data preparation": (RowLoader, "load", 1),
    "evaluation": (TorchTextModel, "score", 1),
    "training": (loop._Stepper, "gradient", 4),
    "saving": (training_state, "save_file", 2),
}
SIGNALS = {
    "SIGINT": ((signal.SIGINT,), 130),
    "SIGTERM": ((signal.SIGTERM,), 143),
    "SIGINT twice": ((signal.SIGINT, signal.SIGINT), 130),
}


def sends(*numbers: int) -> Callable[[], None]:
    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.001)  # the interpreter runs handlers between two instructions

    return send


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_anywhere(faults: Any, real: Any, workshop: Any, place: str, sent: str) -> None:
    """Once: at the next step, with a checkpoint and the command to go on. Twice: at once."""
    setting = real.Setting()
    whole = real.evidence(workshop.whole(setting))
    run = workshop.place / "signalled" / "run"
    shutil.rmtree(run, ignore_errors=True)
    numbers, code = SIGNALS[sent]
    stop = real.before_call(*PLACES[place], sends(*numbers))
    end = real.command("run", workshop.run_file(setting), "--out", run, prepare=stop)
    assert end.code == code, end.said
    assert "stopping after this step" in end.said
    steps = [event["step"] for event in real.events(run, "stepped")]
    newest = Checkpoints(run / "checkpoints").newest(repair=False)
    if len(numbers) == 1:
        assert f"resume with: tunesmith resume {run}" in end.said
        assert (newest.step if newest else 0) == (steps[-1] if steps else 0)
        assert json.loads((run / "report.json").read_text())["run"]["exit_code"] == code
    elif place in ("training", "saving"):
        assert newest is not None
        assert newest.step == 2
        assert verify(newest.path) == []
    resumed = real.command("resume", run)
    assert resumed.code == 0, resumed.said
    assert real.evidence(run) == whole
    faults.count(f"{sent} in {place}")


def test_another_process_ends_in_the_same_bits(
    faults: Any, real: Any, workshop: Any, tmp_path: Path
) -> None:
    """Real processes with other hash seeds: stopped by a real SIGINT, resumed by another one."""
    setting = real.Setting(micro_batch_tokens=60, epochs=8)
    run = tmp_path / "run"
    begun = _process(1, "run", workshop.run_file(setting), "--out", run)
    while len(real.events(run, "stepped")) < 3 and begun.poll() is None:
        time.sleep(0.005)
    begun.send_signal(signal.SIGINT)
    said, _ = begun.communicate(timeout=60)
    assert begun.returncode == 130, said
    resumed = _process(2, "resume", run)
    said, _ = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, said
    assert real.evidence(run) == real.evidence(workshop.whole(setting))
    faults.count("stopped and resumed by separate interpreters")


def _process(seed: int, *args: str | Path) -> subprocess.Popen[str]:
    program = "from tunesmith.cli.app import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_time_limit_exits_with_75(faults: Any, real: Any, workshop: Any) -> None:
    setting = real.Setting()
    run = workshop.place / "limited" / "run"
    file = workshop.run_file(setting)
    end = real.command("run", file, "--out", run, "--set", "run.max_minutes=0.001")
    codes = [end.code]
    assert "tunesmith resume" in end.said
    while codes[-1] == 75 and len(codes) < 40:
        codes.append(real.command("resume", run).code)
    assert codes[0] == 75
    assert codes[-1] == 0
    assert real.evidence(run) == real.evidence(workshop.whole(setting))
    faults.count("stopped by max_minutes, exit 75, resumed", len(codes) - 1)


# --- losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("micro", [60, 4096], ids=["one micro-batch of several", "the whole batch"])
def test_not_finite_exits_with_5_and_a_post_mortem(
    faults: Any, real: Any, workshop: Any, where: str, micro: int
) -> None:
    setting = real.Setting(micro_batch_tokens=micro)
    at = 17 if micro == 60 else 4

    def change(loss: Any, call: int) -> Any:
        if call != at:
            return loss
        return loss * float("nan") if where == "forward" else loss + (loss - loss.detach()) * 1e39

    run = workshop.place / "ill" / "run"
    shutil.rmtree(run, ignore_errors=True)
    file = workshop.run_file(setting)
    end = real.command("run", file, "--out", run, prepare=real.poisoned(change))
    assert end.code == 5, end.said
    assert "not finite" in end.said
    found = json.loads((run / "postmortem.json").read_text())
    steps = real.events(run, "stepped")
    assert found["step"] == len(steps) + 1
    assert found["rows"]
    assert found["last_good_checkpoint"] == f"step-{len(steps) // 2 * 2:08d}"
    assert found["learning_rate"] > 0
    resumed = real.command("resume", run)
    assert resumed.code == 0, resumed.said
    assert real.evidence(run) == real.evidence(workshop.whole(setting))
    faults.count("NaN or infinity: exit 5, nothing updated, resumed")


def freeze() -> None:
    from tunesmith_plugins.techniques.full import technique

    def frozen(base: Any, precision: Any) -> adapters.Adapted:
        adapted = adapters.adapt_all(base, precision)
        adapted.model.requires_grad_(False)
        return adapted

    technique.adapt_all = frozen  # type: ignore[assignment]


FAULTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "diverges": ({}, lambda loss, call: loss * call, "diverged"),
    "zero": ({}, lambda loss, call: loss * 0.0, "has not moved"),
    "constant": ({}, lambda loss, call: loss - loss.detach(), "has not moved"),
    "no gradient": ({}, lambda loss, call: loss.detach() + 0.0 * loss, "every gradient was zero"),
    "nothing is trained": ({}, freeze, "no parameter of the model is trained"),
    "nothing carries loss": ({"max_length": 8}, None, "no row can be learned from"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_training_that_makes_no_sense_is_named_within_twenty_steps(
    faults: Any, real: Any, workshop: Any, fault: str
) -> None:
    changes, change, said = FAULTS[fault]
    prepare = change if change in (None, freeze) else real.poisoned(change)
    run = workshop.place / "senseless" / "run"
    shutil.rmtree(run, ignore_errors=True)
    file = workshop.run_file(real.Setting("full", epochs=20), **changes)
    end = real.command("run", file, "--out", run, prepare=prepare)
    assert end.code == (3 if fault == "nothing carries loss" else 5), end.said
    assert said in end.said
    begins = 3 if fault == "diverges" else 0
    assert len(real.events(run, "stepped")) <= 20 + begins
    faults.count("senseless training named within twenty steps")


# --- drift -----------------------------------------------------------------------------------


def _edit(run: Path, table: str, key: str, value: Any) -> None:
    tables = tomllib.loads((run / "run.toml").read_text())
    tables[table][key] = value
    (run / "run.toml").write_text(tomli_w.dumps(tables))


def _row(run: Path, place: Path) -> None:
    path = place / "rows.jsonl"
    path.write_text(path.read_text().replace("What is 7?", "What is 8?", 1))


def _weights(run: Path, place: Path) -> None:
    path = place / "model" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    next(iter(tensors.values())).view(-1)[0] += 1.0
    save_file(tensors, path, {"format": "pt"})


def _template(run: Path, place: Path) -> None:
    path = place / "model" / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant", "bot"))


DRIFT: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "technique option": (
        lambda run, place: _edit(run, "technique", "learning_rate", 5e-4),
        "technique.learning_rate 0.001 then, 0.0005 now",
    ),
    "seed": (lambda run, place: _edit(run, "run", "seed", 4), "run.seed 3 then, 4 now"),
    "row": (_row, "the data changed since the run began: 40 + 4 rows then, 40 + 4 now"),
    "weights": (_weights, "the base model changed since the run began: model.safetensors"),
    "template": (_template, "the base model changed since the run began: chat_template.jinja"),
}


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_refused_named_and_accepted_on_the_record(
    faults: Any, real: Any, tmp_path: Path, what: str
) -> None:
    own = real.Workshop(tmp_path)
    run = own.half(real.Setting())
    change, named = DRIFT[what]
    change(run, tmp_path)
    refused = real.command("resume", run)
    assert refused.code == 2, refused.said
    assert named in refused.said
    assert "--accept-drift" in refused.said
    steps = len(real.events(run, "stepped"))
    # Stopped once more: what was accepted need not be accepted again.
    stop = real.before_call(training_state, "save", 1, sends(signal.SIGTERM))
    accepted = real.command("resume", run, "--accept-drift", prepare=stop)
    assert accepted.code == 143, accepted.said
    assert len(real.events(run, "stepped")) > steps
    noticed, *_ = [e for e in real.events(run, "noticed") if e["source"] == "resume"]
    assert noticed["message"].startswith(f"accepted: {named.partition(':')[0]}") or (
        named in noticed["message"]
    )
    again = real.command("resume", run)
    assert again.code == 0, again.said
    faults.count("drift refused, named, accepted on the record")


def test_what_decides_nothing_is_no_drift(faults: Any, real: Any, workshop: Any) -> None:
    run = workshop.copy(workshop.half(real.Setting()))
    _edit(run, "run", "max_minutes", 60)
    _edit(run, "run", "folder", "/elsewhere")
    end = real.command("resume", run, "--quiet")
    assert end.code == 0, end.said
    faults.count("a change that decides nothing is no drift")


# --- cost ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "megabytes", [32, pytest.param(1000, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_what_a_checkpoint_costs(
    faults: Any, tmp_path_factory: pytest.TempPathFactory, megabytes: int
) -> None:
    """Measured on the disk of the temporary folder, with every flush; told, not judged."""
    tensor = torch.zeros(megabytes * 250_000)
    folder = tmp_path_factory.mktemp("cost")

    def write(place: Path) -> None:
        save_file({"state": tensor}, place / "training.safetensors")

    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(0, write)
    started = time.perf_counter()
    checkpoints.save(1, write)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    assert checkpoints.newest() is not None
    reading = time.perf_counter() - started
    per_gb = 1000 / megabytes
    faults.note(
        f"a checkpoint of {megabytes} MB: {seconds * per_gb:.1f} s per GB to save, "
        f"{reading * per_gb:.1f} s per GB to verify"
    )
    shutil.rmtree(folder)
