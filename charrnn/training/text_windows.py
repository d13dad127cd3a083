r"""Batches of a long text for truncated backpropagation through time, and for its score.

Training reads the text in **lanes**: at several places side by side, one for each row of a batch.
With 26 letters, 2 lanes and a window of 4::

    lane 0   A B C D | E F G H | I J K L      (M is only a target here)
    lane 1   M N O P | Q R S T | U V W X
             batch 0   batch 1   batch 2      then a new epoch: back to the zero state

Each batch is the next window of every lane, and its targets are the same windows one character
later. The hidden state at the end of a window is carried, detached, into the next one: the forward
pass is the same as over an uninterrupted lane, and gradients stop at the edges of the windows
(Werbos 1990; Williams and Peng 1990). The batches of an epoch are a pure function of the position.
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

NOT_SCORED = -100  # stands for a target that is not scored: cross_entropy's `ignore_index`
MOST_LOGITS = 1 << 25  # logits computed at a time in scoring: 128 MiB in float32
SHORTEST_WINDOW, WINDOW_DEVIATION = 5, 5  # for random windows: Merity et al. 2018, section 5
FULL_WINDOWS = 0.95  # the share of random windows that are not around half of `window`

Positions = NDArray[np.int64]


class TextBatch(NamedTuple):
    """One window of N lanes, T characters long."""

    inputs: Tensor  # (N, T) ids
    targets: Tensor  # (N, T) ids, or NOT_SCORED
    scored: int  # the number of targets that are not NOT_SCORED
    borders: Tensor | None  # (N, T), True where the state is zeroed before the input
    fresh: bool  # start from the zero state, not from the carried one
    unconditional: int = 0  # characters with nothing before them, which cost ln V each


class _Scored(NamedTuple):
    """The part of a text that each lane is scored on. A lane may read more than that."""

    begin: Positions  # (N,), the position of the first input with a scored target
    end: Positions  # (N,), one more than the position of the last such input
    first: int  # the position of the first input of the text that is scored


class TextWindows:
    """The objective of a language model: predict the next symbol of a corpus.

    The loss is the cross-entropy -sum ln P(target | all inputs before it) in nats.

    Args:
        corpus: ids and their splits; lanes are cut from the split `train`, if there is one
        batch_size: number of lanes
        window: symbols that each lane reads in a training step
        carry_state: without it, every window starts from the zero state, in training and in scoring
        reset_state_at_documents: zero the state where a document begins, inside a window too
        random_windows: begin the first lane of an epoch at a random position, and draw the length
            of each window from a normal distribution around `window`, or around half of it for one
            window in twenty; the learning rate is scaled with the length (AWD-LSTM: Merity et al.
            2018, section 5)
        reset_probability: how often the state of a lane is zeroed at the start of a training window
        seed: decides the draws of `random_windows`, together with the epoch
        device: holds the batches

    Raises ConfigError if the training split has fewer symbols than lanes.

    >>> from charrnn.data.vocabulary import CharacterVocabulary
    >>> vocabulary = CharacterVocabulary("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    >>> splits = {"train": Span(0, 26, False)}
    >>> corpus = Corpus(np.arange(26), vocabulary, splits, np.zeros(1, int), "", "")
    >>> for batch in TextWindows(corpus, batch_size=2, window=4).batches(epoch=0):
    ...     print([vocabulary.decode(lane.tolist()) for lane in batch.inputs])
    ['ABCD', 'MNOP']
    ['EFGH', 'QRST']
    ['IJKL', 'UVWX']
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
        self._document_starts = corpus.document_starts if reset_state_at_documents else None
        # A GPU gets the whole text once, unless the text is so long that it stays in a file.
        self._ids_on_gpu: Tensor | None = None
        if self.device.type == "cuda" and isinstance(corpus.ids, np.ndarray):
            self._ids_on_gpu = _signed(corpus.ids).to(self.device)
        train = corpus.splits.get("train")
        if train is not None:
            self._first = train.start - train.has_context
            self.lane_length = (train.stop - 1 - self._first) // batch_size
            if self.lane_length < 1:
                raise ConfigError(
                    f"a training split of {len(train):,} characters cannot fill "
                    f"{batch_size:,} lanes; set training.batch_size to at most {len(train) - 1:,}"
                )
            self.batches_per_epoch = math.ceil(self.lane_length / window)
        self._all_lanes = batch_size
        self._own_lanes = range(batch_size)  # fewer after `share`

    def share(self, rank: int, count: int) -> TextWindows:
        """Return the same objective on share number `rank` of `count` equal shares of lanes."""
        part = copy.copy(self)
        lanes = self.batch_size
        part._own_lanes = self._own_lanes[lanes * rank // count : lanes * (rank + 1) // count]
        part.batch_size = len(part._own_lanes)
        return part

    # Training ------------------------------------------------------------------------------------

    def batches(self, epoch: int, start: int = 0) -> Iterator[TextBatch]:
        """Yield the windows of every lane in reading order, from batch number `start` on.

        Every epoch is the same, except with `random_windows`.
        """
        first, lane_length, edges = self._windows(epoch)
        lanes = first + lane_length * np.array(self._own_lanes)
        on_gpu = None
        if self._ids_on_gpu is not None and self._document_starts is None:
            on_gpu = torch.from_numpy(lanes).to(self.device)
        for i, (begin, end) in enumerate(itertools.pairwise(edges)):
            if i < start:
                continue
            fresh = i == 0 or not self.carry_state
            if on_gpu is None:
                yield self._cut(lanes + begin, end - begin, fresh)
            else:  # Nothing is copied to the GPU, so that it need not wait.
                inputs, targets = self._read_on_gpu(on_gpu + begin, end - begin, 0)
                yield TextBatch(inputs, targets, targets.numel(), None, fresh)

    def _windows(self, epoch: int) -> tuple[int, int, list[int]]:
        """Return where the first lane of an epoch begins, the length of the lanes, and the edges of
        the windows within a lane."""
        length = self.lane_length
        if not self.random_windows:
            return self._first, length, [*range(0, length, self.window), length]
        draw = np.random.default_rng([self.seed, epoch])
        shift = int(draw.integers(length))
        length = max(1, (length * self._all_lanes - shift) // self._all_lanes)
        edges = [0]
        while edges[-1] < length:
            mean = self.window if draw.random() < FULL_WINDOWS else self.window / 2
            size = max(SHORTEST_WINDOW, int(draw.normal(mean, WINDOW_DEVIATION)))
            edges.append(min(length, edges[-1] + size))
        return self._first + shift, length, edges

    # Scoring -------------------------------------------------------------------------------------

    def unbroken(self, span: Span, window: int) -> Iterator[TextBatch]:
        """Yield the batches of the score: one pass over `span`, every character scored once::

            one lane   A B C D | E F G H | I J K L     from the zero state, carried to the end

        The first input is the character before the span; if there is none, the first character
        costs ln V. `window` characters are computed at a time, which does not change the score. If
        no state is carried, windows of the training length tile the span instead.
        """
        first, pairs, unconditional = _inputs_of(span)
        if not self.carry_state:
            yield from self._windows_from_zero(first, pairs, unconditional)
            return
        for offset in range(0, max(pairs, 1), window):
            length = min(window, pairs - offset)
            batch = self._cut(np.array([first + offset]), length, fresh=offset == 0)
            yield batch._replace(unconditional=unconditional if offset == 0 else 0)

    def in_lanes(self, span: Span, lanes: int, warmup: int, most: int) -> Iterator[TextBatch]:
        """Yield the batches of a cheap estimate of the score, in lanes spread evenly over `span`.

        Each lane first reads the `warmup` characters before its part, so that its state is close to
        that of the unbroken pass. It is scored on at most `most` characters. With 3 lanes and a
        warm-up of 2::

            lane 0   . . | A B C D     . is outside the span, so the state is zeroed before A
            lane 1   C D | E F G H
            lane 2   G H | I J K L
               warm-up     scored
        """
        first, pairs, unconditional = _inputs_of(span)
        if not self.carry_state:
            yield from self._windows_from_zero(first, min(pairs, lanes * most), unconditional)
            return
        lanes = max(1, min(lanes, pairs))
        edges = first + (pairs * np.arange(lanes + 1)) // lanes
        begins, ends = edges[:-1], np.minimum(edges[1:], edges[:-1] + most)
        scored = _Scored(begins, ends, first)
        warmup = min(warmup, int(begins[-1]) - first)
        longest = int((ends - begins).max())
        window = max(1, min(256, MOST_LOGITS // (lanes * self.corpus.vocabulary.size)))
        for offset in range(-warmup, max(longest, 1 - warmup), window):
            length = min(window, longest - offset)
            batch = self._cut(begins + offset, length, offset == -warmup, scored)
            yield batch._replace(unconditional=unconditional if offset == -warmup else 0)

    def _windows_from_zero(self, first: int, pairs: int, unconditional: int) -> Iterator[TextBatch]:
        """Yield windows that each start from the zero state, many of them side by side::

            row 0   A B C D
            row 1   E F G H
            row 2   I J . .

        Symbols past the end of the text are not scored.
        """
        most = min(1 << 16, MOST_LOGITS // self.corpus.vocabulary.size)
        rows = max(1, most // self.window)
        begins = first + np.arange(0, pairs, self.window)
        ends = np.minimum(begins + self.window, first + pairs)
        for i in range(0, max(len(begins), 1), rows):
            begin, end = begins[i : i + rows], ends[i : i + rows]
            length = int((end - begin).max(initial=0))
            batch = self._cut(begin, length, True, _Scored(begin, end, first))
            yield batch._replace(unconditional=unconditional if i == 0 else 0)

    # Loss ----------------------------------------------------------------------------------------

    def loss(self, model: LanguageModel, batch: TextBatch, carry: State | None) -> Loss:
        """Sum the cross-entropy of the scored targets, in nats."""
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
        """Return -ln P of each target, (N, T) in nats, 0 if it is not scored, and the new state."""
        logits, carry = self.logits(model, batch, carry)
        nats = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            batch.targets.flatten(),
            ignore_index=NOT_SCORED,
            reduction="none",
        )
        return nats.view(batch.targets.shape), carry

    def logits(
        self, model: LanguageModel, batch: TextBatch, carry: State | None
    ) -> tuple[Tensor, State]:
        """Return the logits of the symbol after each input, (N, T, V), and the new state."""
        if carry is None or batch.fresh:
            carry = model.initial_state(batch.inputs.shape[0])
        if batch.inputs.shape[1] == 0:
            empty = (*batch.inputs.shape, self.corpus.vocabulary.size)
            return torch.zeros(empty, device=batch.inputs.device), carry
        return self._forward(model, batch, carry)

    def empty_carry(self, model: LanguageModel) -> State:
        """Return the zero state of the training lanes."""
        return model.initial_state(self.batch_size)

    def _forward(
        self, model: LanguageModel, batch: TextBatch, carry: State
    ) -> tuple[Tensor, State]:
        """Run the model, zeroing the state of a lane at each of its borders.

        The window is cut at every border of any lane, so that the layers run as usual in between::

            lane 0   A B C D | E F G H     a border before E in lane 0
            lane 1   M N O P | Q R S T     no border, but the same cut
        """
        if batch.borders is None:
            return model(batch.inputs, carry)  # type: ignore[no-any-return]
        borders = batch.borders.any(dim=0).nonzero().flatten().tolist()
        length = batch.inputs.shape[1]
        cuts = sorted({0, length, *borders})
        logits = []
        for begin, end in itertools.pairwise(cuts):
            carry = zero_lanes(carry, ~batch.borders[:, begin])
            piece, carry = model(batch.inputs[:, begin:end], carry)
            logits.append(piece)
        return torch.cat(logits, dim=1), carry

    # Cutting -------------------------------------------------------------------------------------

    def _cut(
        self, at: Positions, length: int, fresh: bool, scored: _Scored | None = None
    ) -> TextBatch:
        """Cut `length` inputs from each position in `at`, with the next characters as targets::

            at     3, length 4        positions   3 4 5 6
            text   A B C D E F G H    inputs      D E F G
                                      targets     E F G H

        `scored` says which targets count; without it, all of them do. A lane may begin before the
        first position of the scored text. It then reads arbitrary symbols up to there, and its
        state is zeroed at that position.
        """
        positions = at[:, None] + np.arange(length)
        inputs, targets = self._read(at, length, scored.first if scored else 0)
        count = targets.numel()
        zeroed = self._is_document_start(positions)
        if scored is not None:
            asked = (positions >= scored.begin[:, None]) & (positions < scored.end[:, None])
            targets[torch.from_numpy(~asked).to(targets.device)] = NOT_SCORED
            count = int(asked.sum())
            zeroed |= positions == scored.first
        borders = torch.from_numpy(zeroed).to(self.device) if zeroed.any() else None
        return TextBatch(inputs.to(self.device), targets.to(self.device), count, borders, fresh)

    def _read(self, at: Positions, length: int, first: int) -> tuple[Tensor, Tensor]:
        """Read inputs and targets; positions outside the text are moved to its nearest symbol."""
        if self._ids_on_gpu is not None:
            return self._read_on_gpu(torch.from_numpy(at).to(self.device), length, first)
        positions = np.clip(at[:, None] + np.arange(length + 1), first, len(self.corpus.ids) - 1)
        return _pairs(torch.from_numpy(self.corpus.ids[positions].astype(np.int64)))

    def _read_on_gpu(self, at: Tensor, length: int, first: int) -> tuple[Tensor, Tensor]:
        """Do as `_read`, with ids and positions `at` that lie on the GPU."""
        assert self._ids_on_gpu is not None
        positions = at[:, None] + torch.arange(length + 1, device=at.device)
        positions.clamp_(first, len(self._ids_on_gpu) - 1)
        return _pairs(self._ids_on_gpu[positions].long())

    def _is_document_start(self, positions: Positions) -> NDArray[np.bool_]:
        """Say for each position whether the state is zeroed there, as a document begins."""
        if self._document_starts is None:
            return np.zeros(positions.shape, bool)
        after = np.searchsorted(self._document_starts, positions, side="right")
        is_start: NDArray[np.bool_] = self._document_starts[after - 1] == positions
        return is_start


def _inputs_of(span: Span) -> tuple[int, int, int]:
    """Return the position of the first input of a span, the number of pairs of input and target,
    and the number of characters that have no input (0 or 1)."""
    first = span.start - span.has_context
    return first, span.stop - 1 - first, 0 if span.has_context else 1


def _pairs(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Split (N, T + 1) ids into inputs (N, T) and targets (N, T), one later."""
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _signed(ids: NDArray[Any]) -> Tensor:
    """Make a tensor of ids in a type that torch can index with; the only unsigned one is uint8."""
    return torch.from_numpy(ids.astype(np.uint8 if ids.dtype == np.uint8 else np.int32))
