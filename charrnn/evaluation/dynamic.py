r"""Dynamic evaluation: a model keeps learning from the text on which it is scored.

The text is read in segments of about 20 symbols. When a segment has been scored, the weights take
one step down its loss, and are pulled back towards their trained values (Krause et al. 2018,
"Dynamic evaluation of neural sequence models", the RMS rule with a decay scaled by RMS):

.. math:: \theta \leftarrow \theta - \eta \frac{g}{s + \epsilon}
          + \min(1, \lambda s) \odot (\theta_0 - \theta)

- g: the gradient of the segment's summed loss (nats);
- s: the root mean square of each weight's gradient in training, divided by its mean over all
  weights, so that weights that mattered little in training move more;
- eta, lambda: `Rates.learning` and `Rates.decay`; theta_0: the trained weights.

The paper collects the squares of the gradients on the training text. Adam and RMSprop compute the
same quantity in training, and the checkpoint holds it. Without it, s is 1.
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
EPSILON = 0.1  # bounds the step of weights whose gradient was almost 0 in training


@dataclass(frozen=True)
class Rates:
    """The rates of dynamic evaluation: eta, lambda, and the symbols of a segment.

    >>> str(Rates(0.01, 0.001))
    'rate 0.01, decay 0.001, segments of 20'
    """

    learning: float
    decay: float
    segment: int = 20

    @classmethod
    def of(cls, learning: float | None, decay: float | None) -> Rates:
        """Make rates; None stands for a value that does well on most texts."""
        return cls(LEARNING if learning is None else learning, DECAY if decay is None else decay)

    def __str__(self) -> str:
        return f"rate {self.learning:g}, decay {self.decay:g}, segments of {self.segment}"


class Adapting(Generic[Model]):
    """A copy of a model that takes the steps of dynamic evaluation; the original is unchanged.

    `moments` are second moments of the gradient by the names of the weights; they are used if every
    weight has one.
    """

    def __init__(self, model: Model, moments: Mapping[str, NDArray[Any]], rates: Rates) -> None:
        self.rates = rates
        self.model = copy.deepcopy(model).eval()
        self._weights: list[Tensor] = list(self.model.parameters())
        self._trained = [weight.detach().clone() for weight in self._weights]
        scales = _scales(self.model, moments)
        self._steps = [rates.learning / (scale + EPSILON) for scale in scales]
        self._returns = [(rates.decay * scale).clamp(max=1) for scale in scales]

    def learn(self, nats: Tensor) -> None:
        """Take one step for a segment's summed loss (a scalar with its graph)."""
        gradients = torch.autograd.grad(nats, self._weights, allow_unused=True)
        with torch.no_grad():
            back = torch._foreach_sub(self._trained, self._weights)
            for weight, gradient, step in zip(self._weights, gradients, self._steps, strict=True):
                if gradient is not None:
                    weight.addcmul_(gradient, step, value=-1)
            torch._foreach_addcmul_(self._weights, back, self._returns)


def _scales(model: nn.Module, moments: Mapping[str, NDArray[Any]]) -> list[Tensor]:
    """Compute s of each weight: the root of its second moment over the mean of all roots."""
    named = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
    roots = [torch.ones_like(parameter) for _, parameter in named]
    if all(name in moments for name, _ in named):
        roots = [torch.from_numpy(moments[name]).to(value).sqrt() for name, value in named]
    count = sum(root.numel() for root in roots)
    mean = torch.stack([root.sum() for root in roots]).sum() / count
    return [root / mean for root in roots]
