"""Commands need only a part of the offers; plugins import all of them from one module."""

from __future__ import annotations

from tunesmith import command_offers, offers


def test_plugins_find_all_offers_in_one_module() -> None:
    for name in ("CommandOffer", "Offer", "Offered", "Plugin"):
        assert getattr(offers, name) is getattr(command_offers, name)
