"""TorchTextModel: scores and completions equal those of plain forward passes, for any batch."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tunesmith.contracts import Generation, TokenScores
from tunesmith.errors import PromptTooLongError, UsageError
from tunesmith.records import Message, Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation import prefix_cache, text_model
from tunesmith_torch.generation.sequences import GeneratedSequence
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import (
    SENTENCES,
    build_tiny_config,
    build_tiny_model,
    build_tiny_tokenizer,
)

CPU = torch.device("cpu")
WORDS = " ".join(SENTENCES).split()


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.from_tokenizer(build_tiny_tokenizer())


@pytest.fixture(scope="module")
def model(template: Template) -> PreTrainedModel:
    return varied_model("llama", template)


def varied_model(family: str, template: Template, **changes: object) -> PreTrainedModel:
    config = build_tiny_config(family, vocabulary=len(template.tokenizer))
    config.initializer_range = 0.1
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def exchanges(count: int, system: str = "") -> tuple[list[Prompt], list[str]]:
    rng = random.Random(0)
    start = (Message("system", system),) if system else ()

    def words(max_words: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, max_words)))

    prompts = [(*start, Message("user", words(20))) for _ in range(count)]
    return [*prompts], [words(8) for _ in range(count)]


def reference_logprobs(
    model: Any, template: Template, prompt: Prompt, completion: str
) -> list[float]:
    """Score one row with the model's own forward and a full log-softmax."""
    before, answer = template.encode_prompt(prompt), template.encode_answer(prompt, completion)
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *answer]]), use_cache=False).logits
    logits = logits[0, -len(answer) - 1 : -1] if before else logits[0, :-1]
    answer = answer[-len(logits) :]
    return logits.log_softmax(-1)[range(len(answer)), answer].tolist()


def reference_scores(
    model: Any, template: Template, prompts: Sequence[Prompt], completions: Sequence[str]
) -> list[list[float]]:
    return [
        reference_logprobs(model, template, *pair)
        for pair in zip(prompts, completions, strict=True)
    ]


def assert_close(scores: Sequence[TokenScores], expected: Sequence[Sequence[float]]) -> None:
    assert len(scores) == len(expected)
    for score, expected_logprobs in zip(scores, expected, strict=True):
        assert score.logprobs == pytest.approx(expected_logprobs, abs=1e-5)


@pytest.mark.parametrize("system", ["", "Answer in one word. " + SENTENCES[0]])
@pytest.mark.parametrize("budget", [1, 200, 16_384])
def test_scores_are_those_of_a_plain_forward_pass(
    model: PreTrainedModel, template: Template, system: str, budget: int
) -> None:
    prompts, completions = exchanges(12, system)
    scores = TorchTextModel(model, template, CPU, budget).score(prompts, completions)
    assert_close(scores, reference_scores(model, template, prompts, completions))
    ids = template.encode_answer(prompts[0], completions[0])
    assert ids[-1] in template.end_ids
    assert len(scores[0].logprobs) == len(ids), "the end token is scored too"


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "mistral", "cohere", "granite"])
def test_other_model_families_score_like_a_plain_forward_pass(
    family: str, template: Template
) -> None:
    model = varied_model(family, template)
    prompts, completions = exchanges(6, "You are kind and answer in one short word.")
    scores = TorchTextModel(model, template, CPU).score(prompts, completions)
    assert_close(scores, reference_scores(model, template, prompts, completions))


