"""Data loader ``text``: read text, source code, PDF and Word files, also from folders."""
