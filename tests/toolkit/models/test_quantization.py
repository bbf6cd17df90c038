"""Quantized bases: small in memory from the start, equal in training and evaluation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.errors import EnvironmentProblem, IntegrityError
from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.kernels import varlen_attention
from tunesmith_torch.losses.selected_positions import (
    get_lm_head,
    hidden_at_targets,
    max_logprob_difference,
)
from tunesmith_torch.models.adapters import adapt_lora
from tunesmith_torch.models.loading import LoadedBase, load_base
from tunesmith_torch.models.quantization import (
    Quantization,
    dequantize,
    load_quantized,
    quantized_layers,
    weight_bytes,
)
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import pick_precision

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 200, 17, 42, 300, 7]])
NF4 = Quantization()


def enlarge(tiny: Path, folder: Path, **sizes: int) -> Path:
    """Save a model with the tiny model's tokenizer and random weights of other sizes."""
    shutil.copytree(tiny, folder)
    config = AutoConfig.from_pretrained(tiny, **sizes)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model whose rows are multiples of a quantization block."""
    path = tmp_path_factory.mktemp("blocks") / "llama"
    return enlarge(tiny_folder, path, hidden_size=64, intermediate_size=128, head_dim=16)


def load(folder: Path, quantization: Quantization = NF4, **changes: Any) -> LoadedBase:
    settings: dict[str, Any] = {"device": CPU, "dtype": torch.float32, **changes}
    return load_quantized(folder, quantization, **settings)


def test_only_linear_layers_are_quantized(folder: Path) -> None:
    base, plain = load(folder), load_base(folder, device=CPU, dtype=torch.bfloat16)
    layers = quantized_layers(base.model)
    assert len(layers) == 2 * 7
    assert type(base.model.get_output_embeddings()) is nn.Linear
    assert base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    full = sum(plain.model.get_submodule(name).weight.nbytes for name in layers)
    # The tables of double quantization take 1 KiB per layer, a large share of such small layers.
    tables = len(layers) * 1200
    assert weight_bytes(base.model) - tables <= 0.35 * full


def test_layers_with_incomplete_blocks_are_not_quantized(tiny_folder: Path) -> None:
    """Rows of the tiny model are 32 wide, half a block, except in the last matrix of a layer."""
    layers = quantized_layers(load(tiny_folder).model)
    assert {name.rsplit(".", 1)[1] for name in layers} == {"down_proj"}
    assert len(quantized_layers(load(tiny_folder, Quantization(8)).model)) == 2 * 7


@pytest.mark.parametrize(
    "quantization", [NF4, Quantization(double_quantization=False), Quantization(8)]
)
def test_a_layer_is_close_to_the_original_and_multiplies_by_its_dequantized_matrix(
    folder: Path, quantization: Quantization
) -> None:
    base = load(folder, quantization)
    plain = load_base(folder, device=CPU, dtype=torch.float32)
    for name, layer in quantized_layers(base.model).items():
        original = plain.model.get_submodule(name).weight
        dequantized = dequantize(layer, torch.float32)
        error = (dequantized - original).norm() / original.norm()
        assert error < (0.12 if quantization.bits == 4 else 0.02)
        x = torch.randn(3, layer.in_features)
        tolerance = 1e-5 if quantization.bits == 4 else 0.1  # int8 rounds the input too
        torch.testing.assert_close(layer(x), x @ dequantized.T, atol=tolerance, rtol=tolerance)


def test_evaluation_does_not_change_training(folder: Path) -> None:
    """bitsandbytes repacks 4-bit layers permanently in eval mode on some CPUs."""
    base = load(folder)
    before = {n: m.weight.data.clone() for n, m in quantized_layers(base.model).items()}
    with torch.no_grad():
        in_eval = base.model.eval()(input_ids=IDS).logits
    base.model.train()
    in_training = base.model(input_ids=IDS).logits
    assert torch.equal(in_eval, in_training.detach())
    layers = quantized_layers(base.model)
    assert all(torch.equal(before[n], layers[n].weight.data) for n in layers)


def test_the_packed_fused_loss_has_the_gradients_of_the_plain_computation(folder: Path) -> None:
    varlen_attention.register_varlen_attention()
    base = load(folder, attention=varlen_attention.ATTENTION_NAME)
    adapted = adapt_lora(base, pick_precision(CPU, "fp32"), AdapterOptions(rank=4), 0)
    for _, parameter in adapted.named_trainable_parameters:
        nn.init.normal_(parameter, std=0.05)
    assert max_logprob_difference(adapted.model) < 1e-4
    rows = [torch.randint(300, (n,)).numpy() for n in (11, 5, 8)]
    examples = [Example(row, torch.arange(len(row)).numpy() > 3) for row in rows]
    gradients = []
    for plain in (False, True):
        adapted.model.zero_grad()
        if plain:
            for row, example in zip(rows, examples, strict=True):
                ids = torch.from_numpy(row)[None]
                labels = ids.masked_fill(~torch.from_numpy(example.trained), -100)
                logits = adapted.model(input_ids=ids).logits[0, :-1]
                nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").backward()
        else:
            batch = collate(examples, range(3), packed=True)
            get_lm_head(adapted.model).loss(
                hidden_at_targets(adapted.model, batch), batch
            ).backward()
        gradients.append(
            [p.grad.clone() for _, p in adapted.named_trainable_parameters if p.grad is not None]
        )
    assert len(gradients[0]) == len(adapted.named_trainable_parameters)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-4)


def test_adapters_are_fp32_over_a_bf16_base(folder: Path) -> None:
    base = load(folder, dtype=torch.bfloat16)
    adapted = adapt_lora(base, pick_precision(CPU, "bf16"), AdapterOptions(), 0)
    assert {p.dtype for _, p in adapted.named_trainable_parameters} == {torch.float32}
    assert adapted.num_parameters > sum(p.numel() for p in adapted.model.parameters())


def damage_weights(folder: Path, tmp_path: Path, change: Any) -> Path:
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), "missing"),
        (lambda t: t.update({"model.layers.7.x.weight": torch.ones(2)}), "not in the model"),
        (lambda t: t.update({NAME: torch.ones(64, 31)}), "describes the shape"),
        (lambda t: t[NAME][3].fill_(float("nan")), "not finite"),
        (lambda t: t[NAME][3].fill_(float("inf")), "not finite"),
    ],
    ids=["missing", "left over", "shape", "nan", "inf"],
)
def test_an_incomplete_or_damaged_model_is_refused(
    folder: Path, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(IntegrityError, match=message):
        load(damage_weights(folder, tmp_path, change))


def test_missing_bitsandbytes_is_an_error_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(EnvironmentProblem, match="bitsandbytes cannot be imported: import of"):
        load(folder)


MEASURE = """
import json, sys, threading, time
from pathlib import Path
import torch
from tunesmith_torch.models.quantization import Quantization, load_quantized

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith("RssAnon"))

