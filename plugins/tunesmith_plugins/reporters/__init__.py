"""Built-in reporters."""

from tunesmith.hookspecs import lazy_plugin

CONSOLE = lazy_plugin(__name__, tunesmith_reporters=".console.offer:CONSOLE")
HTML = lazy_plugin(__name__, tunesmith_reporters=".html.offer:HTML")
JSONLINES = lazy_plugin(__name__, tunesmith_reporters=".jsonlines:JSONLINES")
