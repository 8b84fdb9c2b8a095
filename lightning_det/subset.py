"""``python -m lightning_det.subset root=COCO output=DIR``: cuts a small dataset out of one in COCO's layout."""

from lightning_det.runs.command import command

main = command("subset", "lightning_det.commands.subset.subset")

if __name__ == "__main__":
    main()
