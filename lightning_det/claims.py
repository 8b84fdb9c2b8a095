"""``python -m lightning_det.claims claim=NAME``: runs the experiments behind a paper's claim, and writes them up."""

from lightning_det.runs.command import command

main = command("claims", "lightning_det.commands.claims.claims")

if __name__ == "__main__":
    main()
