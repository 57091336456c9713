"""The plots of a report, a file each, all in the colours of the page they stand on."""

from energynets.compare.plots.bars import metric_bars
from energynets.compare.plots.certificates import certificate_histogram
from energynets.compare.plots.cost import quality_cost
from energynets.compare.plots.curves import learning_curves
from energynets.compare.plots.figure import NUM_COLORS, colors, css_color, dashes, markers
from energynets.compare.plots.forest import forest, gains_forest
from energynets.compare.plots.reliability import reliability
from energynets.compare.plots.traces import inference_traces

__all__ = [
    "NUM_COLORS",
    "certificate_histogram",
    "colors",
    "css_color",
    "dashes",
    "forest",
    "gains_forest",
    "inference_traces",
    "learning_curves",
    "markers",
    "metric_bars",
    "quality_cost",
    "reliability",
]
