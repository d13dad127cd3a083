"""Nested state: the tensors that a recurrent system carries from one step to the next.

A state is a tensor, a tuple of states (a `NamedTuple` keeps its type and its field names), or the
empty tuple for a system that carries nothing. The tensors are its leaves. The first axis of every
leaf is the batch. This module does not import torch: anything that is not a tuple is a leaf, so the
functions work on numpy arrays too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    State: TypeAlias = Tensor | tuple["State", ...]
else:
    State = Any


def map_state(function: Callable[..., Any], *states: State) -> State:
    """Apply `function` to the corresponding leaves of states that have the same structure.

    Raises ValueError if the structures differ.

    >>> map_state(lambda a, b: a + b, (1, (2, 3)), (10, (20, 30)))
    (11, (22, 33))
    """
    first = states[0]
    if not isinstance(first, tuple):
        if any(isinstance(other, tuple) for other in states):
            raise ValueError("states differ in structure: one has a leaf where another has a tuple")
        return function(*states)  # type: ignore[no-any-return]
    if any(not isinstance(other, tuple) or len(other) != len(first) for other in states):
        raise ValueError(f"states differ in structure: not all have a tuple of {len(first)} parts")
    parts = [map_state(function, *children) for children in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def leaves(state: State) -> Iterator[Tensor]:
    """Iterate over the leaves of a state, depth first and left to right.

    >>> list(leaves((1, (2, 3))))
    [1, 2, 3]
    """
    if isinstance(state, tuple):
        for child in state:
            yield from leaves(child)
    else:
        yield state


def replace_leaves(state: State, new: Iterator[Tensor]) -> State:
    """Return the same structure with the leaves of `new`, taken in the order of `leaves`."""
    return map_state(lambda _: next(new), state)


def detach(state: State) -> State:
    """Return the same values without the graph that computed them: the cut of truncated BPTT.

    >>> import torch
    >>> weight = torch.ones(1, requires_grad=True)
    >>> detach((weight * 2, weight * 3))
    (tensor([2.]), tensor([3.]))
    """
    return map_state(lambda leaf: leaf.detach(), state)


def zero_lanes(state: State, keep: Tensor) -> State:
    """Zero the state of every lane where `keep`, of shape (batch,), is False."""
    return select_lanes(keep, state, map_state(lambda leaf: leaf.new_zeros(()), state))


def select_lanes(choose: Tensor, state: State, other: State) -> State:
    """Select each lane from `state` where `choose` (batch,) is True, else from `other`.

    `choose` is broadcast to the rank of each leaf, so the result never depends on sizes that happen
    to be equal.
    """

    def choose_leaf(leaf: Tensor, alternative: Tensor) -> Tensor:
        condition = choose.reshape(-1, *[1] * (leaf.dim() - 1))
        return leaf.where(condition, alternative)

    return map_state(choose_leaf, state, other)
