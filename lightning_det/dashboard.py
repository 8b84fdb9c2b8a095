"""``python -m lightning_det.dashboard entity=ME``: saves a wandb workspace that lays out what the callbacks log."""

from lightning_det.runs.command import command

main = command("dashboard", "lightning_det.commands.dashboard.dashboard")

if __name__ == "__main__":
    main()
