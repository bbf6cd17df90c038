"""Translate configurations of axolotl and LLaMA-Factory into run files.

Every key of a configuration gets an outcome: it is translated, it has no effect on what is learned,
or it is *not* translated, with a reason. Nothing is dropped silently. Defaults of the other tool
are written to the run file too, because those of tunesmith may differ.
"""
