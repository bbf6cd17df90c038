"""Views of a run's report, shared by the terminal, Markdown, the HTML page and the card.

Each view contains only plain data:

- :mod:`headline`: the verdict with its figure
- :mod:`answers`: the test rows with the answers of several models
- :mod:`curves`: training curves
- :mod:`facts`: what was trained, and memory and time as predicted and as measured

:mod:`charts` draws them as SVG and :mod:`text_plot` as text. :mod:`markdown` and :mod:`card` write
documents.
"""
