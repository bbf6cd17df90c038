"""The check finds marks of licenses, and is quiet about ordinary code."""

from __future__ import annotations

import pytest

from tunesmith.records import Chat, Completion, Message
from tunesmith_recipes_code.licenses import review

FOUND = {
    "# SPDX-License-Identifier: AGPL-3.0-only": "copyleft",
    "under the terms of the GNU General Public License": "copyleft",
    "# licensed GPLv2": "copyleft",
    "LGPL-2.1-or-later": "copyleft",
    "released under the GPL v3": "copyleft",
    "GNU GPL, see COPYING": "copyleft",
    "SPDX-License-Identifier: MPL-2.0": "copyleft",
    "the gnu lesser general public license": "copyleft",
    "All Rights Reserved. Acme Inc.": "proprietary",
    "// Copyright 2021 Acme": "copyright",
    "/* © 2019 Acme */": "copyright",
    "// (c) 2019-2024 Acme": "copyright",
    "# Copyright (C) 2020 Acme": "copyright",
    "# Copyright Acme Corp. 2020": "copyright",
    "Copyright by Foo Bar, 2001": "copyright",
    "Copyright (c) Acme Ltd": "copyright",
    "# License: GPL": "copyleft",
    "licensed under the AGPL": "copyleft",
    "redistribute it under the terms of the GNU": "copyleft",
    "MPL 2.0": "copyleft",
    "CC BY-SA 4.0": "copyleft",
    "This file is confidential and proprietary": "proprietary",
    "Business Source License 1.1": "restricts use",
    "CC-BY-NC-4.0": "restricts use",
}
QUIET = (
    "def calc_sum(values): return sum(values)",
    "# SPDX-License-Identifier: Apache-2.0",
    "the right to copy is reserved",
    "a GPL mention without a version",
    "def find_copyright(text, year=2024): return text",
    "GPL = 3 * G",
    "x = compile(c) 2020",
    "epl 1 and proprietary software vendors",
)


@pytest.mark.parametrize("text", FOUND)
def test_a_mark_is_found(text: str) -> None:
    rows = [Completion(source="row:1", prompt="code?", completion=text)]
    chat = Chat(source="row:2", messages=(Message("user", "hi"), Message("assistant", text)))
    for part in ([rows, [], []], [[], [], [chat]]):
        (finding,) = review(*part)
        assert FOUND[text] in finding.message and finding.level == "warning"


@pytest.mark.parametrize("text", QUIET)
def test_ordinary_code_is_not(text: str) -> None:
    assert not [*review([Completion(source="row:1", prompt="code?", completion=text)], [], [])]
