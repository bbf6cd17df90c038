"""A model behind its template: scores and answers are the model's own, whatever the batch."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunesmith.contracts import Generation, TokenScores
from tunesmith.errors import UsageError
from tunesmith.records import Message, Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation import prefix_cache
from tunesmith_torch.generation.sequences import Generated
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import SENTENCES, tiny_config, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
WORDS = " ".join(SENTENCES).split()


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.of(tiny_tokenizer())


@pytest.fixture(scope="module")
def model(template: Template) -> PreTrainedModel:
    return lively("llama", template)


def lively(family: str, template: Template, **changes: object) -> PreTrainedModel:
    config = tiny_config(family, vocabulary=len(template.tokenizer))
    config.initializer_range = 0.1
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def exchanges(count: int, system: str = "") -> tuple[list[Prompt], list[str]]:
    draw = random.Random(0)
    start = (Message("system", system),) if system else ()

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    prompts = [(*start, Message("user", words(20))) for _ in range(count)]
    return [*prompts], [words(8) for _ in range(count)]


def plainly(model: Any, template: Template, prompt: Prompt, completion: str) -> list[float]:
    """One row, the model's own forward, a full log-softmax."""
    before, answer = template.prompt_ids(prompt), template.answer_ids(prompt, completion)
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *answer]]), use_cache=False).logits
    logits = logits[0, -len(answer) - 1 : -1] if before else logits[0, :-1]
    answer = answer[-len(logits) :]
    return logits.log_softmax(-1)[range(len(answer)), answer].tolist()


def alone(
    model: Any, template: Template, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[list[float]]:
    return [plainly(model, template, *pair) for pair in zip(prompts, completions, strict=True)]


def agree(scores: Sequence[TokenScores], expected: Sequence[Sequence[float]]) -> None:
    assert len(scores) == len(expected)
    for score, wanted in zip(scores, expected, strict=True):
        assert score.logprobs == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("system", ["", "Answer in one word. " + SENTENCES[0]])
@pytest.mark.parametrize("budget", [1, 200, 16_384])
def test_scores_are_the_models_own(
    model: PreTrainedModel, template: Template, system: str, budget: int
) -> None:
    prompts, completions = exchanges(12, system)
    scores = TorchTextModel(model, template, CPU, budget).score(prompts, completions)
    agree(scores, alone(model, template, prompts, completions))
    ids = template.answer_ids(prompts[0], completions[0])
    assert ids[-1] in template.end_ids
    assert len(scores[0].logprobs) == len(ids), "the end token is scored too"


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "mistral", "cohere", "granite"])
def test_other_families_score_as_they_do_alone(family: str, template: Template) -> None:
    model = lively(family, template)
    prompts, completions = exchanges(6, "You are kind and answer in one short word.")
    scores = TorchTextModel(model, template, CPU).score(prompts, completions)
    agree(scores, alone(model, template, prompts, completions))


def test_a_window_shorter_than_the_rows_is_kept(template: Template) -> None:
    model = lively("mistral", template, sliding_window=8)
    prompts, completions = exchanges(6)
    scores = TorchTextModel(model, template, CPU).score(prompts, completions)
    agree(scores, alone(model, template, prompts, completions))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_count_even_on_the_head(targets: str | list[str], template: Template) -> None:
    from peft import LoraConfig, get_peft_model

    base = lively("llama", template, tie_word_embeddings=False)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tuned = get_peft_model(base, config).eval()
    prompts, completions = exchanges(6, "You are kind and answer in one short word.")
    expected = alone(tuned, template, prompts, completions)
    agree(TorchTextModel(tuned, template, CPU).score(prompts, completions), expected)
    with tuned.disable_adapter():
        plain = plainly(tuned, template, prompts[0], completions[0])
    assert plain != pytest.approx(expected[0], abs=1e-2)
    merged = tuned.merge_and_unload()
    scores = TorchTextModel(merged, template, CPU).score(prompts, completions)
    for score, wanted in zip(scores, expected, strict=True):
        assert score.logprobs == pytest.approx(wanted, abs=1e-4)


def test_a_learned_prompt_is_applied(template: Template) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tuned = get_peft_model(lively("llama", template), config).eval()
    prompts, completions = exchanges(3)
    scores = TorchTextModel(tuned, template, CPU).score(prompts, completions)
    agree(scores, alone(tuned, template, prompts, completions))


def test_the_mean_is_over_tokens_and_the_same_for_every_budget(
    model: PreTrainedModel, template: Template
) -> None:
    prompts, completions = exchanges(12)

    def mean(budget: int) -> float:
        scores = TorchTextModel(model, template, CPU, budget).score(prompts, completions)
        values = [value for score in scores for value in score.logprobs]
        return sum(values) / len(values)

    means = [mean(budget) for budget in (1, 60, 90, 150, 4096)]
    assert means == pytest.approx([means[0]] * 5, abs=1e-6)


