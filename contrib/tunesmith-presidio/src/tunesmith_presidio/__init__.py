"""Check ``presidio``: rows with personal data, found by Presidio's pattern recognizers."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_review_data=".check:review")
