"""The life of a run: start, run folder, resuming, and end."""