def test_a_sliding_window_shorter_than_the_rows_is_applied(template: Template) -> None:
    model = varied_model("mistral", template, sliding_window=8)
    prompts, completions = exchanges(6)
    scores = TorchTextModel(model, template, CPU).score(prompts, completions)
    assert_close(scores, reference_scores(model, template, prompts, completions))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapters_are_applied_even_on_the_head(
    targets: str | list[str], template: Template
) -> None:
    from peft import LoraConfig, get_peft_model

    base = varied_model("llama", template, tie_word_embeddings=False)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tuned = get_peft_model(base, config).eval()
    prompts, completions = exchanges(6, "You are kind and answer in one short word.")
    expected = reference_scores(tuned, template, prompts, completions)
    assert_close(TorchTextModel(tuned, template, CPU).score(prompts, completions), expected)
    with tuned.disable_adapter():
        plain = reference_logprobs(tuned, template, prompts[0], completions[0])
    assert plain != pytest.approx(expected[0], abs=1e-2)
    merged = tuned.merge_and_unload()
    scores = TorchTextModel(merged, template, CPU).score(prompts, completions)
    for score, expected_logprobs in zip(scores, expected, strict=True):
        assert score.logprobs == pytest.approx(expected_logprobs, abs=1e-4)


def test_a_learned_prompt_is_applied(template: Template) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        tuned = get_peft_model(varied_model("llama", template), config).eval()
    prompts, completions = exchanges(3)
    scores = TorchTextModel(tuned, template, CPU).score(prompts, completions)
    assert_close(scores, reference_scores(tuned, template, prompts, completions))


def test_scores_are_the_same_for_every_token_budget(
    model: PreTrainedModel, template: Template
) -> None:
    prompts, completions = exchanges(12)

    def mean(budget: int) -> float:
        scores = TorchTextModel(model, template, CPU, budget).score(prompts, completions)
        values = [value for score in scores for value in score.logprobs]
        return sum(values) / len(values)

    means = [mean(budget) for budget in (1, 60, 90, 150, 4096)]
    assert means == pytest.approx([means[0]] * 5, abs=1e-6)


def test_plain_text_has_no_score_for_its_first_token(
    model: PreTrainedModel, template: Template
) -> None:
    texts = [SENTENCES[0], SENTENCES[1]]
    scores = TorchTextModel(model, template, CPU).score(["", ""], texts)
    assert_close(scores, [reference_logprobs(model, template, "", text) for text in texts])


