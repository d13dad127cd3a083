"""The training loop: truncated BPTT steps as a generator, evaluation, progress that can be saved.

The trainer knows no text, no configuration and no files: batches are the task's, and whoever
iterates decides when to evaluate, save, print or stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, cast

import torch
from torch import Tensor, nn

from charrnn.errors import DivergedError
from charrnn.nn.fast.cuda_graphs import Captured, on_side_stream
from charrnn.nn.state import State, leaves, replace_leaves
from charrnn.training.lane_processes import LaneProcesses
from charrnn.training.objective import Batch, Loss, Objective

Schedule = Callable[[int], float]
SINGLY = 4  # steps taken before one is captured


class Report(NamedTuple):
    """One training step, after it was taken."""

    step: int
    epoch: int
    scored: int  # characters
    learning_rate: float


class Score(NamedTuple):
    """A summed loss in nats and the number of characters, or other units, that it is over."""

    nats: float
    scored: int

    @property
    def mean(self) -> float:
        """Nats of one unit."""
        return self.nats / self.scored


@dataclass
class Progress:
    """Where training stands: all of it that is not a tensor."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # the next batch's number within the epoch
    learning_rate_factor: float = 1.0  # what drop-on-plateau has made of it
    interval_characters: int = 0  # behind the running training loss


