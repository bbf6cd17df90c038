"""A whole run of twenty users: what each of them is served, and the commands on its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from people import INTENTS, SHUFFLED, invoke, make_records, make_rows, read_rows

from tunesmith import api
from tunesmith.records import Message
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_personal.match import METRIC
from tunesmith_personal.segments import Layout
from tunesmith_personal.store import OWN, Decision, Store
from tunesmith_personal.technique import SHARED_ADAPTER, group_by_user, open_shared
from tunesmith_personal.user_models import copy_with_adapter


def result(run: Path, evaluator: str, metric: str, model: str = "tuned") -> Any:
    return api.read_report(run).measured[model, evaluator, metric]


def open_users(run: Path) -> tuple[Store, Any, Layout]:
    """Return the store of a run, the model with its shared adapter, and the layout."""
    _, plan, _ = api.load_run(run)
    options: Any = plan.technique.config
    shared = open_shared(plan.found_model.fetch(), run / SHARED_ADAPTER, options, "cpu")
    return Store(run), shared, Layout.read(run / SHARED_ADAPTER)[0]


def test_only_own_adapters_know_private_names(finished: Path) -> None:
    """All users ask the same; what they expect is private, so one model cannot know it."""
    names = {f"user-{n:02}" for n in range(20 - SHUFFLED)}
    rows = [row for row in read_rows(finished) if row["group"] in names]
    own = sum(row[OWN]["value"] for row in rows) / len(rows)
    shared = read_rows(finished, "tuned.exact-match")
    right = [row["exact-match"]["value"] for row in shared if row["group"] in names]
    assert own >= 0.80
    assert sum(right) / len(right) <= 0.25
    scores = result(finished, "user-gain", "served").details["mean_scores"]
    assert {"own", "shared", "shared-retrieval", "base-retrieval"} == scores.keys()


def test_the_verdict_is_about_what_users_can_be_served(finished: Path) -> None:
    """The first evaluator lets each user's own adapter answer, and baselines answer themselves."""
    report = api.read_report(finished)
    assert report.verdict["evaluator"] == METRIC
    assert report.verdict["tuned"] == result(finished, "user-gain", OWN).value > 0.5
    assert report.verdict["word"] != "NOTHING WORKS YET"
    rows = read_rows(finished, "tuned.user-exact-match")
    own = [row[OWN]["value"] for row in read_rows(finished)]
    assert [row["user-exact-match"]["value"] for row in rows] == own
    assert result(finished, "user-exact-match", "user-exact-match", "majority").value < 0.5


def test_shared_is_the_shared_adapter_although_the_first_evaluator_knows_users(
    finished: Path,
) -> None:
    scores = result(finished, "user-gain", "served").details["mean_scores"]
    assert scores["shared"] == pytest.approx(result(finished, "exact-match", "exact-match").value)


