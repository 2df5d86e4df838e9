"""Pictures of runs: each a pure function of runs that answers a plotly figure.

from nanogpt import views
views.curves(run)
views.heatmap(run, kind="weights", statistic="norm")
"""

from __future__ import annotations

from nanogpt.views.attention import attention, attention_history
from nanogpt.views.curves import curves
from nanogpt.views.depth import lens, lens_text, stream
from nanogpt.views.heatmap import heatmap
from nanogpt.views.neurons import neuron_history, neuron_map, neuron_share
from nanogpt.views.output import calibration, frequency, output, position
from nanogpt.views.ratios import gradients, ratios
from nanogpt.views.ridges import history, ridges
from nanogpt.views.view import View

FIGURES: dict[str, View] = {
    "curves": curves,
    "neuron_map": neuron_map,
    "neuron_share": neuron_share,
    "neuron_history": neuron_history,
    "heatmap": heatmap,
    "ridges": ridges,
    "history": history,
    "ratios": ratios,
    "gradients": gradients,
    "stream": stream,
    "attention": attention,
    "attention_history": attention_history,
    "lens": lens,
    "lens_text": lens_text,
    "output": output,
    "calibration": calibration,
    "position": position,
    "frequency": frequency,
}
"""In the order of the report. A new picture is a function in a file of its own and a line here."""
