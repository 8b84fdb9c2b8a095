"""The work of each command. `lightning_det.NAME` imports its module here only when there is something to run."""
