"""The HTML page of a run: one file that needs nothing else."""

from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tasks.contracts.run import RunDossier
from tasks.reporting import figures
from tasks.reporting.check_figures import check_figures
from tasks.reporting.class_table import make_class_table
from tasks.reporting.comparison import compare
from tasks.reporting.dossier_reading import finished_candidates, primary_metric, refusals
from tasks.reporting.gate_tables import make_gate_tables
from tasks.reporting.headline import make_headline
from tasks.reporting.lineage_table import make_lineage, split_digests
from tasks.reporting.pareto_picture import pareto_picture
from tasks.reporting.pareto_points import pareto_points
from tasks.reporting.plan_request import make_request
from tasks.reporting.stylesheets import read_stylesheet
from tasks.reporting.training_curves import make_training_curves
from tasks.reporting.waterfall import make_waterfalls

_STYLESHEETS = ("palette.css", "pareto.css", "charts.css", "report.css")
_WIDE, _NARROW = (760.0, 440.0), (350.0, 400.0)


def render_page(dossier: RunDossier) -> str:
    """Return the report of a run as one self-contained HTML page.

    No script and no outside resource: it reads the same offline, in an archive and on paper. Every text of
    the dossier is escaped.
    """
    return _environment().get_template("report.html").render(**_parts(dossier))


def _parts(dossier: RunDossier) -> dict[str, Any]:
    """Return what the template shows, in the order of the page."""
    points, metric = pareto_points(dossier), primary_metric(dossier)
    return {
        "dossier": dossier,
        "record": dossier.record,
        "style": Markup("\n".join(read_stylesheet(name) for name in _STYLESHEETS)),  # noqa: S704 - our own files
        "headline": make_headline(dossier),
        "request": make_request(dossier),
        "plan_text": yaml.safe_dump(dossier.plan_document, sort_keys=False, allow_unicode=True),
        "comparison": compare(dossier),
        "num_finished": len(finished_candidates(dossier)),
        "refusals": {one.name: refusals(dossier, one.name) for one in dossier.record.candidates},
        "pareto_wide": pareto_picture(points, metric, width=_WIDE[0], height=_WIDE[1]),
        "pareto_narrow": pareto_picture(points, metric, width=_NARROW[0], height=_NARROW[1]),
        "metric": metric,
        "waterfalls": make_waterfalls(dossier),
        "trained": make_training_curves(dossier),
        "classes": make_class_table(dossier),
        "gates": make_gate_tables(dossier),
        "origins": make_lineage(dossier),
    }


def _breakable(name: str) -> Markup:
    """Let a long name break after its underscores; in a narrow column it would break anywhere."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


@cache
def _environment() -> Environment:
    """Return the templates; everything is escaped unless it is `Markup`."""
    environment = Environment(
        loader=PackageLoader("tasks.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "bytes": figures.bytes_text,
        "count": figures.count,
        "moment": figures.moment,
        "short_moment": figures.short_moment,
        "seconds": figures.seconds,
        "weight": figures.weight,
        "check_figures": check_figures,
        "split_digests": split_digests,
    }
    environment.globals["elapsed"] = figures.elapsed
    return environment
