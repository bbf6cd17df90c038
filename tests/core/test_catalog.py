"""The catalog: names, ambiguity, and plugins whose hooks fail."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import RECORDER, RIGHT, ROWS, catalog_of, offering, plugin

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.contracts import Dataset, Finding, FoundModel, ReviewResult
from tunesmith.errors import PluginError
from tunesmith.offers import (
    KINDS,
    CommandOffer,
    ComponentOffer,
    DataLoaderOffer,
    EvaluatorOffer,
    RecipeOffer,
    ReporterOffer,
    TableOffer,
    TechniqueOffer,
)
from tunesmith.records import Text
from tunesmith.testing.modules import load_modules


def states(catalog: Catalog) -> dict[str, str]:
    return {plugin.name: plugin.state for plugin in catalog.plugins.found}


def test_offers_by_kind_and_name() -> None:
    catalog = catalog_of()
    assert catalog.find(DataLoaderOffer, "rows").offer is ROWS
    assert catalog.find(EvaluatorOffer, "right").full_name == "file:bench:right"
    assert catalog.find(EvaluatorOffer, "file:bench:right").offer is RIGHT
    assert [o.offer.name for o in catalog.offers(ReporterOffer)] == [RECORDER.name]


def test_a_name_is_found_only_for_its_kind() -> None:
    with pytest.raises(OfferNotFoundError, match='no technique "rows" is installed'):
        catalog_of().find(TechniqueOffer, "rows")


def test_an_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(OfferNotFoundError) as caught:
        catalog_of().find(DataLoaderOffer, "rosw")
    assert caught.value.hint == 'did you mean "rows"?'
    with pytest.raises(OfferNotFoundError) as caught:
        catalog_of().find(DataLoaderOffer, "parquet")
    assert (
        caught.value.hint
        == "installed: rows; `tunesmith plugins list --available parquet` may find it"
    )


def test_the_hint_names_plugins_that_were_not_loaded() -> None:
    catalog = catalog_of(odd=SimpleNamespace())
    with pytest.raises(OfferNotFoundError) as caught:
        catalog.find(TechniqueOffer, "missing-one")
    assert "not loaded: file:odd is broken, ValueError: the plugin does not implement any" in (
        caught.value.hint or ""
    )


def test_the_hint_names_that_nothing_is_installed() -> None:
    with pytest.raises(OfferNotFoundError) as caught:
        Catalog(load_modules({})).find(TechniqueOffer, "lora")
    assert (caught.value.hint or "").startswith("installed: none; ")


def test_a_name_of_two_plugins_is_refused_with_both_full_names() -> None:
    catalog = catalog_of(other=offering("evaluators", replace(RIGHT, summary="another")))
    with pytest.raises(OfferNotFoundError) as caught:
        catalog.find(EvaluatorOffer, "right")
    assert "more than one" in caught.value.what
    assert caught.value.hint == 'write "file:bench:right" or "file:other:right"'
    assert catalog.find(EvaluatorOffer, "file:other:right").offer.summary == "another"


@pytest.mark.parametrize(
    "returned", [None, "lora", [ROWS, "lora"], [RECORDER], iter([ROWS]), {ROWS.name: ROWS}]
)
def test_a_hook_that_returns_a_wrong_type_breaks_only_its_plugin(returned: object) -> None:
    catalog = catalog_of(odd=plugin(data_loaders=lambda: returned))
    assert [o.offer.name for o in catalog.offers(DataLoaderOffer)] == ["rows"]
    assert states(catalog) == {"echo": "active", "bench": "active", "odd": "broken"}


@pytest.mark.parametrize("name", ["Rows", "row s", "rows_", "", "-rows", "röws", "a:b"])
def test_a_malformed_name_breaks_its_plugin(name: str) -> None:
    catalog = catalog_of(odd=offering("data_loaders", replace(ROWS, name=name)))
    assert [o.offer.name for o in catalog.offers(DataLoaderOffer)] == ["rows"]
    assert states(catalog)["odd"] == "broken"


def test_a_plugin_that_raises_is_called_once_and_named_where_it_is_needed() -> None:
    calls = []

    def fail() -> list[object]:
        calls.append(1)
        raise SystemExit("bye")

    catalog = catalog_of(odd=plugin(techniques=fail))
    assert [o.offer.name for o in catalog.offers(TechniqueOffer)] == ["echo"]
    catalog.offers(TechniqueOffer)
    assert calls == [1]
    with pytest.raises(PluginError, match=r"SystemExit: bye \(test_catalog.py:\d+\)"):
        catalog.find(TechniqueOffer, "odd")


def test_only_the_hook_of_the_requested_kind_is_called() -> None:
    calls: list[str] = []
    counting = plugin(
        techniques=lambda: calls.append("t") or [], evaluators=lambda: calls.append("e") or []
    )
    catalog = catalog_of(counting=counting)
    catalog.offers(EvaluatorOffer)
    assert calls == ["e"]


def found_model(reference: str) -> FoundModel:
    return FoundModel(reference=reference, description="d", fetch=lambda: None)  # type: ignore


def test_the_first_plugin_that_finds_a_model_counts() -> None:
    calls = []

    def finder(name: str, known: str) -> SimpleNamespace:
        def find_model(reference: str, revision: str | None) -> FoundModel | None:
            calls.append(name)
            return found_model(name) if reference == known else None

        return plugin(find_model=find_model)

    catalog = Catalog(load_modules({"one": finder("one", "x"), "two": finder("two", "y")}))
    found = catalog.find_model("y", None)
    assert found is not None and found.reference == "two"
    assert catalog.find_model("z", None) is None


def test_a_model_that_cannot_be_fetched_names_its_plugin() -> None:
    def leave() -> Path:
        raise SystemExit(3)

    found = replace(found_model("x"), fetch=leave)
    catalog = Catalog(load_modules({"one": plugin(find_model=lambda reference: found)}))
    model = catalog.find_model("x", None)
    assert model is not None
    with pytest.raises(PluginError, match=r'"file:one".*SystemExit: 3'):
        model.fetch()


def test_a_finder_may_omit_parameters() -> None:
    catalog = Catalog(
        load_modules({"one": plugin(find_model=lambda reference: found_model(reference))})
    )
    found = catalog.find_model("x", "main")
    assert found is not None and found.reference == "x"


def test_a_finder_that_returns_a_wrong_type_or_raises_is_named() -> None:
    catalog = Catalog(load_modules({"one": plugin(find_model=lambda reference: "x")}))
    with pytest.raises(PluginError, match=r"file:one.*wrong type str"):
        catalog.find_model("x", None)
    catalog = Catalog(load_modules({"one": plugin(find_model=lambda reference: 1 / 0)}))
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        catalog.find_model("x", None)


def test_a_reviewer_that_fails_becomes_a_warning() -> None:
    def fail(plan: object) -> list[Finding]:
        raise RuntimeError("no")

    note = Finding(level="info", where="run", message="fine")
    catalog = Catalog(
        load_modules(
            {"odd": plugin(review_plan=fail), "good": plugin(review_plan=lambda plan: [note])}
        )
    )
    findings = {p.name: f for p, f in catalog.review_plan("plan")}
    assert findings["good"] is note
    assert findings["odd"].level == "warning" and "RuntimeError: no" in findings["odd"].message


def test_a_reviewer_that_lacks_a_library_does_not_run_and_becomes_a_warning() -> None:
    module = plugin(review_plan=lambda plan: [Finding(level="info", where="x", message="ran")])
    catalog = Catalog(load_modules({"needy": module}))
    assert [finding.message for _, finding in catalog.review_plan("plan")] == ["ran"]
    module.NEEDS = ("pluggy", "no-such-package>=2")
    catalog = Catalog(load_modules({"needy": module}))
    ((found, finding),) = catalog.review_plan("plan")
    assert found.needs == module.NEEDS
    assert finding.level == "warning"
    assert "is not available: no-such-package>=2 is not installed" in finding.message


def test_data_reviewers_get_data_and_plan() -> None:
    seen = []
    catalog = Catalog(
        load_modules(
            {
                "one": plugin(review_data=lambda dataset, plan: seen.append((dataset, plan))),
                "two": plugin(review_data=lambda test, train: seen.append((train, test))),
            }
        )
    )
    dataset = Dataset(train=())
    train, test = [Text(source="a", text="x")], [Text(source="b", text="y")]
    assert catalog.review_data(dataset, "plan", train=train, validation=(), test=test) == []
    assert sorted(seen, key=str) == sorted([(dataset, "plan"), (train, test)], key=str)
    seen.clear()
    assert catalog.review_data(dataset, None, train=train, validation=(), test=test) == []
    assert seen == [(train, test)], "the one that needs a plan is not called"


def test_model_reviewers_return_findings_or_a_result_with_a_forecast() -> None:
    note = Finding(level="info", where="run", message="fine")
    result = ReviewResult(findings=[note])
    modules = {
        "a": plugin(review_model=lambda review: [note]),
        "b": plugin(review_model=lambda review: result),
        "c": plugin(review_model=lambda review: None),
        "d": plugin(review_model=lambda review: {"findings": [note]}),
    }
    results = {p.name: r for p, r in Catalog(load_modules(modules)).review_model(None)}
    assert list(results["a"].findings) == [note] and results["b"] is result
    assert list(results["c"].findings) == []
    (failed,) = results["d"].findings
    assert failed.level == "warning" and "wrong type dict" in failed.message


def test_global_state_that_a_review_changes_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    catalog = Catalog(load_modules({"one": plugin(review_plan=lambda plan: os.chdir("/"))}))
    ((_, finding),) = catalog.review_plan("plan")
    assert Path.cwd() == tmp_path
    assert (finding.level, finding.where) == ("warning", "file:one")
    assert (
        finding.message == "tunesmith_review_plan changed the current folder; the change was undone"
    )


def test_every_kind_of_offer_is_listed() -> None:
    assert set(KINDS) == {CommandOffer, RecipeOffer, TableOffer, *ComponentOffer.__subclasses__()}
    assert len({kind.kind for kind in KINDS}) == len({kind.hook for kind in KINDS}) == len(KINDS)


def test_the_loader_that_knows_all_files_is_recognized() -> None:
    def loader(name: str, suffix: str) -> DataLoaderOffer[object]:
        return replace(ROWS, name=name, recognizes=lambda file: file.endswith(suffix))

    catalog = catalog_of(
        one=offering("data_loaders", loader("one", ".one"), loader("same", ".same")),
        two=offering("data_loaders", loader("same", ".two")),
    )
    assert catalog.recognize(["a.one", "b.one"]) == "one"
    assert catalog.recognize(["a.two"]) == "file:two:same"
    for names in (["a.one", "a.two"], ["rows.txt"], []):
        assert catalog.recognize(names) is None


def test_the_first_verdict_counts_and_third_parties_come_first() -> None:
    def house_rule(evidence: object) -> dict[str, object] | None:
        return {"word": "SHIP"} if evidence == "ours" else None

    builtin = plugin(verdict=lambda: {"word": "FINE-TUNE"})
    catalog = Catalog(load_modules({"builtin": builtin, "house": plugin(verdict=house_rule)}))
    assert catalog.judge("ours") == {"word": "SHIP"}
    assert catalog.judge("other") == {"word": "FINE-TUNE"}
    assert Catalog(load_modules({})).judge("ours") == {}


def test_a_verdict_of_another_type_is_refused() -> None:
    catalog = Catalog(load_modules({"one": plugin(verdict=lambda: "worth it")}))
    with pytest.raises(PluginError, match="type str from tunesmith_verdict"):
        catalog.judge("x")