class Trainer(Generic[Batch]):
    """Trains `model` on `task` with `optimizer`, one `Report` a step.

    `schedule` gives the learning rate of a step (from 0); `clip` bounds the global norm of the
    gradient; `precision` is that of the products (autocast), all else is float32. Everything
    random in step s is drawn after seeding with (seed, s), so the random state is a function of
    the step and a resumed run draws what an unbroken one would. With several `processes`, each
    computes a share of the lanes (`team`), from the first step of `run` until `close`. With
    `graph`, a step on a GPU is captured and replayed.

    `average` is the decay d of a moving average of the weights, a <- d a + (1 - d) w after each
    step (Polyak and Juditsky 1992, here exponential), which is what is evaluated; 0 is none.
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
        self.shares = [objective]
        if processes > 1:
            self.shares = [objective.share(rank, processes) for rank in range(processes)]
        self.lane_processes: LaneProcesses | None = None
        self.progress = Progress()
        self.carry: State | None = None
        device = next(model.parameters()).device
        precise = torch.float32 if device.type == "mps" else torch.float64
        self.interval_nats = torch.zeros((), dtype=precise, device=device)
        # Fused optimizers on a GPU look there whether they may change anything.
        self.not_finite: Tensor | None = None
        if device.type == "cuda" and optimizer.defaults.get("fused"):
            self.not_finite = torch.zeros((), device=device)
            optimizer.found_inf = self.not_finite  # type: ignore[attr-defined]
        self.average = average
        self.averages = [p.detach().clone() for p in model.parameters()] if average else []
        self.graph = graph and self.not_finite is not None
        self._captured: Captured | None = None
        self._form: list[Any] = []
        self._taken, self._kept, self._capturing = 0, (0, 1.0), False

    def run(self, steps: int) -> Iterator[Report]:
        """Take `steps` steps, yielding after each.

        Raises DivergedError, before the optimizer touches a weight, when a loss or a gradient is
        not finite.
        """
        progress = self.progress
        remaining = steps
        while remaining > 0:
            for batch in self.shares[0].batches(progress.epoch, progress.batch):
                with one_thread() if len(self.shares) > 1 else contextlib.nullcontext():
                    scored, rate = self._step(batch)
                progress.step += 1
                progress.batch += 1
                remaining -= 1
                yield Report(progress.step, progress.epoch, scored, rate)
                if remaining == 0:
                    return
            progress.epoch += 1
            progress.batch = 0

    def close(self) -> None:
        """End the other processes, if there are any; `run` would start new ones."""
        if self.lane_processes is not None:
            self.lane_processes.close()
            self.carry, self.lane_processes = self.lane_processes.carry, None

    def _step(self, batch: Batch) -> tuple[int, float]:
        seed = self.seed * 1_000_003 + self.progress.step
        if self.graph:
            loss = self._captured_step(batch, seed)
        else:
            loss = self._update(self._loss(batch, seed))
        if self.average:
            # Averages of few weights are of little use, so it begins as a shorter one.
            step = self.progress.step
            decay = min(self.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.averages, list(self.model.parameters()), 1 - decay)
        self.carry = loss.carry
        self.interval_nats += loss.total.detach()
        self.progress.interval_characters += loss.scored
        return loss.scored, self._rate(loss.rate)

    def _rate(self, factor: float) -> float:
        return self.schedule(self.progress.step) * self.progress.learning_rate_factor * factor

    def _set_rate(self, factor: float) -> None:
        rate = self._rate(factor)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _loss(self, batch: Batch, seed: int) -> Loss:
        """The loss of a batch, with its gradient in the parameters."""
        if len(self.shares) == 1:
            return self._compute(self.objective, batch, self.carry, seed)
        if self.lane_processes is None:
            carry = self.objective.empty_carry(self.model) if self.carry is None else self.carry
            self.lane_processes = LaneProcesses(self._compute, self.shares, self.model, carry)
        return self.lane_processes.step(
            self.shares[0], batch, (seed, self.progress.epoch, self.progress.batch)
        )

    def _compute(
        self, objective: Objective[Batch], batch: Batch, carry: State | None, seed: int | None
    ) -> Loss:
        self.model.train()
        if seed is not None:
            torch.manual_seed(seed)
        device = self.interval_nats.device.type
        reduced = self.precision != torch.float32
        with torch.autocast(device, self.precision if reduced else None, enabled=reduced):
            loss = objective.loss(self.model, batch, carry)
        self.optimizer.zero_grad()
        (loss.total / max(1, loss.scored)).backward()  # type: ignore[no-untyped-call]
        return loss

    def _update(self, loss: Loss) -> Loss:
        """Clip the gradient and take the optimizer's step, if all is finite."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if self.not_finite is None:
            if not torch.isfinite(norm + loss.total):
                nats = float(loss.total.detach()) / loss.scored
                raise _diverged(
                    f"at step {self.progress.step + 1:,} (loss {nats:.4g} nats per character, "
                    f"gradient norm {float(norm):.4g})"
                )
        else:
            bad = (~torch.isfinite(norm + loss.total.detach())).to(self.not_finite.dtype)
            self.not_finite.copy_(torch.maximum(self.not_finite, bad))
        if not self._capturing:
            self._set_rate(loss.rate)
        self.optimizer.step()
        return loss

    def _captured_step(self, batch: Batch, seed: int) -> Loss:
        """The step as one CUDA graph, which a few steps taken singly make ready; batches of
        another form than most are always taken singly."""
        tensors = tuple(part for part in batch if isinstance(part, Tensor))
        form = [part.shape if isinstance(part, Tensor) else part for part in batch]

        def whole(inputs: State) -> State:
            parts, carry = iter(inputs[0]), inputs[1]
            again = type(batch)(*(next(parts) if isinstance(x, Tensor) else x for x in batch))
            self._capturing = True
            loss = self._update(self._compute(self.objective, again, carry, None))
            self._capturing, self._kept = False, (loss.scored, loss.rate)
            return loss.total.detach(), loss.carry or ()

        if form != self._form or self._taken < SINGLY or self.carry is None:
            self._taken = self._taken + 1 if form == self._form else 1
            if self._captured is None:
                self._form = form
            losses: list[Loss] = []
            on_side_stream(lambda: losses.append(self._update(self._loss(batch, seed))))
            return losses[0]
        if self._captured is None:
            self._captured = Captured(whole, (tensors, self.carry), warmups=0)
        scored, factor = self._kept
        torch.manual_seed(seed)
        self._set_rate(factor)
        total, carry = cast(tuple[Tensor, State], self._captured((tensors, self.carry)))
        return Loss(total, scored, carry, factor)

    def check(self) -> None:
        """Raise DivergedError where a loss or a gradient was not finite.

        Where asking after each step would make a GPU wait, the optimizer has changed no weight
        since then, and it comes out here.
        """
        if self.not_finite is not None and float(self.not_finite):
            raise _diverged(f"at or before step {self.progress.step:,}")

    def interval_score(self) -> Score:
        """The training loss since the last call (dropout on, weights moving), then start anew.

        Raises DivergedError as `check` does.
        """
        self.check()
        score = Score(float(self.interval_nats), self.progress.interval_characters)
        self.interval_nats.zero_()
        self.progress.interval_characters = 0
        return score

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights, if there are any; else as it is."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def begin_averages(self) -> None:
        """Let the averages be the weights as they are now."""
        for average, parameter in zip(self.averages, self.model.parameters(), strict=False):
            average.copy_(parameter.detach())

    def _averages(self) -> dict[str, Tensor]:
        """By the names of the weights; those that are shared have several."""
        found = dict(zip(self.model.parameters(), self.averages, strict=False))
        names = self.model.named_parameters(remove_duplicate=False)
        return {name: found[parameter] for name, parameter in names if parameter in found}

    def _exchange(self) -> None:
        for i, parameter in enumerate(self.model.parameters() if self.average else ()):
            parameter.data, self.averages[i] = self.averages[i], parameter.data

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that training would need to go on: model, optimizer, carry, running loss.

        Raises DivergedError as `check` does.
        """
        self.check()
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self._averages().items()}
        for name, parameter in zip(self._names(), self._parameters(), strict=True):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:  # SGD without momentum keeps an empty place for one.
                    tensors[f"optimizer/{name}/{key}"] = value
        if self.carry is not None:
            for i, leaf in enumerate(leaves(self.carry)):
                tensors[f"carry/{i}"] = leaf
        tensors["interval_nats"] = self.interval_nats
        return tensors

    def load(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Go on from what `tensors` and `progress_data` gave.

        Values are copied into memory allocated here: kernels pick their path by alignment, and a
        buffer mapped from a file has another one. Raises ValueError where something is missing
        or has another shape.
        """
        state = {n[6:]: value for n, value in tensors.items() if n.startswith("model/")}
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        self.begin_averages()
        for name, average in self._averages().items():
            average.copy_(tensors.get(f"average/{name}", average))
        optimizer = self.optimizer.state_dict()
        for i, name in enumerate(self._names()):
            prefix = f"optimizer/{name}/"
            moments = {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}
            if moments:
                optimizer["state"][i] = {key: value.clone() for key, value in moments.items()}
        self.optimizer.load_state_dict(optimizer)
        self.carry = None
        saved = [tensors[f"carry/{i}"] for i in range(len(tensors)) if f"carry/{i}" in tensors]
        empty = self.objective.empty_carry(self.model)
        if [leaf.shape for leaf in saved] == [leaf.shape for leaf in leaves(empty)]:
            device = self.interval_nats.device
            self.carry = replace_leaves(empty, iter([x.to(device, copy=True) for x in saved]))
        self.interval_nats.copy_(tensors["interval_nats"])
        self.progress = Progress(**progress)

    def _parameters(self) -> list[nn.Parameter]:
        """In the optimizer's order, which numbers them in its state."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _names(self) -> list[str]:
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for parameter in self._parameters()]

    def progress_data(self) -> dict[str, Any]:
        """The progress as plain data for `load`."""
        return asdict(self.progress)


def _diverged(where: str) -> DivergedError:
    return DivergedError(
        f"the loss or its gradient is not finite {where}; "
        f"try a lower --learning-rate or a smaller training.clip"
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch here: others would spin where another process wants to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def full_precision() -> contextlib.AbstractContextManager[None]:
    """No TF32 in cuDNN's recurrent kernels, which is their default: a score is a float32 score."""
    if not torch.cuda.is_available():
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def evaluate(model: nn.Module, objective: Objective[Batch], batches: Iterable[Batch]) -> Score:
    """The summed loss of `batches` in order, the state carried from one to the next.

    Runs in evaluation mode, in full float32 and without gradients, and leaves the model in the
    mode it was in.
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
