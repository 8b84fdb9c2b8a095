"""The report of `lightning_det.inspect`: its figures, tables and pictures."""
