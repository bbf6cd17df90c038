"""Write plain model folders with weights in one dtype; open them with transformers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers import PreTrainedTokenizerBase as Tokenizer

from tunesmith.contracts import Generation
from tunesmith.records import Prompt
from tunesmith_torch.export.folder_tokenizer import FolderTokenizer, open_tokenizer
from tunesmith_torch.models.loading import no_progress_bars
from tunesmith_torch.models.model_folder import find_weight_files
from tunesmith_torch.untrusted.foreign_code import refuse_foreign_code

__all__ = ["TransformersEngine", "copy_files", "copy_model", "open_transformers_engine"]

INDEX = "model.safetensors.index.json"


def copy_model(model: Path, out: Path, dtype_name: str) -> None:
    """Copy a model's files, except its model card; convert weights to a dtype like ``bfloat16``."""
    dtype = getattr(torch, dtype_name)
    total = 0
    for file in find_weight_files(model):
        with safe_open(file, framework="pt") as stored:
            tensors = {name: _convert(stored.get_tensor(name), dtype) for name in stored.keys()}  # noqa: SIM118
        save_file(tensors, out / file.name, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors.values())
    copy_files(model, out, (".safetensors",))
    _change(out / "config.json", dtype=dtype_name, torch_dtype=dtype_name)
    if (out / INDEX).is_file():
        _change(out / INDEX, metadata={"total_size": total})


def copy_files(model: Path, out: Path, skipped: tuple[str, ...]) -> None:
    """Copy a model's files, except its model card and files with one of these suffixes."""
    for file in sorted(model.iterdir()):
        if file.is_file() and not file.name.endswith(("README.md", *skipped)):
            shutil.copyfile(file, out / file.name)


def open_transformers_engine(folder: Path) -> TransformersEngine:
    """Load a model folder in float32, with plain transformers calls."""
    refuse_foreign_code(folder)
    with no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
        )
    return TransformersEngine(model.eval(), open_tokenizer(folder))


class TransformersEngine(FolderTokenizer):
    """A model in plain transformers, without this toolkit's templates, attention and generation."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.model: Any = model

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Sequence[Generation]:
        """Generate greedy answers with the folder's generation config."""
        return [self._generate(prompt, max_new_tokens) for prompt in prompts]

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int], first: int) -> Any:
        """Return the log-probabilities of the next token after each of ``ids[first:]``, [N, V]."""
        logits_TV = self.model(torch.tensor([list(ids)]), use_cache=False).logits[0]
        return logits_TV[first:].double().log_softmax(-1).numpy()

    @torch.inference_mode()
    def _generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        ids_1T = torch.tensor([list(self.tokenize(self.render(prompt)))])
        made_1T = self.model.generate(
            input_ids=ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        ids = made_1T[0, ids_1T.shape[1] :].tolist()
        ends = self.model.generation_config.eos_token_id
        return self.read_answer(ids, ends if isinstance(ends, list) else [ends])


def _convert(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(values)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
