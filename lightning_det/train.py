"""``python -m lightning_det.train``: trains a detector and evaluates it after every epoch."""

from lightning_det.runs.command import command
from lightning_det.runs.resume import complete_overrides

main = command("train", "lightning_det.commands.train.train", complete_overrides)

if __name__ == "__main__":
    main()
