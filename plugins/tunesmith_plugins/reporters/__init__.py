"""Built-in reporters, which show or record the events of a run."""

from tunesmith.hookspecs import lazy_plugin

CONSOLE = lazy_plugin(__name__, tunesmith_reporters=".console.offer:CONSOLE")
HTML = lazy_plugin(__name__, tunesmith_reporters=".html.offer:HTML")
JSONLINES = lazy_plugin(__name__, tunesmith_reporters=".jsonlines:JSONLINES")
