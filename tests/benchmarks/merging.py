"""Measure the memory in which an adapter is merged into a large model of several files.

``python -m tests.benchmarks.merging --out FOLDER`` writes a random Llama of 3 billion parameters in
bfloat16 with an adapter of rank 16, merges it in a process of its own, and prints its peak beside
that of a process that imports the same and does nothing, and beside the bound: two files and 1 GB.
``--layers`` makes it smaller. The folder takes 20 GB of disk with the default.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tunesmith_torch.models.loading import build_on_meta
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer

SHARD_BYTES = 1 << 30
RANK = 16
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MERGE = """
import sys
from pathlib import Path
import torch
from tunesmith_torch.export.merge_by_tensor import write_merged
from tunesmith_torch.models.merging import MergeOptions
base, adapter, out = map(Path, sys.argv[1:4])
options = MergeOptions(torch.device("cpu"), torch.float32)
if out.name != "nothing":
    write_merged(base, adapter, out, options, torch.bfloat16)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_base(folder: Path, layers: int) -> Path:
    """Write a random model in files of at most 1 GiB."""
    config = LlamaConfig(
        vocab_size=128_256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=24, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
        dtype="bfloat16",
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(_shards(config)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _shards(config: LlamaConfig) -> Iterator[dict[str, torch.Tensor]]:
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, parameter in model.named_parameters():
        tensor = torch.empty(parameter.shape, dtype=torch.bfloat16).normal_(std=0.02)
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def write_adapter(base: Path, folder: Path) -> Path:
    """Write a LoRA adapter with random values."""
    folder.mkdir()
    weights = {}
    for name, module in build_on_meta(base).named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ADAPTED:
            key = f"base_model.model.{name}"
            weights[f"{key}.lora_A.weight"] = torch.randn(RANK, module.in_features) / 50
            weights[f"{key}.lora_B.weight"] = torch.randn(module.out_features, RANK) / 50
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK,
        "target_modules": list(ADAPTED), "base_model_name_or_path": str(base),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def measure(base: Path, adapter: Path, out: Path) -> int:
    """Return the peak of a process that merges, in bytes; of one that does not, for ``nothing``."""
    out.mkdir()
    command = [sys.executable, "-c", MERGE, str(base), str(adapter), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


def main() -> None:
    """Write the model, merge it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=28)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    base = write_base(options.out / "base", options.layers)
    adapter = write_adapter(base, options.out / "adapter")
    files = [file.stat().st_size for file in base.glob("*.safetensors")]
    nothing = measure(base, adapter, options.out / "nothing")
    peak = measure(base, adapter, options.out / "merged")
    shutil.rmtree(options.out)
    print("| weights | files | largest file | peak above imports | bound |\n|---|---|---|---|---|")
    cells = [sum(files), max(files), peak - nothing, 2 * max(files) + 2**30]
    total, largest, above, bound = (f"{size / 2**30:.2f} GiB" for size in cells)
    print(f"| {total} | {len(files)} | {largest} | {above} | {bound} |")


if __name__ == "__main__":
    main()
