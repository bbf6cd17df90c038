"""Built-in data loaders, which read the rows of files, folders, databases and datasets."""

from tunesmith.hookspecs import lazy_plugin

HUB_DATASET = lazy_plugin(__name__, tunesmith_data_loaders=".hub_dataset:HUB_DATASET")
JSONL = lazy_plugin(__name__, tunesmith_data_loaders=".jsonl.offer:JSONL")
MIXTURE = lazy_plugin(__name__, tunesmith_data_loaders=".mixture:MIXTURE")
SQL = lazy_plugin(__name__, tunesmith_data_loaders=".sql:SQL")
TABLE = lazy_plugin(__name__, tunesmith_data_loaders=".table.offer:TABLE")
TEXT = lazy_plugin(__name__, tunesmith_data_loaders=".text.offer:TEXT")
