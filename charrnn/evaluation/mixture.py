r"""Predictions mixed as they are made, by weights learned online.

The mixture of predictors p_i is their weighted geometric mean, normalised over the symbols

.. math:: q(x) = \frac{\exp(\sum_i w_i \ln p_i(x))}{\sum_y \exp(\sum_i w_i \ln p_i(y))}

and after each symbol x the weights take a step down its loss, whose gradient is

.. math:: -\frac{\partial \ln q(x)}{\partial w_i} = \sum_y q(y) \ln p_i(y) - \ln p_i(x)

(logistic mixing for more than two symbols: Mahoney 2005; Mattern 2013). Every symbol is scored
before anything is learned from it. Nothing here knows torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 0.002
LEAST = 1e-30  # a probability of nothing would make a weight infinite


class Mixer:
    """Mixes `start.size` predictors; `weights` (that size,) begin as `start`."""

    def __init__(self, start: NDArray[np.float64]) -> None:
        self.weights = start.astype(np.float64)
        self._logs = np.empty((0, 0))
        self._mixed = np.empty(0)

    def mix(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """ln q of the V symbols, from the predictors' probabilities (predictors, V)."""
        self._logs = np.log(np.maximum(probabilities, LEAST))
        total = self.weights @ self._logs
        total -= total.max()
        self._mixed = np.exp(total)
        sum_of_all = self._mixed.sum()
        self._mixed /= sum_of_all
        logs: NDArray[np.float64] = total - np.log(sum_of_all)
        return logs

    def learn(self, symbol: int) -> None:
        """Take the step for the symbol that came after the last `mix`."""
        self.weights += RATE * (self._logs[:, symbol] - self._logs @ self._mixed)
