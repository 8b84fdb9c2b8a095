"""What each command does. `lightning_det.NAME` starts it, and imports it only when there is something to run."""
