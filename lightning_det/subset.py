"""``python -m lightning_det.subset root=COCO output=DIR``: a few images of a COCO dataset, as a dataset."""

from lightning_det.runs.command import command

main = command("subset", "lightning_det.commands.subset.subset")

if __name__ == "__main__":
    main()
