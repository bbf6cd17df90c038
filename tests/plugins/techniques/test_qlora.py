"""QLoRA from the command line: training and evaluation on a 4-bit base, and the merge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tables import build
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith import api
from tunesmith.contracts import Job
from tunesmith.errors import RunStopped
from tunesmith.events import Event, StepFinished, TrainingStarted
from tunesmith.records import Completion, last_exchange
from tunesmith.storage import Checkpoints
from tunesmith_cli.app import app
from tunesmith_plugins.techniques.qlora.offer import QLORA
from tunesmith_plugins.techniques.qlora.options import QloraOptions
from tunesmith_torch.testing.tiny_model import save_tiny_model

RECORDS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two three")
    for n in range(16)
)
RUN = """
[model]
base = "base"

[data]
use = "jsonl"
train = "rows.jsonl"
test_size = 0.25

[technique]
use = "{technique}"
adapter.rank = 8
epochs = 4
batch_size = 4
learning_rate = 1e-2
precision = "fp32"

[baselines]
use = ["zero-shot"]

[[evaluators]]
use = "exact-match"

[[evaluators]]
use = "loss"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model whose rows are multiples of a block, so that all layers are quantized."""
    folder = save_tiny_model(tmp_path_factory.mktemp("base") / "llama")
    config = AutoConfig.from_pretrained(
        folder, hidden_size=128, intermediate_size=256, head_dim=32, use_cache=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
        # transformers initializes the embedding of the padding token with zeros. Padding ends
        # answers here, and a frozen head with a zero row could never learn to generate it.
        network.get_input_embeddings().weight[2].normal_(std=0.08)
    network.save_pretrained(folder)
    return folder


def job(model: Path, out: Path, emit: Any = lambda event: None, **changes: Any) -> Job[Any]:
    out.mkdir(parents=True, exist_ok=True)
    base = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "adapter__rank": 8,
    }
    return Job(
        config=build(QloraOptions, **{**base, **changes}), model=model, train=RECORDS,
        validation=(),
        out=out, seed=3, device="cpu", checkpoints=Checkpoints(out / "checkpoints"), emit=emit,
        technique="qlora",
    )  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
def test_learns_and_is_opened_as_it_was_trained(model: Path, tmp_path: Path, bits: int) -> None:
    events: list[Event] = []
    training_job = job(model, tmp_path, events.append, epochs=12, quantization__bits=bits)
    technique = QLORA.build(training_job.config)
    artifact = technique.train(training_job)
    steps = [event.loss for event in events if isinstance(event, StepFinished)]
    assert steps[-1] < 0.2 * steps[0]
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert started.details["bits"] == bits
    assert artifact.format == "adapter"
    prompts = [last_exchange(r)[0] for r in RECORDS[:4]]
    tuned = technique.open(model, artifact.path, device="cpu")
    base = technique.open(model, None, device="cpu")
    assert [g.text for g in tuned.generate(prompts, 8)] == ["one two three"] * 4
    scores = [
        sum(map(sum, (s.logprobs for s in m.score(prompts, ["one two three"] * 4))))
        for m in (base, tuned)
    ]
    assert scores[1] > scores[0] + 10
    config = json.loads((artifact.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model)


def test_resumed_run_ends_with_the_same_weights(model: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 5:
            raise RunStopped("stop after step 5")

    changes = {"adapter__dropout": 0.1, "epochs": 2}
    uninterrupted = job(model, tmp_path / "uninterrupted", **changes)
    artifact = QLORA.build(uninterrupted.config).train(uninterrupted)
    interrupted = job(model, tmp_path / "interrupted", stop, **changes)
    with pytest.raises(RunStopped):
        QLORA.build(interrupted.config).train(interrupted)
    resumed = QLORA.build(interrupted.config).train(replace(interrupted, emit=lambda event: None))
    first, second = (load_file(a.path / "adapter_model.safetensors") for a in (artifact, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_small_updates_are_not_rounded_away(model: Path, tmp_path: Path) -> None:
    """At 1e-5 a bf16 adapter keeps few of its updates; over a bf16 base, fp32 ones keep all."""
    adapters = []
    for steps in (1, 9):
        training_job = job(
            model, tmp_path / str(steps), precision="bf16", learning_rate=1e-5, epochs=steps,
            max_steps=steps, schedule__type="constant", schedule__warmup_ratio=0.0,
        )  # fmt: skip
        artifact = QLORA.build(training_job.config).train(training_job)
        adapters.append(load_file(artifact.path / "adapter_model.safetensors"))
    changed = [a != b for a, b in zip(adapters[0].values(), adapters[1].values(), strict=True)]
    entries = sum(c.numel() for c in changed)
    assert sum(int(c.sum()) for c in changed) / entries > 0.95


def tunesmith(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, prog_name="tunesmith")


@pytest.fixture
def project(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(model)
    rows = [{"prompt": f"Who is {n}?", "completion": "one two three"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.processes
def test_run_and_export(project: Path) -> None:
    (project / "run.toml").write_text(RUN.format(technique="qlora"))
    done = tunesmith("run", "run.toml", "--out", "run")
    assert done.exit_code == 0, done.output
    assert (project / "run" / "adapter" / "adapter_config.json").is_file()

    merged = tunesmith("export", "run", "--to", "safetensors", "--json")
    assert merged.exit_code == 0, merged.output
    folder = Path(json.loads(merged.stdout)["path"])
    assert folder.resolve() == project / "run" / "export" / "safetensors"
    assert AutoConfig.from_pretrained(folder).model_type == "llama"
    assert (folder / "model.safetensors").is_file()
    assert tunesmith("verify", "run").exit_code == 0


def test_planning_imports_no_heavy_library(project: Path) -> None:
    import subprocess
    import sys

    (project / "run.toml").write_text(RUN.format(technique="qlora"))
    code = (
        "import sys; from tunesmith import api; plan, _ = api.load_plan('run.toml');"
        "options = plan.technique.config;"
        "assert options.gradient_checkpointing is None and options.quantization.bits == 4;"
        "assert not {'torch', 'bitsandbytes', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert api.load_plan(project / "run.toml")[0].technique.offer is QLORA
