"""The laboratory's measurements, in the order of its report: one for each thing that a softmax assumes or does."""

from nanogpt.study.builtin.softmax.alternatives import buses
from nanogpt.study.builtin.softmax.calibration import temperature_scaling
from nanogpt.study.builtin.softmax.categorical import gradient, several_labels
from nanogpt.study.builtin.softmax.gumbel import gumbel_max, gumbel_top_k
from nanogpt.study.builtin.softmax.sampling import quality_and_diversity
from nanogpt.study.builtin.softmax.scale import shift_and_scale, temperature
from nanogpt.study.builtin.softmax.twins import twins

__all__ = [
    "buses",
    "gradient",
    "gumbel_max",
    "gumbel_top_k",
    "quality_and_diversity",
    "several_labels",
    "shift_and_scale",
    "temperature",
    "temperature_scaling",
    "twins",
]
