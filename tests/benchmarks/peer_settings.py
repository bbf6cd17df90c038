"""Write the settings and data of the other tools in their formats, and return their commands.

On a processor without bf16 arithmetic all compute in fp32. The rows are words, each one token. A
tool that joins prompt and answer without a space gets the space at the end of the prompt.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import has_bf16_arithmetic
from tests.benchmarks.work import LlamaShape

LEARNING_RATE, RANK, ALPHA, MAX_LENGTH, SEED = 3e-4, 16, 32, 520, 7


@dataclass(frozen=True)
class PeerRun:
    """One run of a tool: its programs, its folder, and its training data."""

    bin: Path
    folder: Path
    model: Path
    shape: LlamaShape
    batch: int
    rows: list[dict[str, str]]

    def write(self, name: str, content: Any) -> Path:
        """Write a file of the run as JSON, which is valid YAML too; return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path


def litgpt(run: PeerRun) -> list[str]:
    """Return ``litgpt finetune_lora``, on a checkpoint that LitGPT's converter writes."""
    samples = [{"instruction": r["prompt"], "input": "", "output": r["answer"]} for r in run.rows]
    run.write("data/train.json", samples)
    run.write("data/val.json", samples[:1])
    checkpoint = run.folder / "checkpoint"
    shutil.copytree(run.model, checkpoint)
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 2, "eos_token_id": 2}), encoding="utf-8"
    )
    numbers = {
        "padded_vocab_size": run.shape.vocab_size,
        "vocab_size": run.shape.vocab_size,
        "n_embd": run.shape.hidden_size,
        "n_layer": run.shape.layers,
        "n_head": run.shape.attention_heads,
        "n_query_groups": run.shape.key_value_heads,
        "intermediate_size": run.shape.intermediate_size,
    }
    command = [
        str(run.bin / "python"),
        "-c",
        _LITGPT_CONVERSION,
        str(checkpoint),
        json.dumps(numbers),
    ]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"no checkpoint: {process.stderr[-300:]}")
    every = [f"--lora_{part}=true" for part in ("query", "key", "value", "projection", "mlp")]
    data = ["--data=JSON", f"--data.json_path={run.folder / 'data'}", "--data.mask_prompt=true"]
    return [
        str(run.bin / "litgpt"),
        "finetune_lora",
        str(checkpoint),
        f"--out_dir={run.folder / 'out'}",
        f"--precision={'bf16-true' if has_bf16_arithmetic() else '32-true'}",
        "--devices=1",
        f"--lora_r={RANK}",
        f"--lora_alpha={ALPHA}",
        "--lora_dropout=0.0",
        *every,
        *data,
        "--data.prompt_style=phi-1",
        "--data.num_workers=0",
        f"--train.global_batch_size={run.batch}",
        f"--train.micro_batch_size={run.batch}",
        "--train.epochs=1",
        "--train.lr_warmup_steps=1",
        f"--train.max_seq_length={MAX_LENGTH}",
        "--train.save_interval=100000",
        "--eval.interval=100000",
        "--eval.max_iters=1",
        "--eval.initial_validation=false",
        "--eval.final_validation=false",
        f"--seed={SEED}",
    ]


_LITGPT_CONVERSION = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from litgpt.config import Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import save_config
folder = Path(sys.argv[1])
config = Config(name="bench", hf_config={}, block_size=2048, rotary_percentage=1.0, bias=False,
                parallel_residual=False, norm_class_name="RMSNorm", norm_eps=1e-6,
                mlp_class_name="LLaMAMLP", rope_base=10000, **json.loads(sys.argv[2]))
state = {}
copy_weights_hf_llama(config, {}, state, load_file(folder / "model.safetensors"))
torch.save(state, folder / "lit_model.pth")
save_config(config, folder)
"""


def llamafactory(run: PeerRun) -> list[str]:
    """Return ``llamafactory-cli train``."""
    rows = [{"instruction": f"{r['prompt']} ", "output": r["answer"]} for r in run.rows]
    run.write("data/rows.json", rows)
    columns = {"prompt": "instruction", "response": "output"}
    run.write("data/dataset_info.json", {"rows": {"file_name": "rows.json", "columns": columns}})
    settings = {
        "model_name_or_path": str(run.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "dataset": "rows",
        "dataset_dir": str(run.folder / "data"),
        "template": "empty",
        "cutoff_len": MAX_LENGTH,
        "output_dir": str(run.folder / "out"),
        "per_device_train_batch_size": run.batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1.0,
        "bf16": has_bf16_arithmetic(),
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
    }
    config = run.write("train.yaml", settings)
    return [str(run.bin / "llamafactory-cli"), "train", str(config)]


def stub_torchaudio(environment_folder: Path) -> None:
    """Install an empty module: PyPI's is linked against another torch, and only speech needs it."""
    (packages,) = (environment_folder / "lib").glob("python3*/site-packages")
    shutil.rmtree(packages / "torchaudio", ignore_errors=True)
    (packages / "torchaudio").mkdir()
    (packages / "torchaudio" / "__init__.py").write_text('__version__ = "0"\n', encoding="utf-8")


