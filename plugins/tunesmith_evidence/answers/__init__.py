"""Answers of a model: how they are generated, and how they are compared with references."""
