"""The ``export`` command: write a trained model in the format of an inference engine."""
