"""``python -m lightning_det.dashboard entity=ME``: a wandb workspace that lays out what the callbacks log."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lightning_det.config import resolve
from lightning_det.modules import keys
from lightning_det.runs.command import command
from lightning_det.system.errors import ConfigError, UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

STEP = "trainer/global_step"
"""Lightning's, along which everything is drawn."""

LOSS_TERMS = ("rpn_objectness", "rpn_box", "roi_class", "roi_box", "class", "box")
"""Of two-stage detectors, then of single-shot ones; a run shows those that it has."""

SIZES = ("small", "medium", "large")


def dashboard(cfg: DictConfig) -> "Workspace":
    """Prints the workspace, and saves it unless ``dry_run`` is set.

    Raises:
        UserError: wandb does not take it.
    """
    settings = resolve(cfg)
    dry_run = settings.pop("dry_run")
    made = workspace(**settings)
    print(outline(made))
    if not dry_run:
        import wandb

        try:
            made.save()
        except wandb.Error as error:
            raise UserError(
                f"the workspace of {made.entity}/{made.project} cannot be saved: {error} dry_run=true needs no account"
            ) from error
        print(made.url)
    return made


def workspace(entity: str, project: str, group: str | None = None, name: str = "lightning-det") -> "Workspace":
    """The workspace, not saved yet; no network is needed.

    Args:
        entity: user or team of the project.
        project: its name.
        group: of runs, such as those of a sweep; None for all.
        name: of the view.

    Raises:
        ConfigError: the library is not installed.
    """
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
    except ImportError as error:
        raise ConfigError(
            "the dashboard is made by wandb-workspaces: pip install 'lightning-det[dashboard]'"
        ) from error
    filters = "" if group is None else expr.And(expr.Metric("Group") == group)
    columns = [f"summary:{keys.validated(figure)}" for figure in ("AP", "AP50")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections().items()],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(filters=filters, pinned_columns=columns),
    )


def sections() -> dict[str, list[Any]]:
    """Panels by the title of their section."""
    from wandb_workspaces.reports.v2 import CustomChart, LinePlot, MediaBrowser, WeavePanelSummaryTable

    def lines(title: str, *names: str, **arguments: Any) -> LinePlot:
        return LinePlot(title=title, x=STEP, y=list(names), **arguments)

    def chart(key: str, x: str, y: str, stroke: str, title: str) -> CustomChart:
        # wandb keeps the rows of a plot under its key and `_table`.
        table = {"summaryTable": {"tableKey": f"{key}_table"}}
        fields = {"x": x, "y": y, "stroke": stroke}
        return CustomChart(table, chart_name="wandb/line/v0", chart_fields=fields, chart_strings={"title": title})

    def of_regions(title: str, *figures: str) -> LinePlot:
        return lines(title, *(keys.selected(kind, figure) for kind in ("roi", "prior") for figure in figures))

    def browser(title: str, key: str) -> MediaBrowser:
        return MediaBrowser(title=title, media_keys=[key], num_columns=4)

    return {
        "Average precision": [
            lines("AP", keys.validated("AP"), keys.validated("AP50"), keys.validated("AP75")),
            lines("AP by size", *(keys.validated(f"AP_{size}") for size in SIZES)),
            lines("average recall by size", *(keys.validated(f"AR_{size}") for size in SIZES)),
        ],
        "Losses and learning rate": [
            lines("loss", keys.LOSS, keys.EPOCH_LOSS),
            lines("loss terms", *(keys.loss_term(name) for name in LOSS_TERMS)),
            LinePlot(title="learning rate", x=STEP, metric_regex="^lr-"),  # the rest of the name is the optimizer's
        ],
        "Classes and curves": [
            WeavePanelSummaryTable(table_name=keys.PER_CLASS),
            chart(keys.PR_CURVES, "recall", "precision", "class", "precision over recall, IoU 0.5"),
            chart(keys.AP_BY_SIZE, "to", "value", "figure", "AP by object size"),
        ],
        "Predictions": [
            browser("detections and ground truth as boxes", keys.PREDICTIONS),
            browser("beside each other", keys.pictures("val")),
        ],
        "Views and chips": [browser("what training sees", keys.VIEWS)],
        "Selected RoIs and priors": [
            of_regions("share of objects among the selected", "positive_share"),
            of_regions("different objects per view among the selected", "objects_per_view"),
            of_regions("share of candidates that is selected", "selected_share"),
            of_regions("mean loss", "selected_loss_mean", "candidate_loss_mean"),
            of_regions("largest loss", "selected_loss_max", "candidate_loss_max"),
            browser("what carries loss", keys.pictures("selection")),
        ],
        "Throughput": [
            lines("views per second", keys.VIEWS_PER_S),
            lines("share of time waiting for data", keys.DATA_WAIT, range_y=(0, 1)),
            lines("peak memory, GB", keys.MEMORY),
        ],
    }


def shown(panel: Any) -> list[str]:
    """Keys that a panel shows; of a learning rate's panel, the pattern of its keys."""
    for name in ("y", "media_keys"):
        if getattr(panel, name, None):
            return list(getattr(panel, name))
    if getattr(panel, "metric_regex", None):
        return [panel.metric_regex]
    return [panel.table_name] if hasattr(panel, "table_name") else [panel.query["summaryTable"]["tableKey"]]


def outline(made: "Workspace") -> str:
    """A workspace in words: its sections, and of every panel the kind, title and keys."""
    lines = [f"{made.entity}/{made.project}: {made.name}"]
    if made.runset_settings.filters:
        lines.append(f"runs with {made.runset_settings.filters}")
    for section in made.sections:
        lines += ["", section.name]
        for panel in section.panels:
            title = getattr(panel, "title", None) or getattr(panel, "chart_strings", {}).get("title", "")
            words = f"{title}: " if title else ""
            lines.append(f"  {type(panel).__name__:22}  {words}{', '.join(shown(panel))}")
    return "\n".join(lines)


main = command("dashboard")(dashboard)

if __name__ == "__main__":
    main()
