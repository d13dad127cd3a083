"""Text windows: the lanes of training, and what each protocol of scoring scores."""

import functools
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from charrnn.data.corpus import Corpus, Span
from charrnn.data.vocabulary import CharacterVocabulary
from charrnn.errors import ConfigError
from charrnn.nn.models import LanguageModel, language_model
from charrnn.nn.state import State, leaves, map_state
from charrnn.registry import CELLS
from charrnn.training.text_windows import NOT_SCORED, TextBatch, TextWindows
from charrnn.training.trainer import evaluate

SYMBOLS = 7
VOCABULARY = CharacterVocabulary("abcdefg")


def corpus_of(length: int, train: int | None = None, starts: Iterable[int] = (0,)) -> Corpus:
    """Return random ids, the first `train` of them for training and the rest for validation."""
    train = length if train is None else train
    ids = np.random.default_rng(length).integers(0, SYMBOLS, length).astype(np.uint8)
    splits = {"train": Span(0, train, False), "validation": Span(train, length, train > 0)}
    return Corpus(ids, VOCABULARY, splits, np.array(list(starts), np.int64), "", "")


def ramp(length: int) -> Corpus:
    """Return ids that equal their positions, so that a batch shows where it was cut."""
    empty = np.zeros(1, np.int64)
    splits = {"train": Span(0, length, False)}
    return Corpus(np.arange(length), VOCABULARY, splits, empty, "", "")


def windows_over(corpus: Corpus, **options: Any) -> TextWindows:
    return TextWindows(corpus, **{"batch_size": 1, "window": 10} | options)


def make_model(cell: Any = "lstm") -> LanguageModel:
    torch.manual_seed(1)
    model = language_model(SYMBOLS, cell=cell, hidden_sizes=(6, 5), embedding_size=4)
    with torch.no_grad():
        for parameter in model.parameters():
            # An mlstm multiplies two products with weights: at 3 it is chaotic, so rounding grows.
            parameter.mul_(1.5 if cell == "mlstm" else 3)
    return model.eval()


OTHER_CELLS = [cell for cell in CELLS if cell != "lstm"]
MODELS = functools.cache(make_model)
MODEL = MODELS("lstm")


def plain_score(
    model: LanguageModel, corpus: Corpus, span: Span, zero_at: Iterable[int] = ()
) -> float:
    """Sum the surprisal of `span`, with one step of the model for each character.

    The state is zero before the inputs at the positions `zero_at`.
    """
    zeros = set(zero_at)
    first = span.start - span.has_context
    total = 0.0 if span.has_context else math.log(SYMBOLS)
    state = model.initial_state(1)
    with torch.no_grad():
        for position in range(first, span.stop - 1):
            if position in zeros:
                state = model.initial_state(1)
            token = torch.tensor([int(corpus.ids[position])])
            logits, state = model.step(token, state)
            total -= float(functional.log_softmax(logits[0], dim=0)[corpus.ids[position + 1]])
    return total


def score(
    windows: TextWindows, batches: Iterable[TextBatch], model: LanguageModel = MODEL
) -> float:
    return evaluate(model, windows, batches).nats


def scored_positions(windows: TextWindows, batches: Iterable[TextBatch]) -> list[int]:
    """Return the positions of the scored targets, in a corpus of ids that equal their positions."""
    positions: list[int] = []
    for batch in batches:
        asked = batch.targets != NOT_SCORED
        assert int(asked.sum()) == batch.scored
        assert torch.equal(batch.targets[asked], batch.inputs[asked] + 1)
        positions += batch.targets[asked].tolist()
    return positions


@pytest.mark.parametrize(
    ("length", "batch_size", "window"),
    [(26, 2, 4), (26, 1, 4), (100, 7, 3), (100, 7, 1000), (50, 49, 1), (2, 1, 1), (101, 4, 25)],
)
@pytest.mark.parametrize("carry_state", [True, False])
def test_an_epoch_reads_every_lane_once(
    length: int, batch_size: int, window: int, carry_state: bool
) -> None:
    windows = windows_over(
        ramp(length), batch_size=batch_size, window=window, carry_state=carry_state
    )
    batches = list(windows.batches(0))
    inputs = torch.cat([batch.inputs for batch in batches], dim=1)
    targets = torch.cat([batch.targets for batch in batches], dim=1)
    lane = (length - 1) // batch_size
    assert inputs.flatten().tolist() == list(range(batch_size * lane))
    assert inputs.shape == (batch_size, lane)
    assert torch.equal(targets, inputs + 1)
    assert length - 1 - batch_size * lane < batch_size
    assert len(batches) == windows.batches_per_epoch == math.ceil(lane / window)
    assert [batch.inputs.shape[1] for batch in batches[:-1]] == [window] * (len(batches) - 1)
    assert all(batch.scored == batch.targets.numel() for batch in batches)
    assert [batch.fresh for batch in batches] == [
        i == 0 or not carry_state for i in range(len(batches))
    ]
    assert all(batch.borders is None for batch in batches)


