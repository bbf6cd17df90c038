"""A plugin with names from before the interface was recorded anew is told both names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith import plugins
from tunesmith.renamed import explain_renaming, present_name

IMPORT = "from tunesmith.hookspecs import hookimpl\n"
OLD_PLUGINS = {
    "from tunesmith.offers import RivalOffer": "RivalOffer is now BaselineOffer",
    "from tunesmith.contracts import LeftOut": "LeftOut is now SkippedRow",
    "from tunesmith.events import Notice": "Notice is now FindingReported",
    "import tunesmith_evidence.ladder": ".ladder is now tunesmith_evidence.baselines",
    f"{IMPORT}@hookimpl\ndef tunesmith_rivals(): return []": (
        "tunesmith_rivals is now tunesmith_baselines"
    ),
    "from tunesmith.contracts import Dataset\nDataset(train=[], heldout=[], description='')": (
        "heldout is now test"
    ),
    "from tunesmith.contracts import Dataset\nDataset(train=[], dev=[], description='')": (
        "dev is now validation"
    ),
}


@pytest.mark.parametrize("code", OLD_PLUGINS)
def test_the_reason_of_a_broken_plugin_has_both_names(code: str, tmp_path: Path) -> None:
    file = tmp_path / "old_plugin.py"
    file.write_text(code)
    chosen = plugins.Selection(allowed=frozenset({"old_plugin"}), files=(str(file),))
    (found,) = (p for p in plugins.find_plugins(chosen).found if p.name == "old_plugin")
    assert found.state == "broken"
    assert OLD_PLUGINS[code] in found.reason


def test_parts_of_a_name_are_renamed_and_other_words_are_not() -> None:
    names = "needs_dev heldout_split max_left_out RivalTask RIVALS dev_score device arrival"
    now = "needs_validation test_split max_skipped BaselineTask BASELINES validation_score"
    assert [*map(present_name, names.split())] == [*now.split(), "device", "arrival"]
    assert explain_renaming("'int' object has no attribute 'device'") == ""
