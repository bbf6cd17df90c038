"""Translate configurations of axolotl and LLaMA-Factory into run files.

Every key of a configuration gets an outcome: it is translated, it has no effect on what is learned,
or it is *not* translated, with the reason. Nothing is dropped silently, and no default that differs
is forgotten: where the other tool's default is not that of tunesmith, it is written down.
"""
