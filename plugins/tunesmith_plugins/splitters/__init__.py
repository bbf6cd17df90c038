"""Built-in splitters, which divide records into training, validation and test rows."""

from tunesmith.hookspecs import lazy_plugin

BY_TIME = lazy_plugin(__name__, tunesmith_splitters=".by_time:BY_TIME")
GROUPED = lazy_plugin(__name__, tunesmith_splitters=".grouped:GROUPED")