def torchtune(run: PeerRun) -> list[str]:
    """Return ``tune run lora_finetune_single_device``."""
    (run.folder / "words.py").write_text(_TORCHTUNE_TOKENIZER, encoding="utf-8")
    run.write("rows.json", [{"input": r["prompt"], "output": r["answer"]} for r in run.rows])
    out = str(run.folder / "out")
    settings = {
        "output_dir": out,
        "model": {
            "_component_": "torchtune.models.llama3_2.lora_llama3_2",
            "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "vocab_size": run.shape.vocab_size,
            "num_layers": run.shape.layers,
            "num_heads": run.shape.attention_heads,
            "num_kv_heads": run.shape.key_value_heads,
            "embed_dim": run.shape.hidden_size,
            "intermediate_dim": run.shape.intermediate_size,
            "max_seq_len": 2048,
            "lora_rank": RANK,
            "lora_alpha": ALPHA,
        },
        "tokenizer": {"_component_": "words.Words", "path": str(run.model / "tokenizer.json")},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(run.model),
            "checkpoint_files": ["model.safetensors"],
            "output_dir": out,
            "model_type": "LLAMA3_2",
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        "dataset": {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": "json",
            "data_files": str(run.folder / "rows.json"),
        },
        "seed": SEED,
        "shuffle": False,
        "batch_size": run.batch,
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "lr": LEARNING_RATE},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 1,
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "epochs": 1,
        "max_steps_per_epoch": None,
        "gradient_accumulation_steps": 1,
        "clip_grad_norm": 1.0,
        "compile": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": out,
        },
        "log_every_n_steps": 1,
        "log_peak_memory_stats": False,
        "device": "cpu",
        "dtype": "bf16" if has_bf16_arithmetic() else "fp32",
        "enable_activation_checkpointing": False,
        "enable_activation_offloading": False,
    }
    config = run.write("config.yaml", settings)
    recipe = ["run", "lora_finetune_single_device", "--config", str(config)]
    return [str(run.bin / "tune"), *recipe]


_TORCHTUNE_TOKENIZER = '''
"""A tokenizer of words, for rows that are words."""
from tokenizers import Tokenizer


class Words:
    eos_id, pad_id, max_seq_len = 2, 0, 2048

    def __init__(self, path):
        self.words = Tokenizer.from_file(path)

    def tokenize_messages(self, messages, add_end_tokens=True):
        ids, mask = [], []
        for message in messages:
            new = self.words.encode(message.text_content, add_special_tokens=False).ids
            ids += new
            mask += [message.masked] * len(new)
        return ids + [self.eos_id], mask + [False]

    def __call__(self, sample, inference=False):
        sample["tokens"], sample["mask"] = self.tokenize_messages(sample.pop("messages"))
        return sample
'''


def axolotl(run: PeerRun) -> list[str]:
    """Return ``axolotl train``."""
    rows = run.folder / "rows.jsonl"
    lines = (json.dumps({"instruction": r["prompt"], "output": r["answer"]}) for r in run.rows)
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "base_model": str(run.model),
        "tokenizer_type": "AutoTokenizer",
        "datasets": [
            {
                "path": str(rows),
                "ds_type": "json",
                "type": {
                    "field_instruction": "instruction",
                    "field_output": "output",
                    "format": "{instruction}",
                    "no_input_format": "{instruction} ",
                },
            }
        ],
        "dataset_prepared_path": str(run.folder / "prepared"),
        "val_set_size": 0,
        "output_dir": str(run.folder / "out"),
        "adapter": "lora",
        "lora_r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        **{f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o")},  # they need a GPU
        "sequence_len": MAX_LENGTH,
        "sample_packing": False,
        "train_on_inputs": False,
        "micro_batch_size": run.batch,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler": "constant",
        "optimizer": "adamw_torch_fused",
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": SEED,
        "special_tokens": {"pad_token": "<pad>"},
    }
    config = run.write("config.yaml", settings)
    return [str(run.bin / "axolotl"), "train", str(config), "--launcher", "python"]
