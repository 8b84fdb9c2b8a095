"""The life of a run: how it starts, where it lives, how it goes on, and how it ends."""
