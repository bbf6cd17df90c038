"""Data loader ``text``: files and folders of text, source code, PDF and Word documents."""
