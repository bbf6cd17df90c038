"""Artifacts: what training leaves behind, in the forms that the rest of the world loads.

An adapter is a PEFT folder, a fully trained model a transformers folder; safetensors only, the
tokenizer and its chat template beside the weights, and a ``generation_config.json`` that stops at
the token which ends an answer. The folder is committed as a whole with a manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tunesmith_torch.runtime import bitsandbytes  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import GenerationConfig

from tunesmith.contracts import Artifact, Job
from tunesmith.errors import IntegrityError
from tunesmith.storage import commit_folder
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels import fused_lora as lean_layers
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.models.loading import Base, no_progress_bars, old_name_is_known
from tunesmith_torch.runtime.distributed import gathered, is_first

ADAPTER_WEIGHTS = "adapter_model.safetensors"
FOLDERS: dict[str, str] = {"adapter": "adapter", "model": "model"}


def save(
    job: Job[Any],
    adapted: Adapted,
    template: Template,
    beside: Callable[[Path], None] | None = None,
) -> Artifact:
    """Commit the trained weights below ``job.out``: in ``adapter/`` or in ``model/``.

    ``beside`` writes what else belongs into the folder.
    """
    target = job.out / FOLDERS[adapted.format]

    def write(folder: Path) -> None:
        _write_weights(folder, adapted)
        template.tokenizer.save_pretrained(folder)
        generation_config(adapted.base, template).save_pretrained(folder)
        (folder / "README.md").write_text(_card(job, adapted), encoding="utf-8")
        if beside is not None:
            beside(folder)

    if is_first():
        commit_folder(target, write, {"format": adapted.format})
    gathered(None)  # the others may read it from here on
    return Artifact(path=target, format=adapted.format)


def generation_config(base: Base, template: Template) -> GenerationConfig:
    """The base's own settings, stopping at every token that ends an answer, decoding greedily."""
    tokenizer = template.tokenizer
    ends = sorted(template.end_ids)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0],
    )


def artifact_format(folder: Path) -> Literal["adapter", "model"]:
    """What kind of artifact lies in a folder."""
    return "adapter" if (folder / "adapter_config.json").is_file() else "model"


def attach_adapter(base: Base, folder: Path, *, fused_kernels: bool = True) -> PeftModel:
    """The base model with an adapter read from disk, every tensor accounted for.

    ``lean``: computed in fewer products, see :mod:`tunesmith_torch.kernels.fused_lora`.

    Raises:
        IntegrityError: the adapter lacks tensors of the model, or has some that it does not know.
    """
    config = PeftConfig.from_pretrained(str(folder))
    if fused_kernels and isinstance(config, LoraConfig):
        lean_layers.use(config, base.model)
    with old_name_is_known():
        model = PeftModel.from_pretrained(
            base.model,
            str(folder),
            config=config,
            is_trainable=False,
            autocast_adapter_dtype=False,
        )
    lean_layers.introduce(model)
    check_adapter(model, folder, "default")
    for parameter in model.parameters():  # not model.to: buffers, such as frequencies, keep theirs
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(base.model.dtype)
    return model.eval()


def check_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Hold what was read from a folder as adapter ``name`` against the folder's tensors.

    Raises:
        IntegrityError: they differ.
    """
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        stored = set(file.keys())
    # What peft would write is what it has read, name by name; it skips unknown names in silence.
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    wrong = sorted(stored ^ set(state))
    if wrong:
        raise IntegrityError(
            f"{folder}: {len(wrong)} tensors do not fit this base model, the first is {wrong[0]}",
            hint="the adapter was trained on another base model, or its file was changed",
        )


def _write_weights(folder: Path, adapted: Adapted) -> None:
    if adapted.format == "adapter":
        # "auto" would ask a hub about the base model's vocabulary.
        adapted.model.save_pretrained(folder, save_embedding_layers=False)
        _sort_targets(folder / "adapter_config.json")
        return
    with no_progress_bars():
        adapted.model.save_pretrained(folder)


def _sort_targets(path: Path) -> None:
    """peft writes a set in whatever order it has: sorted, the same run gives the same bytes."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


_CARD: Callable[..., str] = """---
base_model: {base}
library_name: {library}
tags: [tunesmith, {technique}]
---

# {name}

Made with tunesmith by `{technique}` from `{base}` on {rows} rows of your own data.
How it was trained and what it was measured against stands in `report.json` of its run.

{loading}
""".format

_LOADING = {
    "adapter": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```""",
    "model": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```""",
}


def _card(job: Job[Any], adapted: Adapted) -> str:
    base = job.base_name or str(adapted.base.folder)
    folder = FOLDERS[adapted.format]
    return _CARD(
        base=base,
        library="peft" if adapted.format == "adapter" else "transformers",
        technique=job.technique,
        name=job.out.name,
        rows=len(job.train),
        loading=_LOADING[adapted.format].format(base=base, folder=folder),
    )
