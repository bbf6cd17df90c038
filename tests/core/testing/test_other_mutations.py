"""Silent bugs of reporters, checks, baselines and splitters, each with the check that finds it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from bench import RECORDER, RecordingReporter
from mutations import find_failed, module_of, specimen

from tunesmith.contracts import BaselineTask, BaselineVariant, Finding, Split, SplitRequest
from tunesmith.errors import DataError, EnvironmentProblem
from tunesmith.events import RunFinished, RunStarted
from tunesmith.offers import BaselineOffer, ServeExtensionOffer
from tunesmith.options import Options
from tunesmith.records import Completion, Record, last_exchange, prompt_text
from tunesmith.testing import ReviewExample, run_checks
from tunesmith_cli.serving import ServedAnswer, ServedRequest, ServeExtension
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_plugins.splitters.grouped import GROUPED, Grouped

# --------------------------------------------------------------------------- reporters


class ChangesEvents(RecordingReporter):
    def report(self, event: Any) -> None:
        if isinstance(event, RunStarted):
            event.plan["seen"] = True
        super().report(event)


class Swallows(RecordingReporter):
    def __exit__(self, *error: object) -> Any:
        return True


class KeepsOpen(RecordingReporter):
    files: list[Any] = []  # noqa: RUF012 - closed by the test

    def __enter__(self) -> KeepsOpen:
        self.files.append(open(__file__, encoding="utf-8"))
        return self


class NeedsTotal(RecordingReporter):
    def report(self, event: Any) -> None:
        if event.kind == "phase-started":
            assert event.total > 0


class FailsAtFailures(RecordingReporter):
    def report(self, event: Any) -> None:
        if isinstance(event, RunFinished) and event.status == "failed":
            raise KeyError(event.status)


class KeepsRunning(RecordingReporter):
    """Starts a thread that ends long after the run."""

    ended = threading.Event()

    def __enter__(self) -> KeepsRunning:
        threading.Thread(target=self.ended.wait, args=[20.0], daemon=True).start()
        return self


REPORTERS: dict[str, tuple[type[RecordingReporter], str]] = {
    "changes events": (ChangesEvents, "leaves_events_unchanged"),
    "swallows the error of a run": (Swallows, "closes_after_failure"),
    "leaves files open": (KeepsOpen, "closes_after_failure"),
    "leaves threads running": (KeepsRunning, "closes_after_failure"),
    "needs totals": (NeedsTotal, "accepts_every_event"),
    "raises at failed runs": (FailsAtFailures, "accepts_every_event"),
}


def report(reporter: type[RecordingReporter]) -> set[str]:
    offer = replace(RECORDER, build=lambda options, folder: reporter())
    return find_failed(specimen("reporters", offer))


def test_an_honest_reporter_passes() -> None:
    assert report(RecordingReporter) == set()


@pytest.mark.parametrize("bug", REPORTERS)
def test_a_bug_of_a_reporter_is_found(bug: str) -> None:
    reporter, check = REPORTERS[bug]
    KeepsRunning.ended.clear()
    try:
        assert check in report(reporter)
    finally:
        KeepsRunning.ended.set()
        while KeepsOpen.files:
            KeepsOpen.files.pop().close()


def test_a_reporter_whose_service_cannot_be_reached_is_skipped() -> None:
    class Posts(RecordingReporter):
        def report(self, event: Any) -> None:
            try:
                raise ConnectionRefusedError("connection refused")
            except OSError:
                raise RuntimeError("the service does not answer")  # noqa: B904 - as libraries do

    offer = replace(RECORDER, build=lambda options, folder: Posts())
    results = {r.check: r for r in run_checks(specimen("reporters", offer))}
    assert results["accepts_every_event"].state == "not run"
    assert "start it on this machine" in results["accepts_every_event"].detail


def test_a_reporter_that_lacks_something_at_its_end_is_skipped() -> None:
    """As trackers do, which send in a thread."""

    class Sends(RecordingReporter):
        def __exit__(self, *exc: object) -> None:
            raise EnvironmentProblem("the tracker does not respond")

    offer = replace(RECORDER, build=lambda options, folder: Sends())
    assert find_failed(specimen("reporters", offer)) == set()
    results = {r.check: r for r in run_checks(specimen("reporters", offer))}
    assert results["accepts_every_event"].state == "not run"
    assert "does not respond" in results["accepts_every_event"].detail


# --------------------------------------------------------------------------- checks of data


def find_dots(train: Sequence[Record]) -> list[Finding]:
    """Return a finding about answers of three dots."""
    found = [r for r in train if isinstance(r, Completion) and r.completion == "..."]
    message = f"{len(found)} answers are three dots"
    return [Finding(level="warning", where="data", message=message)] if found else []


def find_always(train: Sequence[Record]) -> list[Finding]:
    return [Finding(level="warning", where="data", message=f"{len(train)} answers are three dots")]


def find_once(train: Sequence[Record]) -> list[Finding]:
    found = find_dots(train)
    if isinstance(train, list):
        train[:] = [r for r in train if getattr(r, "completion", "") == "Paris"]
    return found


REVIEWS: dict[str, tuple[Callable[..., Any], str]] = {
    "never finds anything": (lambda train: [], "reviews_find_what_their_examples_say"),
    "always finds something": (find_always, "reviews_find_what_their_examples_say"),
    "changes the records": (find_once, "reviews_are_the_same_twice"),
    "returns nothing": (lambda train: None, "reviews_return_findings"),
    "yields texts": (lambda train: ["three dots"], "reviews_return_findings"),
    "fails without rows": (lambda train: find_dots([train[0], *train]), "reviews_return_findings"),
}


def look(review: Callable[..., Any]) -> set[str]:
    good = Completion(source="rows:1", prompt="a", completion="b")
    bad = replace(good, completion="...")
    examples = [ReviewExample(train=[good, bad], finds="1 answers"), ReviewExample(train=[good])]
    module = module_of(review_data=lambda train: review(train))
    return find_failed(module, examples={"tunesmith_review_data": examples})


def test_an_honest_check_passes() -> None:
    assert look(find_dots) == set()


@pytest.mark.parametrize("bug", REVIEWS)
def test_a_bug_of_a_check_is_found(bug: str) -> None:
    review, check = REVIEWS[bug]
    assert check in look(review)


# --------------------------------------------------------------------------- baselines


class NoOptions(Options):
    """No options."""


class Table:
    """Answers with the answer of the training row with the same prompt."""

    def __init__(self, options: NoOptions) -> None:
        self.answers: dict[str, str] = {}

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        self.answers |= {e.text: e.answer for e in read_examples(task.train, task.seed)}
        yield BaselineVariant(name="", model=FunctionModel(self.solve))

    def solve(self, texts: Sequence[str]) -> list[str]:
        return [self.answers.get(text, "none") for text in texts]


class Peeks(Table):
    """Knows the rows of all tasks that there ever were, with those that are held out now."""

    seen: dict[str, str] = {}  # noqa: RUF012 - that is the bug

    def __init__(self, options: NoOptions) -> None:
        self.answers = self.seen

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        for record in task.train:
            prompt, answer = last_exchange(record)
            self.seen[prompt_text(prompt)] = answer.text
        yield BaselineVariant(name="", model=FunctionModel(self.solve))


class Crowd(Table):
    def solve(self, texts: Sequence[str]) -> list[str]:
        return [f"{answer}{len(texts) // 20}" for answer in super().solve(texts)]


class Drawn(Table):
    def solve(self, texts: Sequence[str]) -> list[str]:
        return [f"{answer} {random.random()}" for answer in super().solve(texts)]


class Greedy(Table):
    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        yield from super().variants(task)
        if isinstance(task.train, list):
            task.train.clear()


class AsksSecretly(Table):
    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        yield BaselineVariant(name="", model=task.base())


BASELINES: dict[str, tuple[type[Table], str]] = {
    "peeks at test rows": (Peeks, "knows_only_its_training_rows"),
    "depends on other prompts": (Crowd, "does_not_depend_on_other_prompts"),
    "answers at random": (Drawn, "solves_the_same_way_twice"),
    "changes the training rows": (Greedy, "leaves_training_rows_unchanged"),
    "asks the model secretly": (AsksSecretly, "answers_every_prompt"),
}


def solve(baseline: type[Table]) -> set[str]:
    offer = BaselineOffer(
        name="table",
        summary="a table",
        config=NoOptions,
        build=baseline,
        solution="classifier",
        cost=1,
        suits=bool,
    )
    return find_failed(specimen("baselines", offer))


def test_an_honest_baseline_passes() -> None:
    assert solve(Table) == set()


@pytest.mark.parametrize("bug", BASELINES)
def test_a_bug_of_a_baseline_is_found(bug: str) -> None:
    baseline, check = BASELINES[bug]
    Peeks.seen.clear()
    assert check in solve(baseline)


# --------------------------------------------------------------------------- splitters


class TearsGroups(Grouped):
    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        alone = [replace(record, group=None) for record in records]
        return super().split(alone, replace(request, records=alone))


class Random(Grouped):
    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        return super().split(records, replace(request, seed=random.randrange(2**30)))


def change_split(change: Callable[[Split], Split]) -> type[Grouped]:
    class Changed(Grouped):
        def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
            return change(super().split(records, request))

    return Changed


SPLITTERS: dict[str, tuple[type[Grouped], str]] = {
    "tears groups": (TearsGroups, "keeps_groups_together"),
    "draws without a seed": (Random, "splits_the_same_way_twice"),
    "loses a row": (
        change_split(lambda s: replace(s, train=s.train[1:])), "puts_each_row_into_one_part",
    ),
    "holds training rows out": (
        change_split(lambda s: replace(s, test=sorted([*s.test, s.train[0]]))),
        "puts_each_row_into_one_part",
    ),
    "has no validation rows": (
        change_split(lambda s: replace(s, train=sorted([*s.train, *s.validation]), validation=())),
        "puts_each_row_into_one_part",
    ),
    "mixes the order": (
        change_split(lambda s: replace(s, train=s.train[::-1])), "puts_each_row_into_one_part",
    ),
}  # fmt: skip


def split(splitter: type[Grouped]) -> set[str]:
    return find_failed(specimen("splitters", replace(GROUPED, build=splitter)))


def test_an_honest_splitter_passes() -> None:
    assert split(Grouped) == set()


@pytest.mark.parametrize("bug", SPLITTERS)
def test_a_bug_of_a_splitter_is_found(bug: str) -> None:
    splitter, check = SPLITTERS[bug]
    assert check in split(splitter)


def test_a_splitter_that_divides_groups_on_purpose_says_so() -> None:
    divides = replace(GROUPED, build=TearsGroups, divides_groups=True)
    assert find_failed(specimen("splitters", divides)) == set()


class ByDate(Grouped):
    """Needs a slice with a date, as the rows of the kit have one in ``time``."""

    column = "time"

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        rows = list(records)
        for record in rows:
            try:
                date.fromisoformat(dict(record.slices).get(self.column, ""))
            except ValueError:
                raise DataError(record.source, f"{self.column} is no date") from None
        return super().split(rows, request)


def test_the_rows_for_splitters_have_dates_and_sites() -> None:
    assert split(ByDate) == set()
    results = run_checks(specimen("splitters", replace(GROUPED, build=ByDate)))
    assert "skipped" not in {r.state for r in results if r.offer and "part" in r.check}

    class ByOther(ByDate):
        column = "created"

    results = run_checks(specimen("splitters", replace(GROUPED, build=ByOther)))
    details = [r.detail for r in results if r.state == "not run" and r.offer]
    assert details and all("slices time (a date) and site: kit:0" in d for d in details)


class Extension(ServeExtension):
    """An honest extension of the server."""


class Numbers(ServeExtension):
    """Chooses by number."""

    def choose(self, request: ServedRequest) -> str | None:
        return 3  # type: ignore[return-value]


class Demanding(ServeExtension):
    """Needs a header that a request may lack."""

    def choose(self, request: ServedRequest) -> str | None:
        return request.headers["x-user"]


class Counting(ServeExtension):
    """Divides by the number of finished tokens."""

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        assert answer.seconds / answer.completion_tokens


@pytest.mark.parametrize("kind", [Extension, Numbers, Demanding, Counting])
def test_a_bug_of_an_extension_of_the_server_is_found(kind: type[ServeExtension]) -> None:
    offer = ServeExtensionOffer(
        name="mine", summary="mine", config=Options, build=lambda options: kind()
    )
    failed = find_failed(specimen("serve_extensions", offer))
    assert failed == (set() if kind is Extension else {"extensions_take_every_request"})