def test_the_drawing_in_the_docstring() -> None:
    letters = [chr(ord("A") + i) for i in range(26)]
    batches = [
        ["".join(letters[i] for i in row) for row in batch.inputs.tolist()]
        for batch in windows_over(ramp(26), batch_size=2, window=4).batches(0)
    ]
    assert batches == [["ABCD", "MNOP"], ["EFGH", "QRST"], ["IJKL", "UVWX"]]


@pytest.mark.parametrize("start", [0, 1, 5, 8, 9])
def test_an_epoch_can_be_entered_anywhere(start: int) -> None:
    windows = windows_over(
        corpus_of(100, starts=[0, 17, 60]), batch_size=3, window=4, reset_state_at_documents=True
    )
    whole = list(windows.batches(3))[start:]
    tail = list(windows.batches(0, start))
    assert len(whole) == len(tail) == 9 - start
    for a, b in zip(whole, tail, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
        assert (a.scored, a.fresh, a.unconditional) == (b.scored, b.fresh, b.unconditional)
        assert (a.borders is None) == (b.borders is None)
        if a.borders is not None and b.borders is not None:
            assert torch.equal(a.borders, b.borders)


@pytest.mark.parametrize("batch_size", [10, 11, 1000])
def test_more_lanes_than_characters(batch_size: int) -> None:
    with pytest.raises(ConfigError, match=r"10 characters .* training\.batch_size to at most 9"):
        windows_over(ramp(10), batch_size=batch_size)
    assert windows_over(ramp(10), batch_size=9).batches_per_epoch == 1


def test_training_stays_within_its_split() -> None:
    corpus = ramp(100)
    corpus.splits["train"] = Span(20, 60, True)
    batches = list(windows_over(corpus, batch_size=3, window=5).batches(0))
    inputs = torch.cat([batch.inputs for batch in batches], dim=1)
    assert (int(inputs.min()), int(inputs.max())) == (19, 57)


LENGTH = 701


@functools.cache
def plain_score_of_validation(cell: str, train: int, zero_at: tuple[int, ...] = ()) -> float:
    """Return the score of the last LENGTH - `train` characters, for several tests."""
    corpus = corpus_of(LENGTH, train)
    return plain_score(MODELS(cell), corpus, corpus.splits["validation"], zero_at)


@pytest.mark.parametrize(
    ("cell", "train", "window", "batch_size"),
    [
        *(("lstm", train, *rest) for train in (0, 300) for rest in (
            (1, 1), (10, 1), (100, 1), (1000, 1), (10, 7), (1000, 64))),
        *((cell, 300, 100, 7) for cell in OTHER_CELLS),
    ],
)  # fmt: skip
def test_the_score_depends_on_no_window_and_no_batch(
    cell: str, train: int, window: int, batch_size: int
) -> None:
    model, corpus = MODELS(cell), corpus_of(LENGTH, train)
    span = corpus.splits["validation"]
    if train == 0:
        del corpus.splits["train"]
    windows = windows_over(corpus, batch_size=batch_size, window=window + 3)
    result = evaluate(model, windows, windows.unbroken(span, window))
    assert result.nats == pytest.approx(plain_score_of_validation(cell, train), rel=1e-5)
    assert result.scored == len(span)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 60),
    before=st.integers(0, 5),
    after=st.integers(0, 3),
    window=st.integers(1, 70),
)
def test_unbroken_scores_every_character_once(
    length: int, before: int, after: int, window: int
) -> None:
    corpus = ramp(before + length + after)
    del corpus.splits["train"]
    span = Span(before, before + length, before > 0)
    windows = windows_over(corpus)
    batches = list(windows.unbroken(span, window))
    first = span.start if span.has_context else span.start + 1
    assert scored_positions(windows, batches) == list(range(first, span.stop))
    assert sum(batch.unconditional for batch in batches) == int(not span.has_context)
    assert [batch.fresh for batch in batches] == [i == 0 for i in range(len(batches))]


