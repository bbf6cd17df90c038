"""Reporter ``mlflow``: send runs to an MLflow server or database."""

from tunesmith.hookspecs import lazy_plugin

__all__ = ["PLUGIN"]

PLUGIN = lazy_plugin(__name__, tunesmith_reporters=".reporter:MLFLOW")
