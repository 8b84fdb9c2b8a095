"""Names of the files in a run folder and in the folder of a sweep."""

OVERRIDES = "overrides.yaml"
"""The overrides that a run was started with. Hydra's own record is cut off if a run is killed while it writes."""

METRICS = "metrics.json"
"""The figures of a run that has ended."""

STATUS = "status.json"
"""The state of a job of a sweep."""

SWEEP = "sweep.yaml"
"""The command and the overrides that a sweep was started with."""

SWEEP_TABLE = "sweep.json"
"""The states of all jobs of a sweep."""

LAST = "checkpoints/last.ckpt"
"""The checkpoint that an interrupted training goes on from."""

LOCK = ".lock"
"""The number and the machine of the process that works in a folder."""

OF_A_TRAINING = ("checkpoints/*.ckpt", "metrics.csv")

OF_A_SWEEP = (SWEEP_TABLE, SWEEP, "multirun.yaml")

OF_A_RUN = (*OF_A_TRAINING, "config.yaml", OVERRIDES, METRICS, "proposals.npz", "proposals.mining.ckpt", STATUS)
"""Files that a new training would overwrite, or take for its own. Hydra's own files also come from refused starts."""