def test_bare_text_has_no_score_for_its_first_token(
    model: PreTrainedModel, template: Template
) -> None:
    texts = [SENTENCES[0], SENTENCES[1]]
    scores = TorchTextModel(model, template, CPU).score(["", ""], texts)
    agree(scores, [plainly(model, template, "", text) for text in texts])


def test_a_prefix_is_run_once(
    model: PreTrainedModel, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    read = prefix_cache.read_prefix
    monkeypatch.setattr(
        prefix_cache, "read_prefix", lambda m, ids: (runs.append(len(ids)), read(m, ids))[1]
    )
    prompts, completions = exchanges(8, "Answer in one word. " + SENTENCES[0])
    TorchTextModel(model, template, CPU, 100).score(prompts, completions)
    assert [length for length in runs if length > 2] == [max(runs)]


def test_memory_does_not_grow_with_the_number_of_rows(
    model: PreTrainedModel, template: Template
) -> None:
    """No tensor grows with the rows: the largest that a pass makes, and what stays alive."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    def peak(rows: int) -> tuple[int, int]:
        nonlocal largest
        largest = 0
        prompts, completions = exchanges(8)
        text = TorchTextModel(model, template, CPU, 512)
        tracemalloc.start()
        with Watch():
            text.score(prompts * rows, completions * rows)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return largest, most

    (few, _), (many, python) = peak(8), peak(32)
    assert many <= 1.5 * few, "passes of the same budget, four times as many of them"
    assert python < 8_000_000


def test_answers_are_text_without_control_tokens(
    model: PreTrainedModel, template: Template
) -> None:
    prompts, _ = exchanges(6)
    told: list[int] = []
    answers = TorchTextModel(model, template, CPU).generate(prompts, 12, progress=told.append)
    assert told[-1] == 6
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = template.prompt_ids(prompt)
        start = len(ids)
        while len(ids) - start < 12 and (len(ids) == start or ids[-1] not in template.end_ids):
            with torch.no_grad():
                logits = model(torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        stopped = "end" if ids[-1] in template.end_ids else "limit"
        assert (answer.tokens, answer.stopped) == (len(ids) - start, stopped)
        said = ids[start:-1] if stopped == "end" else ids[start:]
        assert answer.text == template.tokenizer.decode(said, skip_special_tokens=True)
        assert "<|" not in answer.text


def test_the_token_that_ended_an_answer_is_no_text(
    model: PreTrainedModel, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a template ends answers with an ordinary token."""
    said, end = template.tokenizer("The capital"), template.tokenizer("Paris")
    ids = (*said["input_ids"], end["input_ids"][0])
    answers = [Generated(ids, "end", ()), Generated(ids, "limit", ())]
    monkeypatch.setattr("tunesmith_torch.generation.text_model.generate", lambda *_, **__: answers)
    ended, cut = TorchTextModel(model, template, CPU).generate(exchanges(2)[0], 9)
    assert ended.text == "The capital"
    assert cut.text.startswith("The capital") and len(cut.text) > len(ended.text)
    assert ended.tokens == cut.tokens == len(ids)


def test_what_does_not_fit_is_refused_by_number(template: Template) -> None:
    model = tiny_model(vocabulary=len(template.tokenizer))
    text = TorchTextModel(model, template, CPU)
    short, long = (Message("user", "yes"),), (Message("user", "yes no " * 400),)
    assert text.context == 512
    assert text.fits(short, 100) and not text.fits(short, 512)
    assert not text.fits(long, 1)
    with pytest.raises(UsageError, match="answer 1: longer than the model's context, got"):
        text.generate([short, long], 4)
    with pytest.raises(UsageError, match="exchange 1: longer than"):
        text.score([short, long], ["yes", "no"])
    assert text.generate([], 4) == [] and text.score([], []) == []


# --------------------------------------------------------------------------- drawn answers


def test_a_draw_does_not_depend_on_the_other_prompts(
    model: PreTrainedModel, template: Template
) -> None:
    text = TorchTextModel(model, template, CPU)
    prompts, _ = exchanges(6)
    together = text.sample([*prompts, prompts[0]], 12, seed=3)
    assert text.sample(prompts[2:3], 12, seed=3) == together[2:3]
    assert together[0] != together[6], "a prompt that is asked again gets another answer"
    assert text.sample(prompts, 12, seed=4) != together[:6]


def test_drawn_answers_are_scored_as_they_were_said(
    model: PreTrainedModel, template: Template
) -> None:
    """Random bytes are told in other tokens than they were said in; the scores are of these."""
    text = TorchTextModel(model, template, CPU)
    prompts, _ = exchanges(5)
    drawn = text.sample(prompts, 12, seed=0)
    scores = text.score_drawn(prompts, drawn)
    for prompt, answer, found in zip(prompts, drawn, scores, strict=True):
        before = template.prompt_ids(prompt)
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *answer.ids]]), use_cache=False).logits
        expected = logits[0, len(before) - 1 : -1].log_softmax(-1)
        expected = expected[range(len(answer.ids)), list(answer.ids)]
        assert found.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    with pytest.raises(UsageError, match="tokens"):
        text.score_drawn(prompts[:1], [Generation("a", 1, "end")])
