"""``python -m lightning_det.inspect``: checks a dataset, and reports what a strategy learns from it."""

from lightning_det.runs.command import command

main = command("inspect", "lightning_det.commands.inspect.inspect")

if __name__ == "__main__":
    main()