def test_a_resumed_run_judges_no_baseline(run: Path) -> None:
    """Baselines have no users' adapters; their evaluation may be repeated after training."""
    before = Store(run).entries()
    for name in ("majority.user-exact-match", "tuned.exact-match"):
        (run / "evaluations" / f"{name}.jsonl").unlink()
    log = (run / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    ended = [line for line in log if json.loads(line)["event"] != "run-finished"]
    (run / "events.jsonl").write_text("".join(ended), encoding="utf-8")
    done = invoke("resume", run)
    assert done.exit_code == 0, done.output
    measured = api.read_report(run).measured
    assert ("majority", "user-exact-match", "user-exact-match") in measured
    assert not [key for key in measured if key[:2] == ("majority", "user-gain")]
    assert Store(run).entries() == before


def test_evaluating_a_run_folder_changes_no_decision(run: Path, tmp_path: Path) -> None:
    before = Store(run).entries()
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in make_rows(3, 8)), encoding="utf-8")
    done = invoke("evaluate", run, "--data", file, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "user-exact-match" in done.output and Store(run).entries() == before


def test_users_with_shuffled_answers_are_served_a_baseline(finished: Path) -> None:
    entries = {entry.user: entry for entry in Store(finished).entries()}
    shuffled = [entries[f"user-{n:02}"] for n in range(20 - SHUFFLED, 20)]
    assert all(entry.served not in (None, OWN) for entry in shuffled)


def test_the_report_names_no_user(finished: Path) -> None:
    details = result(finished, "user-gain", "served").details
    assert "user-0" not in json.dumps(details)
    assert sum(details["served"].values()) == 20
    assert details["expected_share_harmed"] <= 0.05
    assert "users get an own adapter" in details["finding"]


def test_every_user_has_rows_in_each_split(finished: Path) -> None:
    _, plan, _ = api.load_run(finished)
    from tunesmith.execution.run_data import load_data

    parts = load_data(plan)[1]
    for part, count in ((parts.train, 18), (parts.validation, 4), (parts.test, 6)):
        counts = {name: 0 for name in {record.group for record in parts.train}}
        for record in part:
            counts[record.group] += 1
        assert len(counts) == 20 and set(counts.values()) == {count}


def test_a_users_answers_are_those_of_the_stored_adapter(finished: Path) -> None:
    store, shared, layout = open_users(finished)
    for user in ("user-00", "user-03"):
        model = copy_with_adapter(shared, layout, store.vector(store.require(user)))
        rows = [row for row in read_rows(finished) if row["group"] == user]
        prompts = [tuple(Message(*turn) for turn in row["prompt"]) for row in rows]
        answers = [a.text for a in model.generate(prompts, 8)]
        right = [float(a.strip() == r["expected"]) for a, r in zip(answers, rows, strict=True)]
        assert right == [row[OWN]["value"] for row in rows]


def test_no_user_gives_away_the_names_of_another(finished: Path) -> None:
    """15 users, 4 prompts each: 60 chances to show a name that only another user has."""
    store, shared, layout = open_users(finished)
    names = {
        row["user"]: {r["completion"] for r in make_rows(20) if r["user"] == row["user"]}
        for row in make_rows(20)
    }
    for user in [f"user-{n:02}" for n in range(20 - SHUFFLED)]:
        model = copy_with_adapter(shared, layout, store.vector(store.require(user)))
        prompts = [(Message("user", f"{intent} 99 user"),) for intent in INTENTS]
        answers = {a.text.strip() for a in model.generate(prompts, 8)}
        others = set().union(*(names[other] for other in names if other != user)) - names[user]
        assert not answers & others


# --------------------------------------------------------------------------- commands


def test_list_and_show(run: Path) -> None:
    listed = invoke("adapters", "list", run)
    assert listed.exit_code == 0 and listed.output.count("user-") == 20
    users = json.loads(invoke("adapters", "list", run, "--json").output)["users"]
    assert len(users) == 20 and {"user", "served", "probability"} <= users[0].keys()
    shown = invoke("adapters", "show", run, "user-00")
    assert shown.exit_code == 0 and "user-00" in shown.output and "verified" in shown.output
    wrong = invoke("adapters", "show", run, "user-0")
    assert wrong.exit_code == 2 and "no user user-0" in wrong.output


def test_show_verifies(run: Path) -> None:
    for bank in (run / "users").glob("bank-*"):
        bank.write_bytes(bank.read_bytes()[:-1] + b"?")
    shown = [invoke("adapters", "show", run, f"user-{n:02}") for n in range(20)]
    damaged = [each.output for each in shown if each.exit_code == 7]
    assert len(damaged) == 1 and "the content has changed" in damaged[0]


def test_export_gives_a_folder_that_peft_loads_with_equal_logits(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "ann"
    assert invoke("adapters", "export", run, "user-01", "--out", out).exit_code == 0
    base = api.load_run(run)[1].found_model.fetch()
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(out)
    ).eval()
    store, shared, layout = open_users(run)
    own = copy_with_adapter(shared, layout, store.vector(store.require("user-01")))
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, own.model(input_ids=ids).logits)
        assert not torch.equal(loaded(input_ids=ids).logits, shared.model(input_ids=ids).logits)
    assert invoke("adapters", "export", run, "user-01", "--out", out).exit_code == 2