def load(folder):
    settings = {"device": torch.device("cpu"), "dtype": torch.bfloat16}
    return load_quantized(Path(folder), Quantization(), **settings)

load(sys.argv[1])  # imports and caches
before, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous()); time.sleep(0.001)
watcher = threading.Thread(target=watch); watcher.start()
base = load(sys.argv[2])
done = True; watcher.join()
stored = base.model.get_memory_footprint()
linear = [m for m in base.model.model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
layer = 2 * sum(m.in_features * m.out_features for m in linear)
print(json.dumps({"peak": peak - before, "stored": stored, "layer": layer}))
"""


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's /proc")
def test_peak_memory_of_loading_is_the_quantized_size_plus_one_layer(
    tiny_folder: Path, tmp_path: Path
) -> None:
    large = enlarge(
        tiny_folder, tmp_path / "big", hidden_size=512, intermediate_size=1408,
        num_hidden_layers=20, num_attention_heads=8, num_key_value_heads=4, head_dim=64,
    )  # fmt: skip
    # With this setting glibc returns freed large blocks, so the peak counts live memory only.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tiny_folder), str(large)],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    measured = json.loads(done.stdout)
    assert measured["peak"] <= 1.3 * measured["stored"] + measured["layer"], measured


FAKE_KERNELS = """
from pathlib import Path
def get_kernel(*names, **options):
    Path({!r}).touch()
    raise OSError
"""


@pytest.mark.processes
@pytest.mark.parametrize("imported_before", [False, True])
def test_no_code_is_downloaded_from_a_hub(tmp_path: Path, imported_before: bool) -> None:
    """An installed package ``kernels`` is not called, and nothing is printed."""
    called, fake = tmp_path / "called", tmp_path / "kernels"
    fake.mkdir()
    (fake / "__init__.py").write_text(FAKE_KERNELS.format(str(called)))
    code = "import kernels\n" if imported_before else ""
    code += (
        "import tunesmith_torch.models.adapters; from tunesmith_torch.runtime import bitsandbytes\n"
        "bitsandbytes.import_bitsandbytes(); import kernels; assert kernels.get_kernel"
    )
    roots = [str(tmp_path), *(p for p in sys.path if p)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not called.exists()


def test_every_module_that_imports_peft_imports_our_import_of_it_first() -> None:
    import ast

    import tunesmith_torch

    for path in sorted(Path(tunesmith_torch.__path__[0]).rglob("*.py")):
        modules = [
            (node.module or "", [alias.name for alias in node.names])
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom)
        ]
        peft_imports = [
            i for i, (module, _) in enumerate(modules) if module.split(".")[0] == "peft"
        ]
        own_imports = [i for i, (_, names) in enumerate(modules) if "peft_import" in names]
        assert not peft_imports or (own_imports and own_imports[0] < peft_imports[0]), path.name


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
