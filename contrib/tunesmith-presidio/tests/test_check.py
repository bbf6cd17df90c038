"""The check names kinds of personal data and places, and quotes nothing."""

from __future__ import annotations

from tunesmith.records import Chat, Completion, Message
from tunesmith_presidio.check import review


def test_each_kind_is_a_finding_without_the_value() -> None:
    rows = [
        Completion(source="a:1", prompt="From 203.0.113.9", completion="blocked"),
        Completion(source="a:2", prompt="Hi", completion="Write to anna@firma-meier.de"),
        Completion(source="a:3", prompt="Hi", completion="Hello"),
    ]
    chat = Chat(source="b:1", messages=(Message("user", "203.0.113.8?"), Message("assistant", "x")))
    mail, address = review(rows, [], [chat])
    assert mail.message == "1 of 4 rows contains an e-mail address" and mail.count == 1
    assert address.message == "2 of 4 rows contain an IP address"
    assert address.examples == ("a:1", "b:1") and address.level == "warning"
    assert "203.0.113" not in str((mail, address))


def test_clean_rows_have_no_findings() -> None:
    assert not [*review([Completion(source="a:1", prompt="Hi", completion="Hello")], [], [])]
