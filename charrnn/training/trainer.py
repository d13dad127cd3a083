"""The training loop: truncated BPTT steps as a generator, evaluation, and state that can be saved.

The trainer uses no text, no configuration and no files. The objective supplies batches and losses;
the caller iterates over the steps and decides when to evaluate, save, print or stop.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor, nn

from charrnn.errors import DivergedError
from charrnn.nn.fast.threads import use_threads
from charrnn.nn.state import State, leaves, replace_leaves
from charrnn.training.captured_step import CapturedStep
from charrnn.training.lane_processes import LaneProcesses
from charrnn.training.objective import Batch, Loss, Objective

Schedule = Callable[[int], float]
"""The learning rate of a step, counted from 0."""
SEEDS_OF_A_RUN = 1_000_003  # between two runs, so that their steps seldom share a seed


class Report(NamedTuple):
    """A training step that was taken."""

    step: int  # counted from 1
    epoch: int  # counted from 0
    scored: int  # the number of characters that were scored
    learning_rate: float


class Score(NamedTuple):
    """A summed loss in nats, and the number of characters (or labels) that it is summed over.

    >>> Score(nats=30.0, scored=20).mean
    1.5
    """

    nats: float
    scored: int

    @property
    def mean(self) -> float:
        """Nats per character, or per label."""
        return self.nats / self.scored


@dataclass
class Progress:
    """The progress of training: everything that is saved and is not a tensor."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # the number of the next batch within the epoch
    learning_rate_factor: float = 1.0  # the product of all drops of the plateau schedule
    interval_characters: int = 0  # characters in the training loss since the last evaluation


