"""Export tiny models of many architectures: each is verified in the engine, or refused.

``python -m tests.benchmarks.export_architectures [NAME...] [--only gguf onnx] [--out FILE]`` trains
a tiny model of each architecture for a few steps with LoRA, and exports it to every exporter that
is installed, in the format that does not round, with all checks of ``tunesmith export``. Names are
those of the table, or types of transformers, such as ``llama``.

What passes is then compared once more, apart from the checks: the engine reads a text that is
longer than the attention's window and than the context from which a scaled rope changes, and its
log-probabilities are compared with the trained model's. An export that passes and differs there is
``WRONG``; an error that is no refusal is a ``CRASH``. Both make the exit code 1. A refusal has its
reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from tests.architectures.cases import rope, select
from tests.architectures.models import Case, save_model
from tests.architectures.sizes import ROPE, Sizes
from tests.benchmarks import machine
from tests.benchmarks.exports import build_export

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.errors import TunesmithError
from tunesmith.options import from_table
from tunesmith.plugins import find_plugins
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.export.export_run import (
    Export,
    PreparedModel,
    TrainedModel,
    export_prepared,
    load_trained,
    prepare_model,
)
from tunesmith_torch.testing.exports import LORA_TRAINING_OPTIONS, train_for_export

EXPORTERS: dict[str, dict[str, str]] = {
    "safetensors": {"dtype": "float32"},
    "gguf": {"quantize": "f32", "pre_tokenizer": "smollm"},
    "onnx": {"quantize": "f32"},
    "openvino": {"quantize": "f32"},
    "mlx": {"quantize": "f32"},
    "vllm": {"dtype": "float32"},
}
"""Options of each exporter: formats that do not round."""
LONG_TOKENS, SCORED_TOKENS = 160, 64
"""Tokens of the long text, and those at its end that are scored."""
MAX_NATS = 0.02
"""Largest difference of any log-probability on the long text.

The table of llama.cpp for GELU explains 2e-3 in unlikely tokens; another window or rope, 0.2 and
more.
"""
SIZES = Sizes(hidden=128, heads=4, layers=2, window=96, chunk=96, original_context=96, context=512)
"""Heads of 32, which all engines take; windows are longer than the rows of the checks."""
STEPS = {**LORA_TRAINING_OPTIONS, "epochs": 2.0}

ORIGINAL = {"original_max_position_embeddings": SIZES.original_context}
FACTORS = {
    "short_factor": [1.0 + 0.1 * i for i in range(SIZES.head // 2)],
    "long_factor": [2.0 + i for i in range(SIZES.head // 2)],
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
WINDOW = {"use_sliding_window": True, "sliding_window": SIZES.window, "max_window_layers": 1}
GEMMA3 = {
    "vocab_size": 440,
    "query_pre_attn_scalar": SIZES.head,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
}
"""Order of layers and scale of all Gemma 3 models; as many tokens as the tokenizer has."""
PHI = {"tie_word_embeddings": False, "num_key_value_heads": 4, "intermediate_size": 512}
"""Keys that all Phi-2 models have, and that the converter of llama.cpp takes for granted."""
CASES = (
    Case("llama"),
    Case("llama", "tied", {"tie_word_embeddings": True}),
    Case("llama", "odd vocabulary", {"vocab_size": 487}),
    Case("llama", "biases", {"attention_bias": True, "mlp_bias": True}),
    Case("llama", "one key head", {"num_key_value_heads": 1}),
    Case("llama", "head of another size", {"head_dim": 64}),
    Case("llama", "another theta", {"rope_parameters": {**ROPE, "rope_theta": 5e5}}),
    Case("llama", "rope linear", rope(SIZES, "linear")),
    Case("llama", "rope dynamic", rope(SIZES, "dynamic")),
    Case("llama", "rope yarn", rope(SIZES, "yarn", **ORIGINAL)),
    Case("llama", "rope longrope", rope(SIZES, "longrope", **ORIGINAL, **FACTORS)),
    Case("llama", "rope llama3", rope(SIZES, "llama3", **LLAMA3)),
    Case("qwen2"),
    Case("qwen2", "window", {**WINDOW, "layer_types": None}),
    Case("qwen3"),
    Case("gemma"),
    Case("gemma2"),
    Case("gemma3_text", "", GEMMA3),
    Case("phi", "", PHI),
    Case("phi3", "no window", {"sliding_window": None}),
    Case("phi3", "longrope", {**rope(SIZES, "longrope", **ORIGINAL, **FACTORS), **ORIGINAL}),
    Case("phi3", "window", {"sliding_window": SIZES.window}),
    Case("qwen3_moe", "", {"norm_topk_prob": True, "head_dim": SIZES.head}),
    Case("mixtral"),
    Case("mistral", "no window", {"sliding_window": None}),
    Case("mistral", "window", {}),
    Case("ministral"),
    Case("olmo"),
    Case("olmo2"),
    Case("olmo3"),
    Case("smollm3"),
    Case("granite", "multipliers", {
        "embedding_multiplier": 3.0, "logits_scaling": 2.0,
        "residual_multiplier": 0.5, "attention_multiplier": 0.3,
    }),
    Case("cohere"),
    Case("cohere", "query norm", {"use_qk_norm": True}),
    Case("cohere2"),
    Case("stablelm"),
    Case("stablelm", "query norm", {"qk_layernorm": True, "use_parallel_residual": True}),
    Case("gpt2"),
    Case("gpt_neox"),
    Case("gpt_neox", "sequential", {"use_parallel_residual": False}),
    Case("falcon"),
    Case("falcon", "new decoder", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Case("falcon", "alibi", {"alibi": True}),
    Case("starcoder2"),
    Case("glm4"),
    Case("exaone4"),
    Case("nemotron"),
    Case("deepseek_v2"),
    Case("deepseek_v3"),
    Case("gpt_oss"),
    Case("mamba"),
    Case("lfm2"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The outcome of one export."""

    case: str
    exporter: str
    result: str
    """``verified``, ``refused``, ``WRONG`` or ``CRASH``."""
    nats: float | None = None
    """Largest difference of a log-probability in the checks; None: they were not reached."""
    long_nats: float | None = None
    """The same on the long text."""
    not_verified: Sequence[str] = ()
    reason: str = ""


