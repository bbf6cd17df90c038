"""``python -m tunesmith``, which is what torchrun starts."""

from tunesmith.cli import main

main()