class Trainer(Generic[Batch]):
    """Trains a model on an objective, and yields a `Report` after each step.

    Step s minimises the mean loss L of a batch of n characters, with truncated backpropagation
    through time (Williams and Peng 1990): the state h is carried from the window before, and no
    gradient flows into that window::

        L = 1/n sum -ln P(target | inputs, h)        forward and loss
        g = dL/dw                                    backward
        g = g min(1, clip / |g|)                     clip (Pascanu et al. 2013)
        w = optimizer(w, g, schedule(s) factor)      update
        a = d a + (1 - d) w,  d = min(average, (1 + s) / (10 + s))

    The moving average a of the weights (Polyak and Juditsky 1992; here exponential) is evaluated in
    place of w. It averages over fewer steps at first, so that it soon forgets the random start.

    Everything random in step s is drawn after seeding with (seed, s). The random state is therefore
    a function of the step, and a resumed run draws the same numbers as an uninterrupted one.

    Args:
        model: its parameters are trained in place
        objective: supplies the batches, and the loss of one
        optimizer: over the model's parameters; its learning rate is set before each step
        schedule: the learning rate of a step, counted from 0
        clip: bound on the global norm of the gradient
        seed: seeds dropout and everything else that is random
        precision: of matrix products (autocast); weights, state and losses are float32
        processes: how many processes share the lanes, from the first step until `close`
        graph: capture a step on a GPU as a CUDA graph and replay it
        average: the largest decay d of the average; 0 for no average

    >>> from charrnn.data.corpus import Corpus, Span
    >>> from charrnn.data.vocabulary import CharacterVocabulary
    >>> from charrnn.nn.models import language_model
    >>> from charrnn.training.text_windows import TextWindows
    >>> import numpy as np
    >>> vocabulary = CharacterVocabulary("ab")
    >>> ids = vocabulary.encode("ab" * 50)
    >>> corpus = Corpus(ids, vocabulary, {"train": Span(0, 100, False)}, np.zeros(1, int), "", "")
    >>> model = language_model(2, cell="gru", hidden_sizes=[8])
    >>> windows = TextWindows(corpus, batch_size=3, window=11)
    >>> adam = torch.optim.Adam(model.parameters())
    >>> trainer = Trainer(model, windows, adam, lambda step: 0.01, clip=1.0, seed=1)
    >>> [(report.step, report.epoch, report.scored) for report in trainer.run(4)]
    [(1, 0, 33), (2, 0, 33), (3, 0, 33), (4, 1, 33)]
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective[Batch],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        clip: float,
        seed: int,
        precision: torch.dtype = torch.float32,
        processes: int = 1,
        graph: bool = False,
        average: float = 0.0,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.seed = seed
        self.precision = precision
        self.shares = [objective]  # one for each process
        if processes > 1:
            self.shares = [objective.share(rank, processes) for rank in range(processes)]
        self.lane_processes: LaneProcesses | None = None
        self.progress = Progress()
        self.carry: State | None = None
        device = next(model.parameters()).device
        precise = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64.
        self.interval_nats = torch.zeros((), dtype=precise, device=device)
        self._unread: list[Tensor] = []  # the loss and gradient norm of each step, on the device
        # 1 once a loss or gradient was not finite. A fused optimizer on a GPU reads it and then
        # changes no weight, without a wait for the GPU at each step.
        self.not_finite: Tensor | None = None
        if device.type == "cuda" and optimizer.defaults.get("fused"):
            self.not_finite = torch.zeros((), device=device)
            optimizer.found_inf = self.not_finite  # type: ignore[attr-defined]
        self.average = average
        self.averages = [p.detach().clone() for p in model.parameters()] if average else []
        self.captured_step: CapturedStep[Batch] | None = None
        if graph and self.not_finite is not None:
            self.capture_steps()

    def capture_steps(self) -> None:
        """Replay steps from now on, once a few have been taken."""
        self.captured_step = CapturedStep(self._plain_step, self._step_on_gpu, self._set_rate)

    # Steps ---------------------------------------------------------------------------------------

    def run(self, steps: int) -> Iterator[Report]:
        """Take `steps` more steps, and yield a report after each.

        Raises DivergedError, before the optimizer changes a weight, when a loss or a gradient is
        not finite.
        """
        for batch in itertools.islice(self._batches(), steps):
            with use_threads(1) if len(self.shares) > 1 else contextlib.nullcontext():
                scored, rate = self._step(batch)
            self.progress.step += 1
            self.progress.batch += 1
            yield Report(self.progress.step, self.progress.epoch, scored, rate)

    def _batches(self) -> Iterator[Batch]:
        """Yield the batches from the current position, epoch after epoch without end."""
        while True:
            yield from self.shares[0].batches(self.progress.epoch, self.progress.batch)
            self.progress.epoch += 1
            self.progress.batch = 0

    def _step(self, batch: Batch) -> tuple[int, float]:
        """Take one step. Returns the number of characters it scored and its learning rate."""
        seed = self.seed * SEEDS_OF_A_RUN + self.progress.step
        if self.captured_step is not None:
            loss = self.captured_step(batch, self.carry, seed)
        else:
            loss = self._plain_step(batch, seed)
        self._update_averages()
        self.carry = loss.carry
        self.interval_nats += loss.total.detach()
        self.progress.interval_characters += loss.scored
        assert loss.gradient_norm is not None
        self._unread.append(torch.stack([loss.total.detach(), loss.gradient_norm]))
        return loss.scored, self._rate(loss.rate)

    def _plain_step(self, batch: Batch, seed: int) -> Loss:
        """Run the forward and backward pass, clip the gradient, and update the weights."""
        if len(self.shares) == 1:
            loss = self._seeded_gradient(self.objective, batch, self.carry, seed)
        else:
            loss = self._shared_gradient(batch, seed)
        norm = self._clip_gradient(loss)
        self._set_rate(loss.rate)
        self.optimizer.step()
        return loss._replace(gradient_norm=norm)

    def _gradient(self, objective: Objective[Batch], batch: Batch, carry: State | None) -> Loss:
        """Run the forward and backward pass; leave the mean loss's gradient in the parameters."""
        device = self.interval_nats.device.type
        reduced = self.precision != torch.float32
        with torch.autocast(device, self.precision if reduced else None, enabled=reduced):
            loss = objective.loss(self.model, batch, carry)
        self.optimizer.zero_grad()
        (loss.total / max(1, loss.scored)).backward()  # type: ignore[no-untyped-call]
        return loss

    def _clip_gradient(self, loss: Loss) -> Tensor:
        """Scale the gradient down to the norm `clip`, and check that it and the loss are finite.

        Returns the norm before scaling.
        """
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if self.not_finite is not None:
            bad = (~torch.isfinite(norm + loss.total.detach())).to(self.not_finite.dtype)
            self.not_finite.copy_(torch.maximum(self.not_finite, bad))
        elif not torch.isfinite(norm + loss.total):
            nats = float(loss.total.detach()) / loss.scored
            raise _diverged(
                f"at step {self.progress.step + 1:,} (loss {nats:.4g} nats per character, "
                f"gradient norm {float(norm):.4g})"
            )
        return norm

    def _rate(self, factor: float) -> float:
        return self.schedule(self.progress.step) * self.progress.learning_rate_factor * factor

    def _set_rate(self, factor: float) -> None:
        rate = self._rate(factor)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _seeded_gradient(
        self, objective: Objective[Batch], batch: Batch, carry: State | None, seed: int
    ) -> Loss:
        self.model.train()
        torch.manual_seed(seed)
        return self._gradient(objective, batch, carry)

    def _shared_gradient(self, batch: Batch, seed: int) -> Loss:
        """Compute a batch's gradient in processes that share its lanes; start them if needed."""
        if self.lane_processes is None:
            carry = self.objective.empty_carry(self.model) if self.carry is None else self.carry
            self.lane_processes = LaneProcesses(
                self._seeded_gradient, self.shares, self.model, carry
            )
        order = (seed, self.progress.epoch, self.progress.batch)
        return self.lane_processes.step(self.shares[0], batch, order)

    def _step_on_gpu(self, batch: Batch, carry: State | None) -> Loss:
        """The part of a step that a graph can contain: all but setting the seed and the rate."""
        self.model.train()
        loss = self._gradient(self.objective, batch, carry)
        norm = self._clip_gradient(loss)
        self.optimizer.step()
        return loss._replace(gradient_norm=norm)

    def process_ids(self) -> list[int]:
        """This process, and those that share the lanes."""
        workers = self.lane_processes.process_ids() if self.lane_processes else []
        return [os.getpid(), *workers]

    def close(self) -> None:
        """End the processes that share the lanes, if there are any; `run` starts new ones."""
        if self.lane_processes is not None:
            self.lane_processes.close()
            self.carry, self.lane_processes = self.lane_processes.carry, None

    # Losses --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise DivergedError if a loss or a gradient was not finite.

        On a GPU this is only known here, because asking after each step would make the GPU wait.
        The optimizer has changed no weight since then.
        """
        if self.not_finite is not None and float(self.not_finite):
            raise _diverged(f"at or before step {self.progress.step:,}")

    def losses_and_norms(self) -> list[tuple[float, float]]:
        """Return each step's summed loss and gradient norm since the last call.

        On a GPU this waits for the steps.
        """
        pairs = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        return [(nats, norm) for nats, norm in pairs]

    def interval_score(self) -> Score:
        """Return the training loss since the last call, and start a new sum.

        It is measured with dropout on and while the weights change. Raises DivergedError as `check`
        does.
        """
        self.check()
        score = Score(float(self.interval_nats), self.progress.interval_characters)
        self.interval_nats.zero_()
        self.progress.interval_characters = 0
        return score

    # Averaged weights ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model its averaged weights, if there are any, until the block ends."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def begin_averages(self) -> None:
        """Set the averages to the current weights."""
        for average, parameter in zip(self.averages, self.model.parameters(), strict=False):
            average.copy_(parameter.detach())

    def _update_averages(self) -> None:
        if self.average:
            step = self.progress.step
            decay = min(self.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.averages, list(self.model.parameters()), 1 - decay)

    def _averages(self) -> dict[str, Tensor]:
        """The averages by the names of their weights; a weight that is shared has several names."""
        by_weight = dict(zip(self.model.parameters(), self.averages, strict=False))
        names = self.model.named_parameters(remove_duplicate=False)
        return {name: by_weight[weight] for name, weight in names if weight in by_weight}

    def _exchange(self) -> None:
        for i, parameter in enumerate(self.model.parameters() if self.average else ()):
            parameter.data, self.averages[i] = self.averages[i], parameter.data

    # State that is saved -------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Collect every tensor that a resumed run needs, by name.

        These are the weights, their averages, the optimizer's moments, the carried state and the
        training loss of the interval. Raises DivergedError as `check` does.
        """
        self.check()
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self._averages().items()}
        for name, parameter in zip(self._names(), self._parameters(), strict=True):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:  # SGD without momentum has None here.
                    tensors[f"optimizer/{name}/{key}"] = value
        if self.carry is not None:
            for i, leaf in enumerate(leaves(self.carry)):
                tensors[f"carry/{i}"] = leaf
        tensors["interval_nats"] = self.interval_nats
        return tensors

    def load(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Continue from the results of `tensors` and `progress_data`.

        Values are copied into memory that is allocated here: kernels choose their path by the
        alignment of a buffer, and one that is mapped from a file is aligned differently. Raises
        ValueError or KeyError if a tensor is missing or has another shape.
        """
        try:
            self.model.load_state_dict(_under("model/", tensors))
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        self.begin_averages()
        for name, average in self._averages().items():
            average.copy_(tensors.get(f"average/{name}", average))
        self._load_optimizer(tensors)
        self._load_carry(tensors)
        self.interval_nats.copy_(tensors["interval_nats"])
        self._unread.clear()
        self.progress = Progress(**progress)
        if self.not_finite is not None:
            self.not_finite.zero_()
        if self.captured_step is not None:
            self.capture_steps()  # The captured step has the addresses of the old moments.

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        for i, name in enumerate(self._names()):
            moments = _under(f"optimizer/{name}/", tensors)
            if moments:
                optimizer["state"][i] = {key: value.clone() for key, value in moments.items()}
        self.optimizer.load_state_dict(optimizer)

    def _load_carry(self, tensors: dict[str, Tensor]) -> None:
        """Load the carried state; start from the zero state if it has another shape."""
        saved = [tensors[f"carry/{i}"] for i in range(len(tensors)) if f"carry/{i}" in tensors]
        empty = self.objective.empty_carry(self.model)
        self.carry = None
        if [leaf.shape for leaf in saved] == [leaf.shape for leaf in leaves(empty)]:
            device = self.interval_nats.device
            self.carry = replace_leaves(empty, iter([x.to(device, copy=True) for x in saved]))

    def _parameters(self) -> list[nn.Parameter]:
        """The parameters in the order in which the optimizer numbers its state."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _names(self) -> list[str]:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for parameter in self._parameters()]

    def progress_data(self) -> dict[str, Any]:
        """Return the progress as plain data for `load`."""
        return asdict(self.progress)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with a prefix in their names; leave the prefix out of the names."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _diverged(where: str) -> DivergedError:
    return DivergedError(
        f"the loss or its gradient is not finite {where}; "
        f"try a lower training.learning_rate or a smaller training.clip"
    )


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Make cuDNN's recurrent kernels use float32 for scores, instead of TF32, their default."""
    if not torch.cuda.is_available():
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def evaluate(model: nn.Module, objective: Objective[Batch], batches: Iterable[Batch]) -> Score:
    """Sum the loss of `batches` in order, with the state carried from one to the next.

    The model is evaluated without dropout, in float32 and without gradients, and is left in the
    mode (training or evaluation) that it was in.
    """
    was_training = model.training
    model.eval()
    nats, scored = 0.0, 0
    carry: State | None = None
    try:
        with torch.inference_mode(), full_precision():
            for batch in batches:
                loss = objective.loss(model, batch, carry)
                nats += float(loss.total)
                scored += loss.scored
                carry = loss.carry
    finally:
        model.train(was_training)
    return Score(nats, scored)
