"""Gradients, positions, files and the loader of ``sparse``."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError
from tunesmith.options import from_table
from tunesmith.records import Chat, Completion, Message
from tunesmith.storage import Checkpoints
from tunesmith_sparse.layers import SparseLinear, add_values, choose_random, find_error
from tunesmith_sparse.masks import choose_positions
from tunesmith_sparse.offer import SPARSE
from tunesmith_sparse.options import SparseOptions
from tunesmith_sparse.technique import DELTA_FILE, Sparse
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.testing.exports import train_tiny

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FP32 = Precision(torch.float32, "test")
ROWS = tuple(
    Completion(source=f"rows:{n}", prompt=f"Who is {n}?", completion="one two") for n in range(8)
)


def options(**table: Any) -> SparseOptions:
    given = {"precision": "fp32", "batch_size": 4, "epochs": 3.0, "learning_rate": 1e-2}
    return from_table(SparseOptions, {**given, **table})


def make_job(config: SparseOptions, model: Path, out: Path, rows: Any = ROWS) -> Job[Any]:
    return Job(
        config=config, model=model, train=rows, validation=(), out=out, seed=3, device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"), emit=lambda event: None, technique="sparse",
    )  # fmt: skip


def train(config: SparseOptions, model: Path, out: Path) -> Path:
    out.mkdir()
    return Sparse(config).train(make_job(config, model, out)).path


def load(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=torch.arange(3, 15)[None]).logits
    return out


def sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "values" not in name:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_gradients_are_those_of_the_whole_matrix_at_the_positions() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(2, 3, 6, requires_grad=True)
    indices_K = torch.tensor([0, 7, 13, 29])
    sparse = SparseLinear(layer, indices_K)
    with torch.no_grad():
        sparse.values.normal_()
    dense_OI = layer.weight.detach().clone()
    dense_OI.view(-1)[indices_K] += sparse.values.detach()
    dense_OI.requires_grad_(True)
    other = x.detach().clone().requires_grad_(True)
    for output in (sparse(x), nn.functional.linear(other, dense_OI, layer.bias)):
        output.pow(3).sum().backward()
    assert dense_OI.grad is not None and sparse.values.grad is not None
    assert torch.allclose(sparse.values.grad, dense_OI.grad.view(-1)[indices_K], rtol=1e-4)
    assert x.grad is not None and other.grad is not None
    assert torch.allclose(x.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_random_positions_are_different_uniform_and_never_change() -> None:
    found = choose_random(42, "model.layers.0.mlp.up_proj", 2048, 20)
    assert found.tolist() == KNOWN
    many = choose_random(1, "x", 100_000, 20_000)
    assert len(set(many.tolist())) == 20_000 and (many.diff() > 0).all()
    thirds = torch.histc(many.float(), 3, 0, 100_000) / 20_000
    assert (thirds - 1 / 3).abs().max() < 0.02
    assert choose_random(1, "x", 10, 10).tolist() == [*range(10)]


KNOWN = [
    94,
    170,
    192,
    449,
    700,
    758,
    863,
    950,
    987,
    1304,
    1580,
    1663,
    1704,
    1737,
    1739,
    1808,
    1920,
    1947,
    1961,
    1979,
]


def test_the_base_is_unchanged_and_moments_hold_the_values_only(tiny_model: Path) -> None:
    base = load_model(tiny_model, torch.device("cpu"), FP32, packing=True)
    before, plain = sha256(base.model), logits(base.model)
    adapted = add_values(base, FP32, 0.05, [], None, seed=1)
    assert torch.equal(logits(base.model), plain), "values of 0 change nothing"
    masters = MasterWeights(adapted.named_trainable_parameters, options())
    logits_1TV = base.model(input_ids=torch.arange(3, 15)[None]).logits
    logits_1TV.square().mean().backward()
    masters.step(0.1)
    assert not torch.equal(logits(base.model), plain)
    count = adapted.num_trainable_parameters
    moments = [t.numel() for n, t in masters.state_dict().items() if n.startswith("exp_avg.")]
    assert sum(moments) == count == sum(round(0.05 * n) for n in layer_sizes(base.model))
    for layer in [m for m in base.model.modules() if isinstance(m, SparseLinear)]:
        layer.values.data.zero_()
    assert sha256(base.model) == before and torch.equal(logits(base.model), plain)


def layer_sizes(model: nn.Module) -> list[int]:
    return [m.weight.numel() for m in model.modules() if isinstance(m, SparseLinear)]


@pytest.mark.parametrize("mask", ["random", "magnitude", "gradient"])
def test_the_loader_of_the_readme_gives_the_trained_model(
    mask: str, tiny_model: Path, tmp_path: Path
) -> None:
    config = options(density=0.05, mask=mask)
    artifact = train(config, tiny_model, tmp_path / mask)
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    loader: dict[str, Any] = {}
    exec(program, loader)  # the README's own code
    model, base = load(tiny_model), sha256(load(tiny_model))
    plain = logits(model)
    before = loader["add"](model, str(artifact))
    trained: Any = Sparse(config).open(tiny_model, artifact, device="cpu")
    assert torch.allclose(logits(model), logits(trained.model), atol=1e-5)
    assert not torch.allclose(logits(model), plain, atol=1e-2), "nothing was trained"
    loader["restore"](model, before)
    assert sha256(model) == base


def test_a_random_mask_is_as_small_as_lora(tiny_model: Path, tmp_path: Path) -> None:
    """At equal numbers of parameters; stored positions double the size."""
    lora = train_tiny("lora", tiny_model, tmp_path / "lora").artifact / "adapter_model.safetensors"
    base = load_model(tiny_model, torch.device("cpu"), FP32, packing=True)
    add_values(base, FP32, 0.01, [], None, seed=1)
    density = 8192 / sum(layer_sizes(base.model))  # rank 8 in all linear layers
    sizes = {
        mask: (train(options(density=density, mask=mask), tiny_model, tmp_path / mask) / DELTA_FILE)
        .stat()
        .st_size
        for mask in ("random", "magnitude")
    }
    assert sizes["random"] <= 1.05 * lora.stat().st_size
    assert sizes["magnitude"] > 1.5 * sizes["random"]


def write_readme_run(folder: Path, model: Path, mask: str) -> None:
    """Write the README's files, for another model, with other lines in place of its mask."""
    (rows,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    text = text.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(model))
    (folder / "run.toml").write_text(text.replace('mask = "random"', mask), encoding="utf-8")


