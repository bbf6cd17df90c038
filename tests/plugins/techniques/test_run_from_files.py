"""A run from its files: bare transformers gives the ids that each technique has trained.

The digest of a job's token ids is written before the first step. Here it is computed once more,
from the tokenizer and the generation config in the folder of the trained model, without tunesmith.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tables import tables
from tests.toolkit.data.foreign_templates import FOREIGN, byte_tokenizer
from transformers import AutoTokenizer, GenerationConfig

from tunesmith.contracts import Job
from tunesmith.offers import TechniqueOffer
from tunesmith.options import from_table
from tunesmith.records import Chat, Message, Preference, Record, UnpairedPreference
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.offer import FULL
from tunesmith_plugins.techniques.lora.offer import LORA
from tunesmith_plugins.techniques.preference.offer import PREFERENCE
from tunesmith_plugins.techniques.qlora.offer import QLORA
from tunesmith_plugins.techniques.rlhf.offer import RLHF
from tunesmith_torch.data.named_templates import NAMED_TEMPLATES
from tunesmith_torch.testing.tiny_model import build_tiny_model
from tunesmith_torch.training.token_digest import digest_rows

TURNS = (
    *(Message("user", "What is the capital?"), Message("assistant", "It is Paris")),
    *(Message("user", "And of Spain?"), Message("assistant", "Madrid")),
    *(Message("user", "One two?"), Message("assistant", "three four")),
)
CHATS = tuple(Chat(source=f"rows:{n}", messages=TURNS[: 2 * n]) for n in (1, 2, 3))
PAIRS = tuple(
    Preference(
        source=f"pairs:{n}",
        prompt=(*TURNS[: 2 * (n % 3)], Message("user", f"{n}?")),
        chosen="yes " * (1 + n % 4) + "one",
        rejected="no",
    )
    for n in range(12)
)
LABELLED = tuple(
    UnpairedPreference(source=p.source, prompt=p.prompt, completion=text, label=label)
    for p in PAIRS
    for text, label in ((p.chosen, True), (p.rejected, False))
)
QUICK = {"max_steps": 1, "batch_size": 4, "precision": "fp32"}
POLICY = {
    **QUICK,
    "generation__num_generations": 2,
    "generation__max_new_tokens": 4,
    "loss__mask_truncated_completions": False,
}


class Saved:
    """The files of a trained model, read by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [ends])}

    def render(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        fields = [{"role": message.role, "content": message.text} for message in messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            fields, add_generation_prompt=generation, return_dict=False
        )
        return ids

    def exchange(self, prompt: Sequence[Message], answer: str) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt and of the answer, up to the token that ends it."""
        before = self.render(prompt, generation=True)
        whole = self.render([*prompt, Message("assistant", answer)], generation=False)
        assert whole[: len(before)] == before
        after = whole[len(before) :]
        stop = next((n for n, token in enumerate(after) if token in self.ends), None)
        if stop is not None:
            return before, after[: stop + 1]
        while not self.tokenizer.decode(after[-1:]).strip():
            after = after[:-1]
        return before, [*after, self.tokenizer.eos_token_id]


def supervised_rows(saved: Saved, records: Sequence[Record]) -> Iterator[Sequence[int]]:
    """Yield ids, and which are trained: one row as long as each prompt continues the one before."""
    for record in records:
        if isinstance(record, Preference):
            turns = [(record.prompt, record.chosen)]
        else:
            assert isinstance(record, Chat)
            odd = range(1, len(record.messages), 2)
            turns = [(record.messages[:n], record.messages[n].text) for n in odd]
        row: list[int] = []
        trained: list[int] = []
        for prompt, answer in turns:
            before, after = saved.exchange(prompt, answer)
            if before[: len(row)] != row:
                yield from (row, trained)
                trained = []
            trained += [*[0] * (len(before) - len(trained)), *[1] * len(after)]
            row = [*before, *after]
        yield from (row, trained)


def preference_rows(saved: Saved, records: Sequence[Record]) -> Iterator[Sequence[int]]:
    for record in records:
        if isinstance(record, Preference):
            (prompt, chosen), (_, rejected) = (
                saved.exchange(record.prompt, answer) for answer in (record.chosen, record.rejected)
            )
            yield from (prompt, chosen, rejected)
        else:
            assert isinstance(record, UnpairedPreference)
            yield from saved.exchange(record.prompt, record.completion)


def prompt_rows(saved: Saved, records: Sequence[Record]) -> Iterator[Sequence[int]]:
    prompts = dict.fromkeys(r.prompt for r in records if isinstance(r, Preference))
    yield from (saved.render(prompt, generation=True) for prompt in prompts)


Rows = Callable[[Saved, Sequence[Record]], Iterator[Sequence[int]]]
RUNS: dict[str, tuple[TechniqueOffer[Any], Sequence[Record], dict[str, Any], dict[str, Rows]]] = {
    "full": (FULL, CHATS, QUICK, {"model": supervised_rows}),
    "lora": (LORA, CHATS, QUICK, {"adapter": supervised_rows}),
    "qlora": (QLORA, CHATS, QUICK, {"adapter": supervised_rows}),
    **{
        f"preference, {loss}": (
            PREFERENCE,
            LABELLED if loss == "kto" else PAIRS,
            {**QUICK, "loss__type": loss},
            {"adapter": preference_rows},
        )
        for loss in ("dpo", "ipo", "kto", "orpo", "simpo")
    },
    "rlhf": (
        RLHF,
        PAIRS,
        {
            **{f"supervised__{key}": value for key, value in QUICK.items()},
            **{f"reward__{key}": value for key, value in QUICK.items()},
            **{f"policy__{key}": value for key, value in POLICY.items()},
            "reward__gate__accept_weak": True,
        },
        {
            "supervised/adapter": supervised_rows,
            "reward/adapter": preference_rows,
            "policy/adapter": prompt_rows,
        },
    ),
}
NAMES = [
    *NAMED_TEMPLATES,
    *(name for name, foreign in FOREIGN.items() if "date" not in name and not foreign.reasoning),
]
QUICK_RUNS = {
    ("full", "words alone, with nothing at the end of an answer"),
    ("lora", "chatml"),
    ("lora", "words alone, without a generation prompt"),
    ("qlora", "plain"),
    ("preference, dpo", "gemma"),
    ("preference, kto", "EOS after the last answer alone"),
    ("rlhf", "llama-3"),
}


def every_run() -> Iterator[Any]:
    for technique in RUNS:
        for name in NAMES:
            marks = [] if (technique, name) in QUICK_RUNS else [pytest.mark.long]
            yield pytest.param(technique, name, marks=marks, id=f"{technique}, {name}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model whose tokenizer has no control tokens but BOS and EOS, and no template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer(marks=False)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    build_tiny_model(vocabulary=len(tokenizer), changes=sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("technique", "name"), every_run())
def test_the_saved_files_give_the_trained_ids(
    tmp_path: Path, model: Path, technique: str, name: str
) -> None:
    offer, records, keys, parts = RUNS[technique]
    source = name
    if name in FOREIGN:
        source = str(tmp_path / "template.jinja")
        Path(source).write_text(FOREIGN[name].source, encoding="utf-8")
    stages = ["supervised__", "reward__", "policy__"] if technique == "rlhf" else [""]
    named = {f"{stage}chat_template__source": source for stage in stages}
    out = tmp_path / "run"
    out.mkdir()
    config = from_table(offer.config, tables(**keys, **named))
    job: Job[Any] = Job(
        config=config,
        model=model,
        train=records,
        validation=PAIRS if technique == "rlhf" else (),
        out=out,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"),
        emit=lambda event: None,
        technique=offer.name,
    )
    offer.build(config).train(job)
    for part, rows in parts.items():
        folder = out / part
        digests = json.loads((folder.parent / "tokens.json").read_text(encoding="utf-8"))
        saved = Saved(folder)
        assert digests["token_ids"] == digest_rows(rows(saved, records)), part
        lengths = [len(row) for row in chain(rows(saved, records))]
        assert min(lengths) > 1
