r"""A network mixed online with n-grams that count as they read.

The mixture of predictors p_i is their weighted geometric mean, normalised over the V symbols

.. math:: q(x) = \frac{\exp(\sum_i w_i \ln p_i(x))}{\sum_y \exp(\sum_i w_i \ln p_i(y))}

After each symbol x, the weights w take a step down its loss -ln q(x):

.. math:: -\frac{\partial \ln q(x)}{\partial w_i} = \sum_y q(y) \ln p_i(y) - \ln p_i(x)

This is logistic mixing for more than two symbols (Mahoney 2005, "Adaptive weighing of context
models"; Mattern 2013, "Linear and geometric mixtures"). Every symbol is scored before anything is
learned from it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn.baselines.ngram import AdaptiveNgramModel

RATE = 0.002
LEAST = 1e-30  # replaces a probability of 0, which would make a weight infinite
BEGIN = (0.7, 0.3)  # the initial weights of network and n-grams


class Mixer:
    """The weights of several predictors; `start` (predictors,) are the initial weights.

    >>> mixer = Mixer(np.array([0.5, 0.5]))
    >>> q = np.exp(mixer.mix(np.array([[0.9, 0.1], [0.5, 0.5]])))
    >>> q.round(2).tolist()
    [0.75, 0.25]
    >>> mixer.learn(0)  # the first predictor was better
    >>> bool(mixer.weights[0] > mixer.weights[1])
    True
    """

    def __init__(self, start: NDArray[np.float64]) -> None:
        self.weights = start.astype(np.float64)
        self._logs = np.empty((0, 0))
        self._mixed = np.empty(0)

    def mix(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ln q of the V symbols from the predictors' probabilities (predictors, V)."""
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


class NgramMixture:
    """Mixes a network's predictions with those of n-grams that keep counting as they read."""

    def __init__(self, counting: AdaptiveNgramModel) -> None:
        self._counting = counting
        self._mixer = Mixer(np.array(BEGIN))

    def surprisals(self, rows: NDArray[np.float64], symbols: Sequence[int]) -> NDArray[np.float64]:
        """Return -ln q (T,) in nats of each symbol, given the network's probabilities (T, V).

        Weights and counts learn from each symbol after it was scored.
        """
        nats = np.empty(len(symbols))
        for i, (row, symbol) in enumerate(zip(rows, symbols, strict=True)):
            logs = self._mixer.mix(np.stack([row, self._counting.probabilities()]))
            nats[i] = -logs[symbol]
            self._mixer.learn(symbol)
            self._counting.read(symbol)
        return nats