@pytest.mark.parametrize("length", [1, 2, 13])
def test_the_first_character_without_context_costs_ln_v(length: int) -> None:
    corpus = corpus_of(40, 20)
    del corpus.splits["train"]
    windows = windows_over(corpus)
    alone = score(windows, windows.unbroken(Span(20, 20 + length, False), 10))
    rest = score(windows, windows.unbroken(Span(21, 20 + length, True), 10)) if length > 1 else 0.0
    assert alone == pytest.approx(math.log(SYMBOLS) + rest, rel=1e-5)


@pytest.mark.parametrize("has_context", [True, False])
@pytest.mark.parametrize("carry_state", [True, False])
@pytest.mark.parametrize("reset", [True, False])
def test_a_split_of_one_character(has_context: bool, carry_state: bool, reset: bool) -> None:
    corpus = corpus_of(5, 4, starts=[0, 4])
    span = Span(4, 5, has_context)
    windows = windows_over(corpus, carry_state=carry_state, reset_state_at_documents=reset)
    expected = plain_score(MODEL, corpus, span)
    for batches in (windows.unbroken(span, 10), windows.in_lanes(span, 64, 1000, 4096)):
        result = evaluate(MODEL, windows, batches)
        assert result.scored == 1
        assert result.nats == pytest.approx(expected, rel=1e-5)


