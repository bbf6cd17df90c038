"""Views of a run's report, shared by the terminal, Markdown, the HTML page and the card.

Each view is plain data: :mod:`headline` the verdict with its figure, :mod:`answers` the test
rows with the answers of several models, :mod:`curves` the series of the training, :mod:`facts` what
was trained and what was predicted. :mod:`charts` draws them as SVG, :mod:`text_plot` as text,
:mod:`markdown` and :mod:`card` write documents.
"""
