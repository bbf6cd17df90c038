"""What each of the other tools is told: files in its own format, and its command.

Where the processor has no bf16 arithmetic, all compute in fp32. The rows are words, each a token. A
tool that joins prompt and answer without a space between gets the space with the prompt.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import computes_bf16
from tests.benchmarks.work import Shape

RATE, RANK, ALPHA, LONGEST, SEED = 3e-4, 16, 32, 520, 7


@dataclass(frozen=True)
class Work:
    """One run: where its programs and files are, and what it learns from."""

    bin: Path
    folder: Path
    model: Path
    shape: Shape
    batch: int
    rows: list[dict[str, str]]

    def write(self, name: str, content: Any) -> Path:
        """A file of the run, as JSON, which is YAML too."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path


def litgpt(work: Work) -> list[str]:
    """``litgpt finetune_lora``, on a checkpoint that its own converter's parts write."""
    samples = [{"instruction": r["prompt"], "input": "", "output": r["answer"]} for r in work.rows]
    work.write("data/train.json", samples)
    work.write("data/val.json", samples[:1])
    checkpoint = work.folder / "checkpoint"
    shutil.copytree(work.model, checkpoint)
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 2, "eos_token_id": 2}), encoding="utf-8"
    )
    numbers = {
        "padded_vocab_size": work.shape.vocabulary,
        "vocab_size": work.shape.vocabulary,
        "n_embd": work.shape.hidden,
        "n_layer": work.shape.layers,
        "n_head": work.shape.heads,
        "n_query_groups": work.shape.key_heads,
        "intermediate_size": work.shape.mlp,
    }
    command = [str(work.bin / "python"), "-c", _LITGPT, str(checkpoint), json.dumps(numbers)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"no checkpoint: {ran.stderr[-300:]}")
    every = [f"--lora_{part}=true" for part in ("query", "key", "value", "projection", "mlp")]
    data = ["--data=JSON", f"--data.json_path={work.folder / 'data'}", "--data.mask_prompt=true"]
    return [
        str(work.bin / "litgpt"),
        "finetune_lora",
        str(checkpoint),
        f"--out_dir={work.folder / 'out'}",
        f"--precision={'bf16-true' if computes_bf16() else '32-true'}",
        "--devices=1",
        f"--lora_r={RANK}",
        f"--lora_alpha={ALPHA}",
        "--lora_dropout=0.0",
        *every,
        *data,
        "--data.prompt_style=phi-1",
        "--data.num_workers=0",
        f"--train.global_batch_size={work.batch}",
        f"--train.micro_batch_size={work.batch}",
        "--train.epochs=1",
        "--train.lr_warmup_steps=1",
        f"--train.max_seq_length={LONGEST}",
        "--train.save_interval=100000",
        "--eval.interval=100000",
        "--eval.max_iters=1",
        "--eval.initial_validation=false",
        "--eval.final_validation=false",
        f"--seed={SEED}",
    ]


_LITGPT = """
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


def llamafactory(work: Work) -> list[str]:
    """``llamafactory-cli train``."""
    rows = [{"instruction": f"{r['prompt']} ", "output": r["answer"]} for r in work.rows]
    work.write("data/rows.json", rows)
    columns = {"prompt": "instruction", "response": "output"}
    work.write("data/dataset_info.json", {"rows": {"file_name": "rows.json", "columns": columns}})
    settings = {
        "model_name_or_path": str(work.model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "dataset": "rows",
        "dataset_dir": str(work.folder / "data"),
        "template": "empty",
        "cutoff_len": LONGEST,
        "output_dir": str(work.folder / "out"),
        "per_device_train_batch_size": work.batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1.0,
        "bf16": computes_bf16(),
        "use_cpu": True,
        "disable_gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": SEED,
    }
    config = work.write("train.yaml", settings)
    return [str(work.bin / "llamafactory-cli"), "train", str(config)]


def stub_torchaudio(place: Path) -> None:
    """An empty module: PyPI's is linked against another torch, and only speech needs it."""
    (packages,) = (place / "lib").glob("python3*/site-packages")
    shutil.rmtree(packages / "torchaudio", ignore_errors=True)
    (packages / "torchaudio").mkdir()
    (packages / "torchaudio" / "__init__.py").write_text('__version__ = "0"\n', encoding="utf-8")


def torchtune(work: Work) -> list[str]:
    """``tune run lora_finetune_single_device``."""
    (work.folder / "words.py").write_text(_WORDS, encoding="utf-8")
    work.write("rows.json", [{"input": r["prompt"], "output": r["answer"]} for r in work.rows])
    out = str(work.folder / "out")
    settings = {
        "output_dir": out,
        "model": {
            "_component_": "torchtune.models.llama3_2.lora_llama3_2",
            "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "vocab_size": work.shape.vocabulary,
            "num_layers": work.shape.layers,
            "num_heads": work.shape.heads,
            "num_kv_heads": work.shape.key_heads,
            "embed_dim": work.shape.hidden,
            "intermediate_dim": work.shape.mlp,
            "max_seq_len": 2048,
            "lora_rank": RANK,
            "lora_alpha": ALPHA,
        },
        "tokenizer": {"_component_": "words.Words", "path": str(work.model / "tokenizer.json")},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(work.model),
            "checkpoint_files": ["model.safetensors"],
            "output_dir": out,
            "model_type": "LLAMA3_2",
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        "dataset": {
            "_component_": "torchtune.datasets.instruct_dataset",
            "source": "json",
            "data_files": str(work.folder / "rows.json"),
        },
        "seed": SEED,
        "shuffle": False,
        "batch_size": work.batch,
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "lr": RATE},
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
        "dtype": "bf16" if computes_bf16() else "fp32",
        "enable_activation_checkpointing": False,
        "enable_activation_offloading": False,
    }
    config = work.write("config.yaml", settings)
    recipe = ["run", "lora_finetune_single_device", "--config", str(config)]
    return [str(work.bin / "tune"), *recipe]


_WORDS = '''
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


def axolotl(work: Work) -> list[str]:
    """``axolotl train``."""
    rows = work.folder / "rows.jsonl"
    lines = (json.dumps({"instruction": r["prompt"], "output": r["answer"]}) for r in work.rows)
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "base_model": str(work.model),
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
        "dataset_prepared_path": str(work.folder / "prepared"),
        "val_set_size": 0,
        "output_dir": str(work.folder / "out"),
        "adapter": "lora",
        "lora_r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        **{f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o")},  # they need a GPU
        "sequence_len": LONGEST,
        "sample_packing": False,
        "train_on_inputs": False,
        "micro_batch_size": work.batch,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": RATE,
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
    config = work.write("config.yaml", settings)
    return [str(work.bin / "axolotl"), "train", str(config), "--launcher", "python"]
