"""Entry point of ``python -m tunesmith``, which torchrun starts."""

from tunesmith.cli import main

main()
