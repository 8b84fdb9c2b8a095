"""The HTML report of a run: one file that needs no server, no network and no script."""
