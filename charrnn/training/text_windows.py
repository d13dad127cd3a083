r"""Next-character prediction by truncated backpropagation through time, and its score.

Training reads the ids in **lanes**. With 26 letters, 2 lanes and a window of 4::

    lane 0   A B C D | E F G H | I J K L      (M is only ever a target here)
    lane 1   M N O P | Q R S T | U V W X
             batch 0   batch 1   batch 2      then the epoch wraps: state back to zero

Each batch is the next window of every lane, and its targets are the same windows one character
on. The hidden state at the end of a window is carried, detached, into the next one: the forward
pass never notices the windows, gradients stop at their edges (Werbos 1990; Williams and Peng
1990). The batches of an epoch are a pure function of the position.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.data.corpus import Corpus, Span
from charrnn.errors import ConfigError
from charrnn.nn.models import LanguageModel
from charrnn.nn.state import State, detach, zero_lanes
from charrnn.training.objective import Loss

NOT_SCORED = -100
MOST_LOGITS = 1 << 25  # at a time in scoring: 128 MiB in float32


class TextBatch(NamedTuple):
    """A window of every lane."""

    inputs: Tensor  # (N, T) ids
    targets: Tensor  # (N, T) ids, NOT_SCORED where nothing is asked
    scored: int  # how many targets are asked
    borders: Tensor | None  # (N, T), True where the state is zero before the input
    fresh: bool  # drop the carried state
    unconditional: int = 0  # characters with nothing before them: ln V each


class TextWindows:
    """The batches and the loss of a character language model over a corpus.

    `window` characters a step and lane, in `batch_size` lanes. Without `carry_state` every
    window starts from the zero state, in training and in scoring. With
    `reset_state_at_documents` the state is zero where a document begins, inside a window too.

    With `random_windows` an epoch's first lane begins anywhere in what is its first lane else, and
    a window's length is drawn from a normal distribution of standard deviation 5 around `window`,
    one time in twenty around half of it, at least 5; the learning rate is scaled with the length
    (AWD-LSTM: Merity et al. 2018, section 5). Both are drawn from (seed, epoch). In training each
    lane's state is reset to zero at the start of a window with `reset_probability`.

    Raises ConfigError where the training split has fewer characters than lanes.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        batch_size: int,
        window: int,
        carry_state: bool = True,
        reset_state_at_documents: bool = False,
        random_windows: bool = False,
        reset_probability: float = 0.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.corpus = corpus
        self.batch_size = batch_size
        self.window = window
        self.carry_state = carry_state
        self.random_windows = random_windows
        self.reset_probability = reset_probability
        self.seed = seed
        self.device = torch.device(device)
        self._borders = corpus.document_starts if reset_state_at_documents else None
        # On a GPU the whole text lies there, unless it is one that memory here does not hold.
        self._ids_there: Tensor | None = None
        if self.device.type == "cuda" and isinstance(corpus.ids, np.ndarray):
            self._ids_there = _signed(corpus.ids).to(self.device)
        train = corpus.splits.get("train")
        if train is not None:
            self._first = train.start - train.has_context
            self.lane_length = (train.stop - 1 - self._first) // batch_size
            if self.lane_length < 1:
                raise ConfigError(
                    f"a training split of {len(train):,} characters cannot fill "
                    f"{batch_size:,} lanes; use a --batch-size of at most {len(train) - 1:,}"
                )
            self.batches_per_epoch = math.ceil(self.lane_length / window)
        self._lanes = range(batch_size)
        self._lanes_of_all = batch_size

    def share(self, rank: int, count: int) -> TextWindows:
        """The same on the lanes from rank/count to (rank + 1)/count of all."""
        part = copy.copy(self)
        whole = self.batch_size
        part._lanes = self._lanes[whole * rank // count : whole * (rank + 1) // count]
        part.batch_size = len(part._lanes)
        return part

    def batches(self, epoch: int, start: int = 0) -> Iterator[TextBatch]:
        """The windows of every lane in reading order; without `random_windows`, each epoch is the
        same."""
        first, lane_length, offsets = self._windows(epoch)
        firsts = first + lane_length * np.array(self._lanes)
        there = torch.from_numpy(firsts).to(self.device) if self._ids_there is not None else None
        for i, (offset, end) in enumerate(itertools.pairwise(offsets)):
            if i < start:
                continue
            fresh = i == 0 or not self.carry_state
            if there is None or self._borders is not None:
                yield self._cut(firsts + offset, end - offset, fresh)
            else:  # Nothing that would make the GPU wait.
                inputs, targets = self._read_there(there + offset, end - offset, 0)
                yield TextBatch(inputs, targets, targets.numel(), None, fresh)

    def _windows(self, epoch: int) -> tuple[int, int, list[int]]:
        """Where an epoch's lanes begin, how long they are, and where in them windows begin or end
        the last one."""
        whole = self.lane_length
        if not self.random_windows:
            return self._first, whole, [*range(0, whole, self.window), whole]
        draw = np.random.default_rng([self.seed, epoch])
        shift = int(draw.integers(whole))
        count = self._lanes_of_all
        length = max(1, (whole * count - shift) // count)
        offsets = [0]
        while offsets[-1] < length:
            around = self.window if draw.random() < 0.95 else self.window / 2
            offsets.append(min(length, offsets[-1] + max(5, int(draw.normal(around, 5)))))
        return self._first + shift, length, offsets

    def unbroken(self, span: Span, window: int) -> Iterator[TextBatch]:
        """The score: one pass over `span` from the zero state, every character scored once.

        The first input is the character before the span; where there is none, the first
        character costs ln V. `window` is how much is computed at a time and changes nothing,
        unless no state is carried: then the training windows tile the span.
        """
        first = span.start - span.has_context
        length = span.stop - 1 - first
        unconditional = 0 if span.has_context else 1
        if not self.carry_state:
            yield from self._tiles(first, length, unconditional)
            return
        for offset in range(0, max(length, 1), window):
            batch = self._cut(np.array([first + offset]), min(window, length - offset), offset == 0)
            yield batch._replace(unconditional=unconditional if offset == 0 else 0)

    def in_lanes(self, span: Span, lanes: int, warmup: int, most: int) -> Iterator[TextBatch]:
        """A cheap estimate of the score: lanes spread evenly over `span`, at most `most`
        characters each, each of which first reads the `warmup` characters before it."""
        first = span.start - span.has_context
        pairs = span.stop - 1 - first
        unconditional = 0 if span.has_context else 1
        if not self.carry_state:
            yield from self._tiles(first, min(pairs, lanes * most), unconditional)
            return
        lanes = max(1, min(lanes, pairs))
        starts = first + (pairs * np.arange(lanes)) // lanes
        ends = first + (pairs * np.arange(1, lanes + 1)) // lanes
        ends = np.minimum(ends, starts + most)
        warmup = min(warmup, int(starts[-1]) - first)
        begin, stop = -warmup, int((ends - starts).max())
        window = max(1, min(256, MOST_LOGITS // (lanes * self.corpus.vocabulary.size)))
        for offset in range(begin, max(stop, begin + 1), window):
            length = min(window, stop - offset)
            batch = self._cut(starts + offset, length, offset == begin, starts, ends, first)
            yield batch._replace(unconditional=unconditional if offset == begin else 0)

    def loss(self, model: LanguageModel, batch: TextBatch, carry: State | None) -> Loss:
        """The summed cross-entropy of the scored targets, in nats."""
        if model.training and self.reset_probability and carry is not None:
            keep = torch.rand(len(batch.inputs), device=self.device) >= self.reset_probability
            carry = zero_lanes(carry, keep)
        surprisals, carry = self.surprisals(model, batch, carry)
        total = surprisals.sum()
        if batch.unconditional:
            total = total + batch.unconditional * math.log(self.corpus.vocabulary.size)
        rate = batch.inputs.shape[1] / self.window if self.random_windows else 1.0
        return Loss(total, batch.scored + batch.unconditional, detach(carry), rate)

    def surprisals(
        self, model: LanguageModel, batch: TextBatch, carry: State | None
    ) -> tuple[Tensor, State]:
        """-ln P of each target, (N, T) in nats, 0 where it is not scored, and the state after."""
        logits, carry = self.logits(model, batch, carry)
        each = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            batch.targets.flatten(),
            ignore_index=NOT_SCORED,
            reduction="none",
        )
        return each.view(batch.targets.shape), carry

    def logits(
        self, model: LanguageModel, batch: TextBatch, carry: State | None
    ) -> tuple[Tensor, State]:
        """Logits of what follows each input, (N, T, V) in nats, and the state after."""
        if carry is None or batch.fresh:
            carry = model.initial_state(batch.inputs.shape[0])
        if batch.inputs.shape[1] == 0:
            empty = (*batch.inputs.shape, self.corpus.vocabulary.size)
            return torch.zeros(empty, device=batch.inputs.device), carry
        return self._forward(model, batch, carry)

    def empty_carry(self, model: LanguageModel) -> State:
        """The zero state of the training lanes."""
        return model.initial_state(self.batch_size)

    def _forward(
        self, model: LanguageModel, batch: TextBatch, carry: State
    ) -> tuple[Tensor, State]:
        if batch.borders is None:
            return model(batch.inputs, carry)  # type: ignore[no-any-return]
        # Cut the window at every border of any lane; in between, the layers run as ever.
        anywhere = batch.borders.any(dim=0).nonzero().flatten().tolist()
        length = batch.inputs.shape[1]
        cuts = sorted({0, length, *anywhere})
        logits = []
        for start, stop in itertools.pairwise(cuts):
            carry = zero_lanes(carry, ~batch.borders[:, start])
            piece, carry = model(batch.inputs[:, start:stop], carry)
            logits.append(piece)
        return torch.cat(logits, dim=1), carry

    def _tiles(self, first: int, pairs: int, unconditional: int) -> Iterator[TextBatch]:
        """Windows that each start from the zero state, many at a time."""
        most = min(1 << 16, MOST_LOGITS // self.corpus.vocabulary.size)
        rows = max(1, most // self.window)
        firsts = first + np.arange(0, pairs, self.window)
        stops = np.minimum(firsts + self.window, first + pairs)
        for i in range(0, max(len(firsts), 1), rows):
            group = slice(i, i + rows)
            length = int((stops[group] - firsts[group]).max(initial=0))
            batch = self._cut(firsts[group], length, True, firsts[group], stops[group], first)
            yield batch._replace(unconditional=unconditional if i == 0 else 0)

    def _cut(
        self,
        at: NDArray[np.int64],
        length: int,
        fresh: bool,
        begin: NDArray[np.int64] | None = None,
        end: NDArray[np.int64] | None = None,
        first: int = 0,
    ) -> TextBatch:
        """`length` inputs from each position `at`, and the characters after them as targets.

        Inputs in [begin, end) are asked for their target. A lane whose warm-up would begin
        before `first` is fed something there, and its state is zeroed when it gets to `first`.
        """
        positions = at[:, None] + np.arange(length)
        if self._ids_there is not None:
            inputs, targets = self._read_there(torch.from_numpy(at).to(self.device), length, first)
        else:
            read = np.clip(at[:, None] + np.arange(length + 1), first, len(self.corpus.ids) - 1)
            inputs, targets = _pairs(torch.from_numpy(self.corpus.ids[read].astype(np.int64)))
        scored = targets.numel()
        zeroed = np.zeros(positions.shape, bool)
        if begin is not None and end is not None:
            asked = (positions >= begin[:, None]) & (positions < end[:, None])
            targets[torch.from_numpy(~asked).to(targets.device)] = NOT_SCORED
            scored = int(asked.sum())
            zeroed |= positions == first
        if self._borders is not None:
            after = np.searchsorted(self._borders, positions, side="right")
            zeroed |= self._borders[after - 1] == positions
        borders = torch.from_numpy(zeroed).to(self.device) if zeroed.any() else None
        return TextBatch(inputs.to(self.device), targets.to(self.device), scored, borders, fresh)

    def _read_there(self, at: Tensor, length: int, first: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets from each position of `at`, read where the batch is wanted."""
        assert self._ids_there is not None
        read = at[:, None] + torch.arange(length + 1, device=at.device)
        read.clamp_(first, len(self._ids_there) - 1)
        return _pairs(self._ids_there[read].long())


def _pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and the targets after them from (N, T + 1) ids."""
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _signed(ids: NDArray[Any]) -> Tensor:
    """Ids as a tensor; torch can do little with unsigned integers but bytes."""
    return torch.from_numpy(ids.astype(np.uint8 if ids.dtype == np.uint8 else np.int32))