def measure_case(case: Case, catalog: Catalog, only: Sequence[str]) -> Iterator[Outcome]:
    """Train a tiny model of a case, and yield what becomes of each of its exports."""
    with TemporaryDirectory(prefix="tunesmith-architectures-") as temporary:
        work = Path(temporary)
        (work / "prepared").mkdir()
        save_model(case, SIZES, 7, work / "model")
        try:
            options = from_table(LoraOptions, STEPS)
            trained = train_for_export(options, work / "model", work / "run")
            prepared = prepare_model(trained, work / "prepared")
        except Exception as error:  # the table has it, and the other cases go on
            yield Outcome(str(case), "all", _name(error), reason=_reason(error))
            return
        ids, expected_NV = score_long_text(trained, prepared)
        for name, options_ in EXPORTERS.items():
            if only and name not in only:
                continue
            try:
                export = build_export(catalog, name, options_)
            except OfferNotFoundError:
                continue
            yield measure_export(str(case), export, prepared, ids, expected_NV)


def score_long_text(trained: TrainedModel, prepared: PreparedModel) -> tuple[list[int], Any]:
    """Return the ids of a long text, and the trained model's log-probabilities at its end."""
    text = " ".join(f"What is {n} and {n * 7}? That is the refund of {n * n}." for n in range(40))
    ids = prepared.template.tokenizer(text, add_special_tokens=False)["input_ids"][:LONG_TOKENS]
    with torch.inference_mode():
        logits_TV = load_trained(trained)(torch.tensor([ids]), use_cache=False).logits[0]
    return ids, logits_TV[-SCORED_TOKENS:].double().log_softmax(-1).numpy()


def measure_export(
    case: str, export: Export, prepared: PreparedModel, ids: list[int], expected_NV: Any
) -> Outcome:
    """Export a model, and compare what passes on the long text."""
    out = prepared.folder.parent / f"out-{export.name}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificate = export_prepared(prepared, export, out)
        with export.exporter.open(out) as engine:
            found_NV = np.asarray(engine.logprobs(ids, len(ids) - SCORED_TOKENS))
    except Exception as error:  # the table has it, and the other exports go on
        return Outcome(case, export.name, _name(error), reason=_reason(error))
    long_nats = float(np.abs(found_NV[:, : expected_NV.shape[1]] - expected_NV).max())
    return Outcome(
        case,
        export.name,
        "verified" if long_nats <= MAX_NATS else "WRONG",
        certificate["max_logprob_difference_nats"],
        long_nats,
        certificate["not_verified"],
    )


def _name(error: Exception) -> str:
    return "refused" if isinstance(error, TunesmithError) else "CRASH"


def _reason(error: Exception) -> str:
    if isinstance(error, TunesmithError):
        return error.message
    return f"{type(error).__name__}: {error!s:.300}"


def format_outcome(outcome: Outcome) -> str:
    """Return a row of the table."""
    nats, long_nats = (
        "" if number is None else f"{number:.1e}" for number in (outcome.nats, outcome.long_nats)
    )
    rest = outcome.reason or ", ".join(f"{name} not verified" for name in outcome.not_verified)
    rest = " ".join(rest.split()).replace("|", "\\|")
    cells = [outcome.case, f"`{outcome.exporter}`", outcome.result, nats, long_nats, rest]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| architecture | exporter | result | checks, nats | long text, nats | reason |\n"
    "|---|---|---|---|---|---|"
)


def main() -> None:
    """Export all cases, print the table and write the outcomes."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases. Default: all")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="exporters")
    parser.add_argument("--out", type=Path, help="file for the outcomes as JSON")
    options = parser.parse_args()
    catalog = Catalog(find_plugins())
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    outcomes = []
    print(HEAD, flush=True)
    for case in select(CASES, options.names):
        for outcome in measure_case(case, catalog, options.only):
            outcomes.append(outcome)
            print(format_outcome(outcome), flush=True)
    if options.out:
        content = {
            "machine": machine.describe_machine(),
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if any(outcome.result in ("WRONG", "CRASH") for outcome in outcomes) else 0)


if __name__ == "__main__":
    main()
