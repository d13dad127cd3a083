r"""Dynamic evaluation: a model that learns from the text it reads, after each stretch of it.

After each segment the weights take one step down its loss, scaled by how much each weight mattered
in training, and are drawn back to where training left them (Krause et al. 2018, the RMS rule):

.. math:: \theta \leftarrow \theta - \eta \frac{g}{s + \epsilon}
          + \min(1, \lambda s) \odot (\theta_0 - \theta)

g is the gradient of the segment's summed loss (nats), s the root mean square of each weight's
gradient in training over its mean among all weights. The paper collects s on the training text;
the second moments that Adam and RMSprop end training with are the same quantity, and stand in
the checkpoint. Where there are none, s is 1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
LEARNING, DECAY = 0.01, 0.001
EPSILON = 0.1  # of weights that hardly mattered: keeps the first step they are asked to take small


@dataclass(frozen=True)
class Rates:
    """eta, lambda, and the characters of a segment."""

    learning: float
    decay: float
    segment: int = 20

    @classmethod
    def of(cls, learning: float | None, decay: float | None) -> Rates:
        """With what does well on most texts in place of None."""
        return cls(LEARNING if learning is None else learning, DECAY if decay is None else decay)

    def __str__(self) -> str:
        return f"rate {self.learning:g}, decay {self.decay:g}, segments of {self.segment}"


class Adapting(Generic[Model]):
    """A copy of `model` that takes the steps of dynamic evaluation.

    `moments` are second moments by the names of the weights, or nothing.
    """

    def __init__(self, model: Model, moments: Mapping[str, NDArray[Any]], rates: Rates) -> None:
        self.rates = rates
        self.model = copy.deepcopy(model).eval()
        named = list(self.model.named_parameters())
        self._weights: list[Tensor] = [parameter for _, parameter in named]
        self._trained = [parameter.detach().clone() for parameter in self._weights]
        scales = [torch.ones_like(parameter) for parameter in self._trained]
        if all(name in moments for name, _ in named):
            given = [torch.from_numpy(moments[name]).to(p) for name, p in named]
            scales = [values.sqrt() for values in given]
        count = sum(scale.numel() for scale in scales)
        mean = torch.stack([scale.sum() for scale in scales]).sum() / count
        scales = [scale / mean for scale in scales]
        self._steps = [rates.learning / (scale + EPSILON) for scale in scales]
        self._returns = [(rates.decay * scale).clamp(max=1) for scale in scales]

    def learn(self, nats: Tensor) -> None:
        """Take the step for a segment's summed loss, whose graph is there."""
        gradients = torch.autograd.grad(nats, self._weights, allow_unused=True)
        with torch.no_grad():
            back = torch._foreach_sub(self._trained, self._weights)
            for weight, gradient, step in zip(self._weights, gradients, self._steps, strict=True):
                if gradient is not None:
                    weight.addcmul_(gradient, step, value=-1)
            torch._foreach_addcmul_(self._weights, back, self._returns)
