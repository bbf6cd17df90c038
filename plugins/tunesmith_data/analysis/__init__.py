"""Analyses of rows by their texts: wrong labels, languages, topics, and a selection of rows."""
