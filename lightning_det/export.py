"""``python -m lightning_det.export checkpoint=RUN``: exports a detector as a checked ONNX graph."""

from lightning_det.runs.command import command

main = command("export", "lightning_det.commands.export.export")

if __name__ == "__main__":
    main()
