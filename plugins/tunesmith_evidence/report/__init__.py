"""Build views of a run's report for the terminal, Markdown, the HTML page and the card.

Each view contains only plain data:

- :mod:`headline`: the verdict with its figure
- :mod:`answers`: the test rows with the answers of several models
- :mod:`curves`: training curves
- :mod:`facts`: the trained weights, and the predicted and measured memory and time

:mod:`charts` draws them as SVG and :mod:`text_plot` as text. :mod:`markdown` and :mod:`card` write
documents.
"""
