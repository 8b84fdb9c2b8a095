"""Saves a wandb workspace that lays out what the callbacks log."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lightning_det.callbacks.wandb_workspace import describe, make_workspace
from lightning_det.config import resolve
from lightning_det.system.errors import UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


def dashboard(cfg: DictConfig) -> "Workspace":
    """Prints the workspace, and saves it unless ``dry_run`` is set.

    Raises:
        UserError: wandb does not accept it.
    """
    settings = resolve(cfg)
    dry_run = settings.pop("dry_run")
    workspace = make_workspace(**settings)
    print(describe(workspace))
    if not dry_run:
        import wandb

        try:
            workspace.save()
        except wandb.Error as error:
            name = f"{workspace.entity}/{workspace.project}"
            raise UserError(
                f"the workspace of {name} cannot be saved: {error} dry_run=true needs no account"
            ) from error
        print(workspace.url)
    return workspace
