"""``python -m lightning_det.eval checkpoint=RUN``: evaluates a trained detector, with COCO's figures."""

from lightning_det.runs.command import command

main = command("eval", "lightning_det.commands.eval.evaluate_checkpoint")

if __name__ == "__main__":
    main()
