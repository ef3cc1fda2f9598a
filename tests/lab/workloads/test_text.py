"""The text: windows by number fill it, and each knows the character after it."""

from __future__ import annotations

from dataclasses import replace

import torch

from yfkernels.lab.workloads.text import CONTEXT, text_lstm


def test_windows_by_number_fill_the_text() -> None:
    for length in (4 * CONTEXT, 4 * CONTEXT + 1, 4 * CONTEXT + 2):
        task = replace(text_lstm(), training=torch.arange(length))
        number = task.training_size
        assert number == (3 if length == 4 * CONTEXT else 4)
        windows, following = task.examples(range(number))
        assert windows.flatten().tolist() == list(range(number * CONTEXT))
        assert following.flatten().tolist() == list(range(1, number * CONTEXT + 1))
        one, _ = task.examples((2,))
        assert one.tolist() == windows[2:3].tolist()