def test_import_takes_back_what_was_exported(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "ann"
    invoke("adapters", "export", run, "user-01", "--out", out)
    assert invoke("adapters", "import", run, "user-01", out).exit_code == 2
    assert invoke("adapters", "import", run, "guest", out).exit_code == 0
    store = Store(run)
    mine, guest = (store.vector(store.require(user)) for user in ("user-01", "guest"))
    assert torch.equal(mine, guest)
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    (out / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    refused = invoke("adapters", "import", run, "other", out)
    assert refused.exit_code == 2 and "differ from those of the shared adapter" in refused.output


def test_add_trains_only_new_users(run: Path, tmp_path: Path) -> None:
    before = {e.user: e.sha256 for e in Store(run).entries()}
    rows = [*make_rows(1, 24), *({**r, "user": "newcomer"} for r in make_rows(1, 24))]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    added = invoke("adapters", "add", run, file)
    assert added.exit_code == 0, added.output
    assert "1 of 1 new user" in added.output
    after = {e.user: e.sha256 for e in Store(run).entries()}
    assert before.items() <= after.items() and after.keys() - before.keys() == {"newcomer"}
    assert invoke("adapters", "add", run, file).exit_code != 0


# --------------------------------------------------------------------------- forget


def search(folder: Path, needles: list[bytes]) -> list[str]:
    """Return the files that contain one of the needles."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(p) for p in files if any(needle in p.read_bytes() for needle in needles)]


@pytest.mark.parametrize("is_data_gone", [False, True])
def test_forget_leaves_nothing_behind_and_the_others_as_they_were(
    finished: Path, run: Path, is_data_gone: bool
) -> None:
    store = Store(run)
    vectors = {e.user: store.vector(e) for e in store.entries() if e.has_adapter}
    user, data = "user-02", finished.parent / "rows.jsonl"
    people = group_by_user(make_records(make_rows(shuffled=SHUFFLED)))
    for name in (user, "user-03"):  # whose baseline needs their rows
        examples = read_examples(people[name])
        store.record_decisions([Decision(user=name, served="classifier", k=3, examples=examples)])
    gone, kept_rows = vectors.pop(user), store.read_examples("user-03")
    rows = [row for row in make_rows(shuffled=SHUFFLED) if row["user"] == user]
    own = {row["completion"] for row in rows}
    others = {r["completion"] for r in make_rows(shuffled=SHUFFLED) if r["user"] != user}
    needles = [user.encode(), gone.numpy().tobytes()[:24], *(t.encode() for t in own - others)]
    index = str(run / "users" / "index.sqlite")
    assert len(search(run, needles)) >= 3 and index in search(run, needles[2:]) and own - others
    kept = data.read_text(encoding="utf-8")
    if is_data_gone:
        lines = [line for line in kept.splitlines(keepends=True) if user not in line]
        data.write_text("".join(lines), encoding="utf-8")
    try:
        done = invoke("adapters", "forget", run, user, "--yes")
    finally:
        data.write_text(kept, encoding="utf-8")
    assert done.exit_code == 0, done.output
    assert "shared adapter has learned" in " ".join(done.output.split())
    assert search(run, needles) == []
    assert all(torch.equal(store.vector(store.require(u)), v) for u, v in vectors.items())
    assert store.read_examples("user-03") == kept_rows and kept_rows[0]
    assert result(run, "user-gain", "served").value == result(finished, "user-gain", "served").value
    values = [row["served"]["value"] for row in read_rows(run)]
    assert values == [row["served"]["value"] for row in read_rows(finished)]
    assert invoke("report", run).exit_code == 0


def test_forget_asks_first(run: Path) -> None:
    from click.testing import CliRunner

    from tunesmith_cli.app import app

    answered = CliRunner().invoke(app, ["adapters", "forget", str(run), "user-02"], input="n\n")
    assert answered.exit_code != 0 and Store(run).find("user-02") is not None


def test_forget_names_the_files_that_it_cannot_clean(run: Path) -> None:
    (run / "notes.bin").write_bytes(b"\xff\xfe user-02")
    done = invoke("adapters", "forget", run, "user-02", "--yes")
    assert done.exit_code == 2 and "notes.bin" in done.output


def test_forget_removes_caches(run: Path) -> None:
    from tunesmith.plugins import cache_folder

    (cache_folder() / "tokens" / "x").mkdir(parents=True)
    (cache_folder() / "vectors.sqlite").write_bytes(b"vectors")
    assert invoke("adapters", "forget", run, "user-02", "--yes").exit_code == 0
    assert not (cache_folder() / "tokens").exists()
    assert not (cache_folder() / "vectors.sqlite").exists()
    shutil.rmtree(run)
