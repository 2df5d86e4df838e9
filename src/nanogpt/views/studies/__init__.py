"""Pictures of studies: each a pure function of a finished study that answers a plotly figure.

from nanogpt.views.studies import forest
forest("studies/glu").show()
"""

from __future__ import annotations

from nanogpt.study.folder import Study
from nanogpt.views.studies.charts import views_of_charts
from nanogpt.views.studies.cost import cost
from nanogpt.views.studies.curves import curves
from nanogpt.views.studies.forest import forest
from nanogpt.views.studies.losses import losses
from nanogpt.views.studies.rates import rates
from nanogpt.views.view import View

FIGURES: dict[str, View] = {"forest": forest, "losses": losses, "curves": curves, "rates": rates, "cost": cost}
"""In the order of the report, after what the study measured itself."""


def figures_of(study: Study) -> dict[str, View]:
    """All of one study: what it measured itself, then the common ones."""
    return {**views_of_charts(study), **FIGURES}
