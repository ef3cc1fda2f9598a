"""What the oracles of LAMB and QHAdam share: two moments, in full precision or in a byte each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from oracle.codes import (
    ABSOLUTE,
    coded,
    in_float8,
    numbers_of_float8,
    random_words,
    unit_of,
)
from oracle.elements import Words
from oracle.vectors import Array
from oracle.walk import Group


@dataclass
class MomentsGroup(Group):
    """One parameter group whose parameters have moments."""

    state_bits: int = 32
    exp_avgs: list[Array] = field(init=False)
    exp_avg_sqs: list[Array] = field(init=False)
    exp_avg_magnitudes: list[Array] = field(init=False)  # exp_avg of |g|, for the path
    advanced: list[tuple[Array, Array]] = field(init=False)  # moments before they are rounded
    words: list[Words] = field(init=False)  # random bits of each parameter's last step

    def __post_init__(self) -> None:
        super().__post_init__()
        self.exp_avgs = self.zeros()
        self.exp_avg_sqs = self.zeros()
        self.exp_avg_magnitudes = self.zeros()
        if self.state_bits == 8:
            self.exp_avg_sqs = [np.full_like(p, ABSOLUTE.values[0]) for p in self.params]
        self.advanced = [(p, p) for p in self.zeros()]
        self.words = [np.zeros(p.shape, np.uint32) for p in self.params]

    def advance(self, i: int, m: Array, v: Array, origin: int) -> None:
        """Takes in the moments of this step; origin: of the parameter's elements in the model."""
        self.advanced[i] = m, v
        if self.state_bits == 8:
            words = self.words[i] = random_words(origin, v.size, self.steps[i])
            v = ABSOLUTE.values[coded(v, words, ABSOLUTE)]
            m = numbers_of_float8(in_float8(m / unit_of(v), words)) * unit_of(v)
        self.exp_avgs[i], self.exp_avg_sqs[i] = m, v
