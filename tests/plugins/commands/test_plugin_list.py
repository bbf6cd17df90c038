"""The ``plugins list`` and ``plugins show`` commands."""

from __future__ import annotations

import json
from pathlib import Path

from tests.plugins.commands.conftest import FAKE, Tunesmith


def test_plugins_can_be_skipped(tunesmith: Tunesmith, tmp_path: Path) -> None:
    done = tunesmith("plugins", "list", "--json", "--no-plugin", "fake_plugin")
    states = {p["name"]: p["state"] for p in json.loads(done.stdout)["plugins"]}
    assert states["fake_plugin"] == "blocked"
    refused = tunesmith("check", "run.toml", "--no-plugin", "fake_plugin")
    assert refused.exit_code == 2


def test_show_prints_options_promises_and_source(tunesmith: Tunesmith) -> None:
    done = tunesmith("plugins", "show", "by-heart")
    assert "Steps to take." in done.stdout and ">= 1" in done.stdout
    assert "promises: deterministic, resumable" in done.stdout
    assert f"{FAKE}:" in done.stdout
    about = json.loads(tunesmith("plugins", "show", "by-heart", "--json").stdout)["offers"][0]
    assert about["accepts"] == ["Completion"]
    steps = next(option for option in about["options"] if option["name"] == "steps")
    assert (steps["type"], steps["default"]) == ("int", "6")


def test_show_names_nested_options_as_set_takes_them(tunesmith: Tunesmith) -> None:
    done = tunesmith("plugins", "show", "lora")
    assert "adapter.rank = 16 (int, >= 1, <= 1024)\n    Rank of each adapter" in done.stdout
    assert 'schedule.type = "cosine" ("cosine" | "linear" | "constant")\n' in done.stdout
    assert "checkpoints.every unset (int, >= 1)\n" in done.stdout
    assert "\nfrom unset (str)\n" in done.stdout


def test_show_writes_values_as_toml_does_and_short_lines(tunesmith: Tunesmith) -> None:
    shown = tunesmith("plugins", "show", "jsonl").stdout
    assert "columns = {} (table of str)\n" in shown
    assert "    Keys: prompt, completion, messages" in shown
    assert "Literal" not in shown and "dict[" not in shown
    assert "chat_template.today = 2024-07-26 (date)" in tunesmith("plugins", "show", "lora").stdout
    rlhf = tunesmith("plugins", "show", "rlhf").stdout
    assert "rewards = [{ weight = 1.0 }] (list[RewardTerm], length >= 1)" in rlhf
    heads = [line for line in (shown + rlhf).splitlines() if not line.startswith(" ")]
    assert max(map(len, heads)) <= 120
    options = json.loads(tunesmith("plugins", "show", "text", "--json").stdout)["offers"][0]
    (suffixes,) = (o for o in options["options"] if o["name"] == "suffixes")
    assert suffixes["default"].endswith('".docx"]')