def test_a_text_of_one_character() -> None:
    corpus = corpus_of(1)
    del corpus.splits["train"]
    windows = windows_over(corpus)
    result = evaluate(MODEL, windows, windows.unbroken(Span(0, 1, False), 10))
    assert (result.nats, result.scored) == (pytest.approx(math.log(SYMBOLS)), 1)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 900),
    before=st.integers(0, 400),
    lanes=st.integers(1, 70),
    warmup=st.integers(0, 1000),
    most=st.integers(1, 300),
)
def test_lanes_score_no_character_twice(
    length: int, before: int, lanes: int, warmup: int, most: int
) -> None:
    corpus = ramp(before + length + 3)
    del corpus.splits["train"]
    span = Span(before, before + length, before > 0)
    windows = windows_over(corpus)
    batches = list(windows.in_lanes(span, lanes, warmup, most))
    positions = scored_positions(windows, batches)
    assert len(set(positions)) == len(positions)
    first = span.start if span.has_context else span.start + 1
    everything = range(first, span.stop)
    assert set(positions) <= set(everything)
    used = max(1, min(lanes, len(everything)))
    if most >= math.ceil(len(everything) / used):
        assert sorted(positions) == list(everything)
    else:
        assert len(positions) >= used * min(most, len(everything) // used)
    assert len(positions) <= used * most
    assert sum(batch.unconditional for batch in batches) == int(not span.has_context)
    read = [p for batch in batches for p in batch.inputs.flatten().tolist()]
    assert not read or min(read) >= span.start - span.has_context


def test_lanes_lie_evenly_over_the_split() -> None:
    windows = windows_over(ramp(1001))
    positions = scored_positions(windows, windows.in_lanes(Span(1, 1001, True), 4, 0, 3))
    assert sorted(positions) == [1, 2, 3, 251, 252, 253, 501, 502, 503, 751, 752, 753]


@pytest.mark.parametrize(
    ("cell", "train", "lanes", "warmup"),
    [
        *(("lstm", *rest, LENGTH) for rest in itertools.product((0, 1, 500), (1, 3, 64))),
        ("lstm", 500, 3, 10**6),
        *((cell, 500, 3, LENGTH) for cell in OTHER_CELLS),
    ],
)
def test_a_long_warm_up_gives_the_unbroken_score(
    cell: str, train: int, lanes: int, warmup: int
) -> None:
    model, corpus = MODELS(cell), corpus_of(LENGTH, train)
    span = corpus.splits.pop("validation")
    del corpus.splits["train"]
    windows = windows_over(corpus)
    whole = evaluate(model, windows, windows.unbroken(span, 100))
    estimate = evaluate(model, windows, windows.in_lanes(span, lanes, warmup, LENGTH))
    assert estimate.scored == whole.scored == len(span)
    assert estimate.nats == pytest.approx(whole.nats, rel=1e-5)


@pytest.mark.parametrize("warmup", [0, 5, 300])
def test_each_lane_warms_up_on_what_stands_before_it(warmup: int) -> None:
    corpus = corpus_of(LENGTH, 100)
    span = corpus.splits["validation"]
    windows = windows_over(corpus)
    pairs, lanes, first = len(span), 3, span.start - 1
    expected = 0.0
    for lane in range(lanes):
        start, stop = first + pairs * lane // lanes, first + pairs * (lane + 1) // lanes
        begin = max(first, start - warmup)
        reading = plain_score(MODEL, corpus, Span(begin + 1, stop + 1, True))
        warming = plain_score(MODEL, corpus, Span(begin + 1, start + 1, True))
        expected += reading - warming
    estimate = evaluate(MODEL, windows, windows.in_lanes(span, lanes, warmup, LENGTH))
    assert estimate.nats == pytest.approx(expected, rel=1e-5)
    assert estimate.scored == len(span)


def test_a_longer_warm_up_changes_what_is_read_not_what_is_scored() -> None:
    windows = windows_over(ramp(LENGTH))
    span = Span(1, LENGTH, True)
    plain = scored_positions(windows, windows.in_lanes(span, 5, 0, 50))
    for warmup in (1, 255, 256, 257, 5000):
        batches = list(windows.in_lanes(span, 5, warmup, 50))
        assert sorted(scored_positions(windows, batches)) == sorted(plain)
        assert sum(b.inputs.shape[1] for b in batches) == 50 + min(warmup, 4 * (LENGTH - 1) // 5)


STARTS = [0, 3, 4, 90, 200, 203, 300, 450, 640, 700]


@pytest.mark.parametrize(
    ("cell", "window", "train"),
    [
        *(("lstm", *rest) for rest in itertools.product((1, 3, 100, 1000), (0, 300))),
        *((cell, 100, 300) for cell in OTHER_CELLS),
    ],
)
def test_the_state_is_zero_where_a_document_begins(cell: str, window: int, train: int) -> None:
    model, corpus = MODELS(cell), corpus_of(LENGTH, train, STARTS)
    span = corpus.splits["validation"]
    del corpus.splits["train"]
    windows = windows_over(corpus, reset_state_at_documents=True)
    expected = plain_score_of_validation(cell, train, tuple(STARTS))
    assert score(windows, windows.unbroken(span, window), model) == pytest.approx(
        expected, rel=1e-5
    )
    lanes = windows.in_lanes(span, 5, LENGTH, LENGTH)
    assert score(windows, lanes, model) == pytest.approx(expected, rel=1e-5)
    assert plain_score_of_validation(cell, train) != pytest.approx(expected, rel=1e-4)


def lane_losses(corpus: Corpus, windows: TextWindows, zero_at: Iterable[int]) -> float:
    total = 0.0
    for lane in range(windows.batch_size):
        start = lane * windows.lane_length
        span = Span(start + 1, start + windows.lane_length + 1, True)
        total += plain_score(MODEL, corpus, span, zero_at)
    return total


@pytest.mark.parametrize("window", [1, 4, 30, 1000])
@pytest.mark.parametrize("reset", [True, False])
def test_the_training_loss_does_not_notice_the_windows(window: int, reset: bool) -> None:
    corpus = corpus_of(200, starts=[0, 10, 11, 70, 134])
    windows = windows_over(corpus, batch_size=3, window=window, reset_state_at_documents=reset)
    zero_at = corpus.document_starts.tolist() if reset else []
    expected = lane_losses(corpus, windows, zero_at)
    assert score(windows, windows.batches(0)) == pytest.approx(expected, rel=1e-5)


def test_the_state_at_the_end_of_a_window_is_that_of_the_unbroken_run() -> None:
    corpus = corpus_of(200)
    windows = windows_over(corpus, batch_size=3, window=7)
    carry: State | None = None
    with torch.no_grad():
        for batch in windows.batches(0):
            carry = windows.loss(MODEL, batch, carry).carry
        inputs = torch.cat([batch.inputs for batch in windows.batches(0)], dim=1)
        _, state = MODEL(inputs, MODEL.initial_state(3))
    assert carry is not None
    for ours, whole in zip(leaves(carry), leaves(state), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


def test_a_new_epoch_starts_from_the_zero_state() -> None:
    windows = windows_over(corpus_of(100), batch_size=3, window=50)
    (batch,) = windows.batches(0)
    with torch.no_grad():
        first = windows.loss(MODEL, batch, None)
        again = windows.loss(MODEL, batch, first.carry)
        going_on = windows.loss(MODEL, batch._replace(fresh=False), first.carry)
    assert torch.equal(first.total, again.total)
    assert not torch.equal(first.total, going_on.total)


@pytest.mark.parametrize("window", [1, 4, 50, 1000])
@pytest.mark.parametrize("train", [0, 300])
def test_without_carried_state_each_window_starts_from_zero(window: int, train: int) -> None:
    corpus = corpus_of(LENGTH, train)
    span = corpus.splits["validation"]
    del corpus.splits["train"]
    windows = windows_over(corpus, window=window, carry_state=False)
    first = span.start - span.has_context
    expected = plain_score(MODEL, corpus, span, zero_at=range(first, LENGTH, window))
    for batches in (windows.unbroken(span, 13), windows.in_lanes(span, 8, 99, LENGTH)):
        result = evaluate(MODEL, windows, batches)
        assert result.nats == pytest.approx(expected, rel=1e-5)
        assert result.scored == len(span)


def test_without_carried_state_training_windows_start_from_zero() -> None:
    corpus = corpus_of(200)
    windows = windows_over(corpus, batch_size=3, window=7, carry_state=False)
    lane = windows.lane_length
    zero_at = [p * lane + offset for p in range(3) for offset in range(0, lane, 7)]
    expected = lane_losses(corpus, windows, zero_at)
    assert score(windows, windows.batches(0)) == pytest.approx(expected, rel=1e-5)


def test_without_carried_state_the_estimate_is_bounded() -> None:
    windows = windows_over(ramp(LENGTH), window=7, carry_state=False)
    positions = scored_positions(windows, windows.in_lanes(Span(1, LENGTH, True), 4, 0, 20))
    assert positions == list(range(1, 81))


def gradients(loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(MODEL.parameters())))


def stepped_loss(batch: TextBatch, state: State) -> tuple[Tensor, State]:
    total = torch.zeros(())
    for t in range(batch.inputs.shape[1]):
        logits, state = MODEL.step(batch.inputs[:, t], state)
        total = total + functional.cross_entropy(logits, batch.targets[:, t], reduction="sum")
    return total, state


def test_gradients_stop_at_the_edges_of_windows() -> None:
    windows = windows_over(corpus_of(100), batch_size=3, window=12)
    first, second = itertools.islice(windows.batches(0), 2)
    before = windows.loss(MODEL, first, None)
    assert before.carry is not None
    assert before.total.requires_grad
    assert not any(leaf.requires_grad for leaf in leaves(before.carry))
    ours = gradients(windows.loss(MODEL, second, before.carry).total)

    _, state = stepped_loss(first, MODEL.initial_state(3))
    truncated, _ = stepped_loss(second, map_state(lambda leaf: leaf.detach(), state))
    unbroken, _ = stepped_loss(second, state)
    assert torch.equal(truncated, unbroken)
    for mine, plain in zip(ours, gradients(truncated), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)
    norms = [(a - b).norm() / b.norm() for a, b in zip(ours, gradients(unbroken), strict=True)]
    assert max(norms) > 1e-2


def test_no_gradient_crosses_the_border_of_a_document() -> None:
    corpus = corpus_of(40, starts=[0, 25])
    windows = windows_over(corpus, window=39, reset_state_at_documents=True)
    (batch,) = windows.batches(0)
    each, _ = windows.surprisals(MODEL, batch, None)
    alone, _ = windows.surprisals(
        MODEL, batch._replace(inputs=batch.inputs[:, 25:], targets=batch.targets[:, 25:],
                              borders=None), None,
    )  # fmt: skip
    torch.testing.assert_close(each[:, 25:], alone, rtol=1e-5, atol=1e-6)
    for whole, part in zip(gradients(each[:, 25:].sum()), gradients(alone.sum()), strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-4, atol=1e-5)


def test_surprisals_are_those_of_the_loss() -> None:
    windows = windows_over(corpus_of(100))
    batch = next(windows.in_lanes(Span(50, 100, True), 4, 10, 100))
    with torch.no_grad():
        each, _ = windows.surprisals(MODEL, batch, None)
        loss = windows.loss(MODEL, batch, None)
    assert each.shape == batch.targets.shape
    assert bool((each[batch.targets == NOT_SCORED] == 0).all())
    assert float(each.sum()) == pytest.approx(float(loss.total))
    assert loss.scored == batch.scored == int((batch.targets != NOT_SCORED).sum())


def test_an_empty_carry_has_the_shape_of_a_real_one() -> None:
    windows = windows_over(corpus_of(100), batch_size=3)
    carry = windows.loss(MODEL, next(windows.batches(0)), None).carry
    assert carry is not None
    empty = windows.empty_carry(MODEL)
    assert [leaf.shape for leaf in leaves(carry)] == [leaf.shape for leaf in leaves(empty)]
    assert all(bool((leaf == 0).all()) for leaf in leaves(empty))
