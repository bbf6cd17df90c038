"""Translate axolotl and LLaMA-Factory configs into run files.

Every key of a configuration gets an outcome: it is translated, it has no effect on what is learned,
or it is *not* translated, with a reason. No key is dropped silently. The run file also contains the
other tool's defaults, because those of tunesmith may differ.
"""