def test_wrong_names_are_found_in_the_plan(tiny_model: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    assert find_error(config, ["q_proj"]) is None
    error = find_error(config, ["q_prj"])
    assert error is not None and "the model has no linear layer q_prj" in error.message
    write_readme_run(tmp_path, tiny_model, 'mask = "random"\nmodules = ["q_prj"]')
    command = [sys.executable, "-m", "tunesmith", "check", "run.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "no linear layer q_prj" in done.stdout + done.stderr


def test_an_initial_model_is_refused() -> None:
    with pytest.raises(ValueError, match="starts from the base model"):
        options(**{"from": "runs/earlier"})


def test_damaged_artifacts_are_explained(tiny_model: Path, tmp_path: Path) -> None:
    artifact = train(options(modules=["q_proj"], mask="magnitude"), tiny_model, tmp_path / "run")
    delta = load_file(artifact / DELTA_FILE)
    name = next(key for key in delta if key.endswith(".indices"))
    values = name.replace(".indices", ".values")
    changes = {
        "values or positions": {name: delta[name] - 10_000},
        "values or positions in": {values: delta[values] * float("nan")},
        "out of bounds": {name: delta[name] + 10_000},
    }
    for message, change in changes.items():
        save_file({**delta, **change}, artifact / DELTA_FILE)
        with pytest.raises(IntegrityError, match=message):
            Sparse(options()).open(tiny_model, artifact, device="cpu")
    (artifact / DELTA_FILE).write_bytes(b"truncated")
    with pytest.raises(IntegrityError, match="do not fit this base model"):
        Sparse(options()).open(tiny_model, artifact, device="cpu")


def test_a_mask_by_gradient_has_the_largest_gradients(tiny_model: Path, tmp_path: Path) -> None:
    """Computed with plain transformers, on rows from all of the data, with their loss weights."""
    rows = tuple(
        Chat(
            source=f"rows:{n}",
            messages=(
                Message("user", f"Who is {n}?"),
                Message("assistant", "one" if n < 100 else "two three", weight=1 + n % 3),
            ),
        )
        for n in range(200)
    )
    config = options(density=0.03, mask="gradient", modules=["q_proj"])
    base = load_model(tiny_model, torch.device("cpu"), FP32, packing=True)
    chosen = choose_positions(base, make_job(config, tiny_model, tmp_path, rows))
    assert chosen is not None
    model = load(tiny_model)
    examples = (
        Template.from_options(base.tokenizer, config)
        .tokenize_records([rows[n * 200 // 64] for n in range(64)], 512)
        .examples
    )
    for n in range(64):
        ids_T = torch.as_tensor(examples[n].ids, dtype=torch.long)
        logprobs_TV = model(input_ids=ids_T[None]).logits[0].log_softmax(-1)
        nll_T = -logprobs_TV[:-1].gather(1, ids_T[1:, None])[:, 0]
        trained_T = torch.as_tensor(examples[n].trained)[1:]
        (nll_T * trained_T * (1 + n * 200 // 64 % 3)).sum().backward()
    for name, at in chosen.items():
        gradient = model.get_submodule(name).weight.grad.abs().flatten()
        others = torch.ones_like(gradient, dtype=torch.bool)
        others[at.long()] = False
        assert gradient[at.long()].min() >= gradient[others].max() * (1 - 1e-4)


def test_the_run_file_of_the_readme_runs(tiny_model: Path, tmp_path: Path) -> None:
    write_readme_run(tmp_path, tiny_model, 'mask = "random"')
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", "runs/one"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "runs/one/adapter" / DELTA_FILE).is_file()


def test_a_mask_by_magnitude_has_the_largest_weights(tiny_model: Path, tmp_path: Path) -> None:
    base = load_model(tiny_model, torch.device("cpu"), FP32, packing=True)
    config = options(density=0.03, mask="magnitude", modules=["q_proj"])
    job = make_job(config, tiny_model, tmp_path)
    chosen = choose_positions(base, job)
    assert chosen is not None and len(chosen) == 2
    for name, at in chosen.items():
        weights = base.model.get_submodule(name).weight.detach().abs().flatten()
        others = weights[[n for n in range(len(weights)) if n not in set(at.tolist())]]
        assert weights[at.long()].min() >= others.max()
    assert choose_positions(base, job) is not None, "a resumed run reads the stored positions"
    assert choose_positions(base, replace(job, config=options())) is None
    savings = SPARSE.memory_savings
    assert savings is not None and all("adapter" not in s.changes[0] for s in savings(config))
