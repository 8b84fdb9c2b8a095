"""``python -m lightning_det.predict checkpoint=RUN source=IMAGES``: detects objects in images or a video."""

from lightning_det.runs.command import command

main = command("predict", "lightning_det.commands.predict.predict")

if __name__ == "__main__":
    main()