def test_a_common_prefix_is_computed_once(
    model: PreTrainedModel, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    TorchTextModel(model, template, CPU).score(*exchanges(2))  # tries the cache of this model
    prefix_lengths: list[int] = []
    compute_prefix = prefix_cache.compute_prefix
    monkeypatch.setattr(
        prefix_cache,
        "compute_prefix",
        lambda m, ids: (prefix_lengths.append(len(ids)), compute_prefix(m, ids))[1],
    )
    prompts, completions = exchanges(8, "Answer in one word. " + SENTENCES[0])
    TorchTextModel(model, template, CPU, 100).score(prompts, completions)
    assert [length for length in prefix_lengths if length > 2] == [max(prefix_lengths)]


def test_a_prompt_with_many_answers_is_computed_once_behind_the_common_prefix(
    model: PreTrainedModel, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, completions = exchanges(6, "Answer in one word. " + SENTENCES[0])
    pairs = [(prompt, answer) for prompt in prompts[:3] for answer in completions[:5]]
    pairs.append((prompts[3], completions[0]))
    asked, answers = [p for p, _ in pairs], [a for _, a in pairs]
    monkeypatch.setitem(text_model.MIN_SAVED_TOKENS, "cpu", 8)
    computed: list[tuple[int, int]] = []
    compute_prefix = prefix_cache.compute_prefix

    def record(m: PreTrainedModel, ids: Any, before: Any = None) -> Any:
        computed.append((before.length if before else 0, len(ids)))
        return compute_prefix(m, ids, before)

    text = TorchTextModel(model, template, CPU)
    expected = [text.score([prompt], [answer])[0] for prompt, answer in pairs]
    monkeypatch.setattr(prefix_cache, "compute_prefix", record)
    scores = text.score(asked, answers)
    for mine, alone in zip(scores, expected, strict=True):
        assert mine.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
    (start, common), *own = [each for each in computed if each[1] > 2]
    lengths = [len(template.encode_prompt(prompt)) - 1 for prompt in prompts[:3]]
    assert start == 0
    # With so few tokens to save, a short prompt is better scored together with others.
    assert own == [(common, length) for length in lengths if 4 * (length - common) >= 8]
    assert len(own) >= 2


def test_memory_does_not_grow_with_the_number_of_rows(
    model: PreTrainedModel, template: Template
) -> None:
    """The largest tensor of a pass and the memory in use stay bounded for more rows."""
    largest = 0

    class RecordLargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
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
        prompts, completions = exchanges(8 * rows)
        text = TorchTextModel(model, template, CPU, 512)
        tracemalloc.start()
        with RecordLargestTensor():
            text.score(prompts, completions)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return largest, peak_bytes

    (few, _), (many, python) = peak(8), peak(32)
    assert many <= 1.5 * few, "four times as many passes of the same size"
    assert python < 8_000_000


def test_generated_text_has_no_control_tokens(model: PreTrainedModel, template: Template) -> None:
    prompts, _ = exchanges(6)
    counts: list[int] = []
    answers = TorchTextModel(model, template, CPU).generate(prompts, 12, progress=counts.append)
    assert counts[-1] == 6
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = template.encode_prompt(prompt)
        start = len(ids)
        while len(ids) - start < 12 and (len(ids) == start or ids[-1] not in template.end_ids):
            with torch.no_grad():
                logits = model(torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
        finish_reason = "stop" if ids[-1] in template.end_ids else "length"
        assert (answer.tokens, answer.finish_reason) == (len(ids) - start, finish_reason)
        text_ids = ids[start:-1] if finish_reason == "stop" else ids[start:]
        assert answer.text == template.tokenizer.decode(text_ids, skip_special_tokens=True)
        assert "<|" not in answer.text


def test_the_end_token_is_not_part_of_the_text(
    model: PreTrainedModel, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds if a template ends answers with an ordinary token."""
    text_ids, end = template.tokenizer("The capital"), template.tokenizer("Paris")
    ids = (*text_ids["input_ids"], end["input_ids"][0])
    answers = [GeneratedSequence(ids, "stop", ()), GeneratedSequence(ids, "length", ())]
    monkeypatch.setattr("tunesmith_torch.generation.text_model.generate", lambda *_, **__: answers)
    ended, cut = TorchTextModel(model, template, CPU).generate(exchanges(2)[0], 9)
    assert ended.text == "The capital"
    assert cut.text.startswith("The capital") and len(cut.text) > len(ended.text)
    assert ended.tokens == cut.tokens == len(ids)


def test_rows_longer_than_the_context_are_refused_with_their_index(template: Template) -> None:
    model = build_tiny_model(vocabulary=len(template.tokenizer))
    text = TorchTextModel(model, template, CPU)
    short, long = (Message("user", "yes"),), (Message("user", "yes no " * 400),)
    assert text.context == 512
    assert text.fits(short, 100) and not text.fits(short, 512)
    assert not text.fits(long, 1)
    message = "answer of 4 tokens: longer than the model's .* in 1 of 3 cases; .* at index 1"
    with pytest.raises(PromptTooLongError, match=message) as refused:
        text.generate([short, long, short], 4)
    assert refused.value.prompts == (long,)
    with pytest.raises(PromptTooLongError, match=r"exchange: longer .* in 1 of 2") as refused:
        text.score([short, long], ["yes", "no"])
    assert refused.value.prompts == (long,)
    assert text.generate([], 4) == [] and text.score([], []) == []


# --------------------------------------------------------------------------- sampling


def test_a_sample_does_not_depend_on_the_other_prompts(
    model: PreTrainedModel, template: Template
) -> None:
    text = TorchTextModel(model, template, CPU)
    prompts, _ = exchanges(6)
    together = text.sample([*prompts, prompts[0]], 12, seed=3)
    assert text.sample(prompts[2:3], 12, seed=3) == together[2:3]
    assert together[0] != together[6], "a repeated prompt gets another completion"
    assert text.sample(prompts, 12, seed=4) != together[:6]


def test_generations_are_scored_by_their_token_ids(
    model: PreTrainedModel, template: Template
) -> None:
    """Tokenizing the decoded text may give other ids than the generated ones; those are scored."""
    text = TorchTextModel(model, template, CPU)
    prompts, _ = exchanges(5)
    generations = text.sample(prompts, 12, seed=0)
    scores = text.score_generations(prompts, generations)
    for prompt, answer, score in zip(prompts, generations, scores, strict=True):
        before = template.encode_prompt(prompt)
        with torch.no_grad():
            logits = model(torch.tensor([[*before, *answer.ids]]), use_cache=False).logits
        expected = logits[0, len(before) - 1 : -1].log_softmax(-1)
        expected = expected[range(len(answer.ids)), list(answer.ids)]
        assert score.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    with pytest.raises(UsageError, match="no token ids"):
        text.score_generations(prompts[:1], [Generation("a", 1, "stop")])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_streamed_answer_grows_to_the_whole_one(
    model: PreTrainedModel, template: Template, temperature: float
) -> None:
    text_model = TorchTextModel(model, template, CPU)
    for prompt in exchanges(3)[0]:
        parts = [*text_model.stream(prompt, 12, seed=5, temperature=temperature)]
        whole = (
            text_model.sample([prompt], 12, seed=5, temperature=temperature)
            if temperature
            else text_model.generate([prompt], 12)
        )
        assert [len(part.ids) for part in parts] == [*range(1, len(parts) + 1)]
        assert parts[-1] == whole[0]
        assert all(part.finish_reason == "length" for part in parts[:-1])


def test_a_streamed_answer_needs_room_too(template: Template) -> None:
    small = varied_model("llama", template, max_position_embeddings=64)
    with pytest.raises(UsageError, match="context"):
        next(TorchTextModel(small, template, CPU).stream((Message("user", "x " * 80),), 8))


def test_an_equal_prefix_is_computed_once_and_changes_no_bit(
    model: PreTrainedModel, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free answers and the scores of labels have the same prompts, with others in between."""
    computed: list[list[int]] = []

    def compute(model: Any, ids: Sequence[int], before: Any = None) -> Any:
        computed.append([*ids])
        return original(model, ids, before)

    TorchTextModel(model, template, CPU).score(*exchanges(2, "The model's test run comes first."))
    original = prefix_cache.compute_prefix
    monkeypatch.setattr(prefix_cache, "compute_prefix", compute)
    kept = TorchTextModel(model, template, CPU, keeps_prefix=True)
    calls = []
    for system in ("yes one two three four five six", "yes six five four three two one"):
        prompts, completions = exchanges(4, system)
        calls.append((prompts, ["yes ten two"] * 4))
        calls.append((prompts, completions))
    for scorer, count in ((kept, 3), (TorchTextModel(model, template, CPU), 10)):
        computed.clear()
        results = []
        for prompts, completions in (*calls, calls[0]):
            results.append(scorer.score(prompts, completions))
            results.append(scorer.generate(prompts, 3))
        assert len(computed) == count
        if scorer is kept:
            with_kept = results
    assert results == with_kept


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_hidden_states_are_the_mean_of_each_prompt_alone(family: str, template: Template) -> None:
    model = varied_model(family, template)
    text_model = TorchTextModel(model, template, torch.device("cpu"))
    prompts, _ = exchanges(9)
    prompts = [*prompts, "plain text"]
    found = text_model.embed(prompts)
    decoder = model.get_decoder()
    for prompt, vector in zip(prompts, found, strict=True):
        ids_1T = torch.tensor([template.encode_prompt(prompt)])
        with torch.no_grad():
            hidden_TD = decoder(input_ids=ids_1T, use_cache=False).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden_TD.mean(0).numpy(), atol=2e-5)
    np.testing.assert_allclose(text_model.embed(prompts[::-1])[::-1], found, atol=2e-5)
    assert text_model.embed([]).shape[0] == 0
