"""Makes the wandb workspace, which arranges everything that the callbacks log."""

from typing import TYPE_CHECKING, Any

from lightning_det.modules import keys
from lightning_det.system.errors import ConfigError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

STEP = "trainer/global_step"
"""Lightning's count of optimizer steps, the x-axis of all plots."""

STAGES = [f"roi_{term}_{stage}" for stage in (1, 2, 3) for term in ("class", "box")]
"""Losses of Cascade R-CNN's stages."""

LOSS_TERMS = ("rpn_objectness", "rpn_box", "roi_class", "roi_box", *STAGES, "class", "box")
"""Figures of two-stage detectors, then of single-shot ones. wandb shows those that a run has."""

SIZES = ("small", "medium", "large")


def make_workspace(entity: str, project: str, group: str | None = None, name: str = "lightning-det") -> "Workspace":
    """Makes the workspace without saving it; this needs no network.

    Args:
        entity: user or team of the project.
        project: its name.
        group: of runs, such as those of a sweep; None for all.
        name: of the view.

    Raises:
        ConfigError: wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
    except ImportError as error:
        raise ConfigError(
            "the dashboard is made by wandb-workspaces: pip install 'lightning-det[dashboard]'"
        ) from error
    filters = "" if group is None else expr.And(expr.Metric("Group") == group)
    columns = [f"summary:{keys.validation(figure)}" for figure in ("AP", "AP50")]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections().items()],
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(filters=filters, pinned_columns=columns),
    )


def sections() -> dict[str, list[Any]]:
    """The panels of the workspace by the title of their section."""
    from wandb_workspaces.reports.v2 import LinePlot, WeavePanelSummaryTable

    return {
        "Average precision": [
            _lines("AP", keys.validation("AP"), keys.validation("AP50"), keys.validation("AP75")),
            _lines("AP by size", *(keys.validation(f"AP_{size}") for size in SIZES)),
            _lines("average recall by size", *(keys.validation(f"AR_{size}") for size in SIZES)),
        ],
        "Losses and learning rate": [
            _lines("loss", keys.LOSS, keys.EPOCH_LOSS),
            _lines("loss terms", *(keys.loss_term(name) for name in LOSS_TERMS)),
            LinePlot(title="learning rate", x=STEP, metric_regex="^lr-"),  # the rest of the name is the optimizer's
        ],
        "Classes and curves": [
            WeavePanelSummaryTable(table_name=keys.PER_CLASS),
            _chart(keys.PR_CURVES, "recall", "precision", "class", "precision over recall, IoU 0.5"),
            *(
                _chart(key, "recall", "precision", "class", f"precision over recall, {words}")
                for key, (_, words) in keys.PR_CURVES_BY_IOU.items()
            ),
            WeavePanelSummaryTable(table_name=keys.THRESHOLDS),
            _chart(keys.AP_BY_SIZE, "to", "value", "figure", "AP by object size"),
        ],
        "Errors": [
            _confusion(),
            _browser("images with the most errors", keys.WORST),
            _browser("images with the fewest errors", keys.BEST),
        ],
        "Predictions": [
            _browser("detections and ground truth as boxes", keys.PREDICTIONS),
            _browser("beside each other", keys.pictures("val")),
        ],
        "Views and chips": [_browser("what training sees", keys.VIEWS)],
        "Selected RoIs and priors": [
            _lines_of_regions("number per view", "selected_per_view"),
            _lines_of_regions("share of objects among the selected", "positive_share"),
            _lines_of_regions("different objects per view among the selected", "objects_per_view"),
            _lines_of_regions("share of candidates that is selected", "selected_share"),
            _lines_of_regions("mean loss", "selected_loss_mean", "candidate_loss_mean"),
            _lines_of_regions("largest loss", "selected_loss_max", "candidate_loss_max"),
            _browser("what carries loss", keys.pictures("selection")),
        ],
        "Throughput": [
            _lines("views per second", keys.VIEWS_PER_S),
            _lines("share of time waiting for data", keys.DATA_WAIT, range_y=(0, 1)),
            _lines("peak memory, GB", keys.MEMORY),
        ],
    }


def _lines(title: str, *names: str, **arguments: Any) -> Any:
    """A plot of figures over the steps."""
    from wandb_workspaces.reports.v2 import LinePlot

    return LinePlot(title=title, x=STEP, y=list(names), **arguments)


def _lines_of_regions(title: str, *figures: str) -> Any:
    """A plot of figures of the selected RoIs or priors; a run has one of them."""
    return _lines(title, *(keys.selection(kind, figure) for kind in ("roi", "prior") for figure in figures))


def _chart(key: str, x: str, y: str, stroke: str, title: str) -> Any:
    """A plot of the columns of a logged table."""
    from wandb_workspaces.reports.v2 import CustomChart

    # wandb keeps the rows of a plot under its key and `_table`.
    table = {"summaryTable": {"tableKey": f"{key}_table"}}
    fields = {"x": x, "y": y, "stroke": stroke}
    return CustomChart(table, chart_name="wandb/line/v0", chart_fields=fields, chart_strings={"title": title})


def _confusion() -> Any:
    """The confusion matrix at the end of a run."""
    from wandb_workspaces.reports.v2 import CustomChart

    return CustomChart(
        {"summaryTable": {"tableKey": f"{keys.CONFUSION}_table"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        chart_strings={"title": "confusion matrix at the best scores, IoU 0.5"},
    )


def _browser(title: str, key: str) -> Any:
    """A gallery of logged images."""
    from wandb_workspaces.reports.v2 import MediaBrowser

    return MediaBrowser(title=title, media_keys=[key], num_columns=4)


def panel_keys(panel: Any) -> list[str]:
    """Lists the keys of the figures in a panel; for the panel of the learning rate, the pattern of the keys."""
    from wandb_workspaces.reports.v2 import CustomChart, LinePlot, MediaBrowser

    if isinstance(panel, LinePlot):
        return [panel.metric_regex] if panel.metric_regex else [str(key) for key in panel.y]
    if isinstance(panel, MediaBrowser):
        return list(panel.media_keys)
    if isinstance(panel, CustomChart):
        return [panel.query["summaryTable"]["tableKey"]]
    return [panel.table_name]


def describe(workspace: "Workspace") -> str:
    """A workspace as text: its sections, and every panel's kind, title and keys."""
    lines = [f"{workspace.entity}/{workspace.project}: {workspace.name}"]
    if workspace.runset_settings.filters:
        lines.append(f"runs with {workspace.runset_settings.filters}")
    for section in workspace.sections:
        lines += ["", section.name]
        for panel in section.panels:
            title = _title(panel)
            prefix = f"{title}: " if title else ""
            lines.append(f"  {type(panel).__name__:22}  {prefix}{', '.join(panel_keys(panel))}")
    return "\n".join(lines)


def _title(panel: Any) -> str:
    """The title of a panel; empty for a table, which has none."""
    from wandb_workspaces.reports.v2 import CustomChart, LinePlot, MediaBrowser

    if isinstance(panel, CustomChart):
        return panel.chart_strings["title"]
    return (panel.title or "") if isinstance(panel, LinePlot | MediaBrowser) else ""
