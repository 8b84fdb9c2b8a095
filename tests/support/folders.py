"""Images without annotations, as `predict` reads them."""

from lightning_det.data.folder import read_images
from lightning_det.data.sources import find_files


def read_folder(path, labels):
    """The store of the images in a file or folder, and all problems."""
    found = find_files([str(path)])
    store, problems = read_images(found, labels)
    return store, found.problems + problems
