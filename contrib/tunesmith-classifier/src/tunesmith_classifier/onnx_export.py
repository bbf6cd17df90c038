"""Write a classifier as an ONNX graph, and compare the graph with the trained classifier.

Shapes: B rows of equal length, T tokens, D width, L labels.

The graph maps token ids to the calibrated log-probabilities of the labels. It has no mask, so the
rows of one call must have equally many tokens.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith.records import Message, Prompt
from tunesmith.storage import commit_folder
from tunesmith.text import format_count
from tunesmith_classifier.head import LABELS_FILE, Head
from tunesmith_classifier.technique import ClassifierModel
from tunesmith_evidence.number_text import format_deviation
from tunesmith_torch.export.checks import ExportChecks, require
from tunesmith_torch.export.folder_tokenizer import FolderTokenizer, open_tokenizer
from tunesmith_torch.export.threads import count_threads
from tunesmith_torch.losses.selected_positions import get_decoder

__all__ = ["export_classifier"]

GRAPH, CERTIFICATE = "model.onnx", "export.json"
MAX_NATS = 1e-4
"""Maximum difference of a log-probability between the graph and the trained classifier."""
MAX_PROMPTS = 32
HARD_PROMPTS: tuple[Prompt, ...] = (
    (Message("user", "Grüße! 12345 3.14 ½ 🙂 你好, don't  stop"),),
    (Message("user", "a\tb\n\nc   d 007 1,000,000 x==y"),),
)
"""Prompts that tokenizers split differently, besides those of the test rows."""


class _Graph(nn.Module):
    """The computation of the exported file."""

    def __init__(self, model: nn.Module, head: Head) -> None:
        super().__init__()
        self.decoder, self.linear, self.temperature = (
            get_decoder(model),
            head.linear,
            head.temperature,
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden_BD = self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state[:, -1]
        logprobs_BL: Tensor = (self.linear(hidden_BD) / self.temperature).log_softmax(-1)
        return logprobs_BL


def export_classifier(
    classifier: ClassifierModel, artifact: Path, prompts: Sequence[Prompt], out: Path
) -> dict[str, str]:
    """Write the graph, the tokenizer and the labels to ``out``; return the results of the checks.

    ``classifier`` computes in fp32; an adapter is merged into its model.

    Raises:
        EnvironmentProblem: the graph cannot be written.
        GateError: a check fails; nothing is written.
    """
    asked = [*prompts[:MAX_PROMPTS], *HARD_PROMPTS]
    expected_PL = classifier.logprobs(asked).numpy()
    checks = ExportChecks()

    def write(folder: Path) -> None:
        _write_graph(classifier, folder / GRAPH)
        for file in sorted(artifact.iterdir()):
            if file.name == LABELS_FILE or "token" in file.name or file.suffix == ".jinja":
                shutil.copyfile(file, folder / file.name)
        _check(checks, classifier, folder, asked, expected_PL)
        certificate = {"schema": "tunesmith.export/1", "exporter": "classifier-onnx"}
        facts = {**certificate, "rows": len(asked), "checks": checks.passed, **checks.measured}
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        (folder / CERTIFICATE).write_text(text + "\n", encoding="utf-8")

    commit_folder(out, write, {"format": "export"})
    return checks.passed


def _write_graph(classifier: ClassifierModel, file: Path) -> None:
    model: Any = classifier.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.config._attn_implementation = "eager"  # plain operators, without masks for packed rows
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports packages that are missing
    sizes = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("tokens", min=1, max=2**17)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Graph(model, classifier.head).eval(),
                (torch.ones(2, 5, dtype=torch.long),),
                str(file),
                input_names=["input_ids"],
                output_names=["logprobs"],
                dynamic_shapes={"input_ids": dict(enumerate(sizes))},
                dynamo=True,
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            f"classifier export: the package {error.name} is not installed",
            hint="pip install './contrib/tunesmith-classifier[onnx]' in a checkout of tunesmith",
        ) from error
    except Exception as error:  # the exceptions of torch.export have no common class
        raise EnvironmentProblem(
            f"classifier export: torch cannot write this model as ONNX: {error!s:.200}",
            hint="the architecture may not be supported; use the classifier with tunesmith serve",
        ) from error


def _check(
    checks: ExportChecks,
    classifier: ClassifierModel,
    folder: Path,
    asked: Sequence[Prompt],
    expected_PL: Any,
) -> None:
    """Run the graph in ONNX Runtime, with the folder's own tokenizer."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = count_threads(), 3
    session = onnxruntime.InferenceSession(
        folder / GRAPH, settings, providers=["CPUExecutionProvider"]
    )
    tokenizer = FolderTokenizer(open_tokenizer(folder))
    rows = [list(tokenizer.tokenize(tokenizer.render(prompt))) for prompt in asked]

    def run(rows: Sequence[Sequence[int]]) -> Any:
        return session.run(None, {"input_ids": np.array(rows, np.int64)})[0]

    def check_labels() -> str:
        labels = json.loads((folder / LABELS_FILE).read_text(encoding="utf-8"))["labels"]
        require(labels == classifier.head.labels, "the labels or their order differ")
        return format_count(len(labels), "label")

    def check_ids() -> str:
        wanted = classifier.template.encode_prompts(asked)
        for found, row in zip(rows, wanted, strict=True):
            require(found == list(row), f"a prompt has the tokens {found[:8]}..., not {row[:8]}...")
        return format_count(len(rows), "prompt")

    def check_logprobs() -> str:
        found_PL = np.concatenate([run([row]) for row in rows])
        require(found_PL.shape == expected_PL.shape, f"the graph returns {found_PL.shape}")
        nats = float(np.abs(found_PL - expected_PL).max())
        checks.measured["max_logprob_difference_nats"] = nats
        text = f"{format_deviation(nats)} nats"
        require(nats <= MAX_NATS, f"log-probabilities differ by {text}; at most 1e-4 are allowed")
        return f"{text} at most, {format_count(len(rows), 'prompt')}"

    def check_batch() -> str:
        alone, together = run([rows[0]]), run([rows[0]] * 3)
        nats = float(np.abs(together - alone).max())
        require(nats <= MAX_NATS, "rows of one call change each other")
        return "3 rows in one call"

    named = {"labels": check_labels, "token ids": check_ids}
    for name, check in {**named, "log-probabilities": check_logprobs, "rows": check_batch}.items():
        checks.check(name, check)
