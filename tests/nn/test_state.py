"""Nested states: their structure, the order of their tensors, and selecting lanes."""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from charrnn.nn.cells.standard import LSTMState
from charrnn.nn.state import detach, leaves, map_state, replace_leaves, select_lanes, zero_lanes

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


class Pair(NamedTuple):
    left: Any
    right: Any


nested = st.recursive(
    st.integers(),
    lambda parts: st.one_of(st.lists(parts, max_size=3).map(tuple), st.builds(Pair, parts, parts)),
    max_leaves=12,
)


def shape(state: Any) -> Any:
    """Describe a structure by the types of its tuples, with a dot for each tensor."""
    if isinstance(state, tuple):
        return type(state).__name__, [shape(part) for part in state]
    return "."


@PROPERTY
@given(nested)
def test_map_state_keeps_the_structure_and_meets_every_leaf(state: Any) -> None:
    mapped = map_state(lambda leaf: leaf * 3 + 1, state)
    assert shape(mapped) == shape(state)
    assert list(leaves(mapped)) == [leaf * 3 + 1 for leaf in leaves(state)]


@PROPERTY
@given(nested)
def test_map_state_pairs_the_corresponding_leaves(state: Any) -> None:
    negated = map_state(lambda leaf: -leaf, state)
    total = map_state(lambda a, b, c: a + b + c, state, negated, state)
    assert total == state
    assert shape(total) == shape(state)


@PROPERTY
@given(nested)
def test_replace_leaves_round_trip(state: Any) -> None:
    count = len(list(leaves(state)))
    numbered = replace_leaves(state, iter(range(count)))
    assert shape(numbered) == shape(state)
    assert list(leaves(numbered)) == list(range(count))
    assert replace_leaves(numbered, leaves(state)) == state


def test_leaves_are_depth_first_from_left_to_right() -> None:
    assert list(leaves((1, (2, (), Pair(3, (4,))), 5))) == [1, 2, 3, 4, 5]
    assert list(leaves(())) == []
    assert list(leaves(7)) == [7]


def test_a_named_tuple_stays_one() -> None:
    state = (LSTMState(torch.zeros(2, 3), torch.ones(2, 3)),)
    doubled: Any = map_state(lambda leaf: leaf * 2, state)
    assert isinstance(doubled[0], LSTMState)
    assert torch.equal(doubled[0].cell, torch.full((2, 3), 2.0))
    assert torch.equal(doubled[0].hidden, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, (1,)),
        ((1,), 1),
        ((1, 2), (1,)),
        ((1,), (1, 2)),
        ((), (1,)),
        ((), 1),
        ((1, (2, 3)), (1, 2)),
        ((1, 2), (1, (2, 3))),
        ((1, Pair(2, 3)), (1, (2, 3, 4))),
    ],
    ids=str,
)
def test_different_structures_are_refused(first: Any, second: Any) -> None:
    with pytest.raises(ValueError, match="differ in structure"):
        map_state(lambda a, b: a, first, second)


def test_detach_keeps_the_values_and_cuts_the_graph() -> None:
    source = torch.arange(6.0).reshape(2, 3).requires_grad_()
    state: Any = (source * 2, LSTMState(source + 1, source - 1))
    cut: Any = detach(state)
    assert shape(cut) == shape(state)
    for before, after in zip(leaves(state), leaves(cut), strict=True):
        assert before.requires_grad
        assert not after.requires_grad
        assert torch.equal(before, after)


def expected_lanes(choose: list[bool], first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first[i] if choice else second[i] for i, choice in enumerate(choose)])


@PROPERTY
@given(st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.integers(1, 4), max_size=2))
def test_lanes_are_chosen_whatever_the_rank_and_sizes(choose: list[bool], rest: list[int]) -> None:
    first = torch.arange(1.0, 1 + len(choose) * 16).reshape(len(choose), 16)
    first = first[:, : torch.Size(rest).numel()].reshape(len(choose), *rest)
    keep = torch.tensor(choose)
    chosen: Any = select_lanes(keep, (first, Pair(first, -first)), (-first, Pair(-first, first)))
    assert isinstance(chosen[1], Pair)
    for leaf, sign in zip(leaves(chosen), (1, 1, -1), strict=True):
        assert torch.equal(leaf, expected_lanes(choose, sign * first, -sign * first))
    kept: Any = zero_lanes((first,), keep)
    assert torch.equal(kept[0], expected_lanes(choose, first, torch.zeros_like(first)))


@pytest.mark.parametrize("extents", [(3,), (3, 3), (3, 3, 3)], ids=str)
def test_batch_equal_to_width_is_no_special_case(extents: tuple[int, ...]) -> None:
    state = torch.arange(1.0, 1 + torch.Size(extents).numel()).reshape(extents)
    choose = [True, False, True]
    chosen = select_lanes(torch.tensor(choose), state, -state)
    assert isinstance(chosen, Tensor)
    assert torch.equal(chosen, expected_lanes(choose, state, -state))
    kept = zero_lanes(state, torch.tensor(choose))
    assert isinstance(kept, Tensor)
    assert torch.equal(kept, expected_lanes(choose, state, torch.zeros_like(state)))


def test_leaves_of_different_rank_share_one_choice() -> None:
    state = (torch.ones(2), torch.ones(2, 2), torch.ones(2, 2, 2))
    kept = zero_lanes(state, torch.tensor([False, True]))
    for leaf in leaves(kept):
        assert torch.equal(leaf[0], torch.zeros_like(leaf[0]))
        assert torch.equal(leaf[1], torch.ones_like(leaf[1]))


def test_a_zeroed_lane_forgets_what_was_not_a_number() -> None:
    state = torch.tensor([[float("nan"), float("inf")], [1.0, 2.0]])
    kept = zero_lanes(state, torch.tensor([False, True]))
    assert torch.equal(kept, torch.tensor([[0.0, 0.0], [1.0, 2.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64], ids=str)
def test_lanes_keep_their_dtype(dtype: torch.dtype) -> None:
    kept = zero_lanes((torch.ones(2, 3, dtype=dtype),), torch.tensor([True, False]))
    assert [leaf.dtype for leaf in leaves(kept)] == [dtype]


def test_gradients_flow_through_the_chosen_lanes_alone() -> None:
    state = torch.ones(3, 2, requires_grad=True)
    other = torch.ones(3, 2, requires_grad=True)
    chosen = select_lanes(torch.tensor([True, False, True]), state, other)
    assert isinstance(chosen, Tensor)
    chosen.sum().backward()
    assert torch.equal(state.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    assert torch.equal(other.grad, torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
