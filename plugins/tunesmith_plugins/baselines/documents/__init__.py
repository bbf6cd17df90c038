"""The ``documents`` baseline: the base model with passages of your documents in each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, Finding
from tunesmith.encoders import Encoder
from tunesmith.errors import DataError
from tunesmith.offers import BaselineOffer
from tunesmith.options import DataPath, Options
from tunesmith.plan import Plan

if TYPE_CHECKING:
    from tunesmith_evidence.prompting.prompted_model import PromptedModel
    from tunesmith_evidence.tasks.examples import Example
    from tunesmith_plugins.baselines.documents.passages import PassageIndex, Similarity

NAME = "documents"
TABLE = f"baselines.{NAME}"
MAX_LABELS = 30
"""Maximum number of labels; if more answers recur, they are treated as facts, not as classes."""
MAX_EXAMINED = 200
"""Maximum number of training rows whose passages are searched for their answer."""


FindPassages: TypeAlias = Callable[[str], Sequence[str]]


class DocumentsOptions(Options):
    """Options of ``documents``. It is used by default if `folder` is set."""

    folder: DataPath | None = Field(
        None,
        description=(
            "Folder with the documents that answer the questions, also in subfolders: Markdown, "
            "text, reStructuredText, HTML, PDF and Word files."
        ),
    )
    k: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [3, 1, 6],
        min_length=1,
        description=(
            "Numbers of passages to try in a prompt. The least similar ones are dropped if they do "
            "not fit into the model's context."
        ),
    )
    words: list[Annotated[int, Field(ge=10, le=2000)]] = Field(
        [120, 40],
        min_length=1,
        description=(
            "Lengths of passages to try, in words. A passage includes the headings above it and "
            "ends before the next heading."
        ),
    )
    shots: list[Annotated[int, Field(ge=0, le=64)]] = Field(
        [4, 0],
        min_length=1,
        description=(
            "Numbers of worked examples to try: training rows whose passages contain their "
            "answer, shown with these passages."
        ),
    )


class DocumentsBaseline:
    """The base model with the passages most similar to each question in its prompt."""

    def __init__(self, options: DocumentsOptions) -> None:
        self.options = options
        self._indexes: dict[int, PassageIndex] = {}

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield variants with free and constrained answers.

        The variants differ in the number of examples, the number and length of passages, and the
        similarity measure used to find the passages.

        Raises:
            DataError: the folder has no readable documents.
        """
        from tunesmith_evidence.prompting.instructions import describe_length
        from tunesmith_evidence.prompting.task_prompt import read_task

        if self.options.folder is None:
            return
        prompt = read_task(task)
        # Many short distinct answers are facts from the documents, not classes to choose from.
        if len(prompt.labels) > MAX_LABELS:
            length = describe_length([example.answer for example in prompt.examples])
            prompt = replace(prompt, kind="text", labels=(), description=length)
        similarities: tuple[Similarity, ...] = ("lexical",)
        if task.encoder is not None and task.encodes_everywhere:
            similarities = ("both", "lexical", "embeddings")
        indexes = self._open_indexes(Path(self.options.folder), task.encoder)

        def prompted(examples: Sequence[Example], find: FindPassages) -> PromptedModel:
            return replace(prompt.prompted(lambda _: examples, describe=True), find_passages=find)

        settings = product(self.options.shots, indexes, self.options.k, similarities)
        for shots, words, k, how in settings:
            find = partial(indexes[words].find, count=k, similarity=how)
            examples = choose_examples(prompt.examples, find, shots, task.seed)
            if len(examples) >= min(shots, 1):
                parts = [f"k={k}", f"{words} words", how if len(similarities) > 1 else ""]
                name = ", ".join(filter(None, [*parts, f"{shots} examples" if shots else ""]))
                model = prompted(examples, find)
                yield BaselineVariant(name=name, model=model)
                yield from prompt.constrained(model, name)

    def _open_indexes(
        self, folder: Path, encoder: Callable[[], Encoder] | None
    ) -> dict[int, PassageIndex]:
        """Return an index for each passage length, skipping lengths that give the same passages."""
        from tunesmith_plugins.baselines.documents.passages import PassageIndex, split_document
        from tunesmith_plugins.baselines.documents.read_folder import read_folder

        if not self._indexes:
            documents = read_folder(folder).documents
            for words in self.options.words:
                passages = [part for each in documents for part in split_document(each, words)]
                if all(passages != index.passages for index in self._indexes.values()):
                    self._indexes[words] = PassageIndex(passages, encoder)
        return self._indexes


def choose_examples(
    examples: Sequence[Example], find: FindPassages, count: int, seed: int
) -> Sequence[Example]:
    """Return up to ``count`` examples whose passages contain their answer, with these passages.

    Examples whose passages lack the answer would teach the model to ignore the passages.
    """
    from tunesmith_evidence.prompting.prompted_model import add_passages
    from tunesmith_evidence.prompting.shots import choose_shots
    from tunesmith_evidence.tasks.examples import random_sort_key

    if not count:
        return ()
    found = []
    for example in sorted(examples, key=lambda e: random_sort_key(e, seed))[:MAX_EXAMINED]:
        passages = find(example.text)
        if example.answer.strip().casefold() in "\n".join(passages).casefold():
            question = add_passages(passages[::-1], example.question)
            found.append(replace(example, question=question))
    return choose_shots(found, count, seed)


DOCUMENTS = BaselineOffer(
    name=NAME,
    summary="the base model with passages of your documents in each prompt",
    config=DocumentsOptions,
    build=DocumentsBaseline,
    needs=("numpy>=1.26",),
    solution="retrieval",
    cost=135,
    needs_model=True,
    is_configured=lambda options: options.folder is not None,
)


def review(plan: Plan) -> Iterator[Finding]:
    """Yield an error if the documents are missing or unreadable, or warnings on skipped files."""
    from tunesmith_plugins.baselines.documents.read_folder import read_folder

    configs = (baseline.config for baseline in plan.baselines if baseline.offer is DOCUMENTS)
    options = next(configs, None)
    if not isinstance(options, DocumentsOptions):
        return
    if options.folder is None:
        if plan.baseline_options.use is not None:
            message, hint = "the `documents` baseline needs a folder", "set `folder` in this table"
            yield Finding(level="error", where=TABLE, message=message, hint=hint)
        return
    where = f"{TABLE}.folder"
    try:
        found = read_folder(Path(options.folder))
    except DataError as error:
        yield Finding(level="error", where=where, message=error.message, hint=error.hint or "")
        return
    for text in found.describe_skipped():
        yield Finding(level="warning", where=where, message=text)
