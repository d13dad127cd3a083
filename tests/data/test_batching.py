"""Batches have each example once an epoch, and similar lengths; they can be resumed and shared."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.data.batching import POOL, Batches, by_length, pad
from charrnn.errors import ConfigError

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


def some_lengths(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 40, count).tolist()


lengths_of = st.builds(some_lengths, st.integers(1, 300), st.integers(0, 99))


def listed(batches: Batches, epoch: int, start: int = 0) -> list[list[int]]:
    return [rows.tolist() for rows in batches.rows(epoch, start)]


@PROPERTY
@given(lengths_of, st.integers(1, 20), st.integers(0, 3))
def test_an_epoch_has_every_example_once_in_batches_of_one_size(
    lengths: list[int], batch_size: int, epoch: int
) -> None:
    batches = Batches(lengths, batch_size, 1)
    found = listed(batches, epoch)
    sizes = [len(rows) for rows in found]
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert len(found) == batches.batches_per_epoch == -(-len(lengths) // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@PROPERTY
@given(lengths_of, st.integers(1, 20), st.integers(0, 3), st.data())
def test_an_epoch_goes_on_from_any_batch(
    lengths: list[int], batch_size: int, epoch: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, -(-len(lengths) // batch_size)))
    whole = listed(Batches(lengths, batch_size, 1), epoch)
    assert (
        listed(Batches(np.array(lengths, np.uint8), batch_size, 1), epoch, start) == whole[start:]
    )


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    batches = Batches([1] * 90, 8, 5)
    first = listed(batches, 0)
    second = listed(batches, 1)
    assert listed(batches, 0) == first
    assert listed(Batches([1] * 90, 8, 6), 0) != first
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # Not the same batches.
    assert first[0] != sorted(first[0])


@PROPERTY
@given(lengths_of, st.integers(4, 20), st.integers(1, 5))
def test_shares_put_together_are_the_batch(lengths: list[int], batch_size: int, count: int) -> None:
    batches = Batches(lengths, batch_size)
    whole = listed(batches, 2)
    if count > min(map(len, whole)):
        with pytest.raises(ConfigError, match=f"among {count} processes; raise training"):
            batches.share(0, count)
        return
    shares = [listed(batches.share(rank, count), 2) for rank in range(count)]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    sizes = [len(rows) for share in shares for rows in share]
    assert min(sizes) >= 1
    assert all(max(map(len, p)) - min(map(len, p)) <= 1 for p in zip(*shares, strict=True))
    assert batches.share(0, count).batches_per_epoch == batches.batches_per_epoch
    assert listed(batches, 2) == whole


def test_a_share_goes_on_from_any_batch() -> None:
    share = Batches(range(100), 7, 3).share(1, 3)
    assert listed(share, 4, 6) == listed(share, 4)[6:]


def padding(batches: list[list[int]], lengths: list[int]) -> float:
    computed = sum(len(rows) * max(lengths[i] for i in rows) for rows in batches)
    return computed / sum(lengths) - 1


def test_examples_of_similar_length_are_together_and_the_lengths_in_no_order() -> None:
    draw = np.random.default_rng(0)
    lengths = (1 + draw.geometric(0.05, 16 * POOL * 2)).tolist()
    found = listed(Batches(lengths, 16), 0)
    shuffled = np.array_split(draw.permutation(len(lengths)), len(found))
    assert padding(found, lengths) < 0.1
    assert padding([rows.tolist() for rows in shuffled], lengths) > 1
    longest = [max(lengths[i] for i in rows) for rows in found]
    halves = [np.mean(longest[:POOL]), np.mean(longest[POOL:])]
    assert abs(halves[0] - halves[1]) < 0.2 * np.mean(longest)
    neighbours = np.corrcoef(longest[:-1], longest[1:])[0, 1]
    assert abs(neighbours) < 0.3


def test_a_pool_is_not_the_whole_epoch() -> None:
    """The shortest examples of each pool share a batch, not the shortest of the epoch."""
    lengths = list(range(4 * POOL * 3))
    short = [rows for rows in listed(Batches(lengths, 4), 0) if min(rows) < 12]
    assert len(short) > 3
    assert all(list(rows) == sorted(rows) for rows in short)


@pytest.mark.parametrize(("count", "batch_size"), [(0, 4), (3, 0)])
def test_no_examples_and_no_room_make_no_batches(count: int, batch_size: int) -> None:
    with pytest.raises(
        ValueError, match=f"cannot make batches of {batch_size} from {count} examples"
    ):
        Batches([1] * count, batch_size)


@pytest.mark.parametrize(("count", "batch_size"), [(3, 32), (7, 4)])
def test_batches_that_are_too_small_to_share(count: int, batch_size: int) -> None:
    with pytest.raises(ConfigError, match="batches of 3 examples cannot be shared among 4 proc"):
        Batches([1] * count, batch_size).share(0, 4)


@PROPERTY
@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 7))
def test_by_length_has_every_example_once_the_shortest_first(
    lengths: list[int], batch_size: int
) -> None:
    found = [rows.tolist() for rows in by_length(lengths, batch_size)]
    order = list(itertools.chain(*found))
    assert order == sorted(range(len(lengths)), key=lambda i: lengths[i])  # Both stable.
    assert [len(rows) for rows in found[:-1]] == [batch_size] * (len(found) - 1)
    assert all(len(rows) <= batch_size for rows in found)


def test_padding_comes_after_the_end() -> None:
    ids, lengths = pad(
        [np.array([3, 1], np.uint8), np.array([], np.uint8), np.array([7, 0, 300])], 9
    )
    assert ids.tolist() == [[3, 1, 9], [9, 9, 9], [7, 0, 300]]
    assert lengths.tolist() == [2, 0, 3]
    assert (ids.dtype, lengths.dtype) == (np.int64, np.int64)
    assert pad([np.array([1]), np.array([1, 2])])[0].tolist() == [[1, 0], [1, 2]]


@pytest.mark.parametrize("count", [0, 2])
def test_padding_of_nothing(count: int) -> None:
    ids, lengths = pad([np.array([], np.uint8)] * count)
    assert ids.shape == (count, 0)
    assert lengths.tolist() == [0] * count


@PROPERTY
@given(st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=9), st.integers(-100, 99))
def test_what_was_padded_is_still_there(sequences: list[list[int]], fill: int) -> None:
    ids, lengths = pad([np.array(sequence, np.uint8) for sequence in sequences], fill)
    for row, length, sequence in zip(ids, lengths, sequences, strict=True):
        assert row[:length].tolist() == sequence
        assert (row[length:] == fill).all()
    assert ids.shape[1] == max(map(len, sequences), default=0)


@PROPERTY
@given(lengths_of, st.integers(1, 20), st.integers(1, 400), st.integers(0, 3))
def test_batches_are_bounded_by_what_they_hold(
    lengths: list[int], batch_size: int, most: int, epoch: int
) -> None:
    batches = Batches(lengths, batch_size, 1, most)
    listed_rows = listed(batches, epoch)
    assert len(listed_rows) == batches.batches_per_epoch
    assert sorted(itertools.chain(*listed_rows)) == list(range(len(lengths)))
    for rows in listed_rows:
        assert len(rows) <= batch_size
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= most
    assert listed(batches, epoch, 2) == listed_rows[2:]
    for rows in by_length(lengths, batch_size, most):
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= most


def test_a_bound_that_no_batch_reaches_changes_nothing() -> None:
    lengths = some_lengths(200, 3)
    assert listed(Batches(lengths, 8, 1, 8 * 40), 4) == listed(Batches(lengths, 8, 1), 4)


def test_a_batch_of_one_long_example_is_shared() -> None:
    batches = Batches([2] * 16 + [100], 8, 1, 50)
    parts = [listed(batches.share(rank, 2), 0) for rank in range(2)]
    assert [sorted(map(len, part)) for part in zip(*parts, strict=True)].count([0, 1]) == 1
    assert [a + b for a, b in zip(*parts, strict=True)] == listed(batches, 0)
