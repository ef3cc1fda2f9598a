"""The figures: which panels and lines they have, and that what they draw is what was found."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from valley import INITIAL, swept

from yfkernels.analysis import robust_region
from yfkernels.lab.robustness.contestants import MOMENTA as TRIED
from yfkernels.lab.robustness.figure import plot_sweeps
from yfkernels.lab.robustness.region import MOMENTA, PANELS, plot_region


def test_the_plateau_is_drawn() -> None:
    panels = plot_region().axes
    assert [panel.get_title("left") for panel in panels] == list(PANELS)
    bold = [line for line in panels[0].lines if line.get_linewidth() > 3.0]
    for momentum, line in zip(MOMENTA, bold, strict=True):
        x, y = line.get_data()
        region = robust_region(momentum)
        assert (x[0], x[-1]) == pytest.approx((region.low, region.high))
        np.testing.assert_allclose(np.asarray(y), momentum**0.5, atol=1e-7)


def test_a_row_a_workload_and_momentum_where_sgd_is() -> None:
    sgd, yellowfin = swept("sgd")[0], swept("yellowfin")[0]
    figure = plot_sweeps([sgd, yellowfin], title="t", note="n")
    by_lr, grid, by_momentum = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SGD", "YellowFin"]
    assert len([line for line in grid.lines if line.get_label()[0] != "_"]) == len(TRIED)
    thin = next(line for line in by_lr.lines if line.get_marker() == "o")
    assert list(thin.get_ydata()) == pytest.approx(sgd.by_lr.mean)
    bold = next(line for line in by_lr.lines if line.get_label() == "SGD")
    assert max(bold.get_ydata()) < 1.2 * 1.1 * (INITIAL / 1.0) ** 0.1
    assert by_momentum.get_xlabel() == "factor on 0.1"


def test_without_sgd_there_is_one_column() -> None:
    figure = plot_sweeps([swept("adam")[0], swept("yellowfin")[0]], title="t")
    assert len(figure.axes) == 1
