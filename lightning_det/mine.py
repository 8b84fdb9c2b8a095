"""``python -m lightning_det.mine``: proposes regions for SNIPER's negative chips: ``train proposals=FILE``."""

from lightning_det.runs.command import command

main = command("mine", "lightning_det.commands.mine.mine_split")

if __name__ == "__main__":
    main()
