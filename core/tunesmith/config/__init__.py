"""From a run file to a plan: read, checked and printed."""
