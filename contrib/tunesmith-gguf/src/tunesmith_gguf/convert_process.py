"""Convert a model folder with llama.cpp's converter, run as ``python -m`` in a separate process.

The arguments are the folder, the file to write, its format, and the name of the pre-tokenizer (or
an empty string). The converter chooses a class according to the architecture. This module extends
that class as follows:

- the user can name the pre-tokenizer,
- the file contains all end tokens,
- SentencePiece files are optional,
- the file keeps config keys that transformers 5 drops.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_EARLIER = ("rotary_pct", "rotary_emb_base")
"""Config keys of GPT-NeoX that the converter needs and transformers 5 drops."""


def main() -> None:
    """Convert the folder. The exit code is 0 if the file is complete."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    folder, out, format_name, pre_tokenizer = sys.argv[1:]
    ends = list_extra_ends(Path(folder))
    formats = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
    hparams = ModelBase.load_hparams(Path(folder), False)
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    hparams |= {name: config[name] for name in _EARLIER if name in config}
    architecture = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    class ExportedModel(architecture):  # type: ignore[misc, valid-type]
        model_arch = architecture.model_arch

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            return pre_tokenizer or str(super().get_vocab_base_pre(tokenizer))

        def set_vocab(self) -> None:
            try:
                super().set_vocab()
            except ValueError as error:
                # Phi-4 and other models whose architecture first used SentencePiece.
                if "tokenizer.model" not in str(error):
                    raise
                self._set_vocab_gpt2()
            add = (self.gguf_writer.add_eot_token_id, self.gguf_writer.add_eom_token_id)
            for add_end, token_id in zip(add, ends, strict=False):
                add_end(token_id)

    with torch.inference_mode():
        ExportedModel(Path(folder), formats[format_name], Path(out), hparams=hparams).write()


def list_extra_ends(folder: Path) -> list[int]:
    """Return the ids of the tokens that end an answer, except the tokenizer's EOS token."""
    from transformers import AutoTokenizer

    generation = folder / "generation_config.json"
    source = generation if generation.is_file() else folder / "config.json"
    ids = json.loads(source.read_text(encoding="utf-8")).get("eos_token_id")
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    return sorted({*(ids if isinstance(ids, list) else [ids])} - {None, tokenizer.eos_token_id})


if __name__ == "__main__":
    main()
