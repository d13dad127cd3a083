"""Attention against its equations in float64 numpy, also where sizes are equal."""

from typing import Any

import numpy as np
import pytest
import torch

from charrnn.nn.attention import Attention, Score

SCORES: list[Score] = ["additive", "dot", "general"]
D, E = 4, 5
SIZES = [(3, 2, 5), (4, 4, 4), (5, 5, 2), (1, 1, 1)]  # N, T, S


def attention_of(score: Score, seed: int = 1) -> Attention:
    torch.manual_seed(seed)
    memory = D if score == "dot" else E
    return Attention(score, D, memory, hidden_size=3).double()


def numbers(*shape: int, seed: int = 2) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def reference(
    attention: Attention, queries: Any, values: Any, lengths: list[int]
) -> tuple[Any, Any]:
    """Compute attention one lane, one query and one entry at a time."""
    weights = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    lanes, steps, entries = len(queries), queries.shape[1], values.shape[1]
    looks = np.zeros((lanes, steps, entries))
    contexts = np.zeros((lanes, steps, values.shape[2]))
    for n in range(lanes):
        for t in range(steps):
            scores = []
            for s in range(lengths[n]):
                q, m = queries[n, t], values[n, s]
                if attention.score == "dot":
                    scores.append(q @ m)
                elif attention.score == "general":
                    scores.append(q @ (weights["key.weight"] @ m))
                else:
                    hidden = np.tanh(weights["query.weight"] @ q + weights["key.weight"] @ m)
                    scores.append(weights["weight"] @ hidden)
            powers = np.exp(np.array(scores))
            looks[n, t, : lengths[n]] = powers / powers.sum()
            contexts[n, t] = sum(looks[n, t, s] * values[n, s] for s in range(lengths[n]))
    return contexts, looks


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_weights_and_contexts_are_those_of_the_equations(
    score: Score, sizes: tuple[int, int, int]
) -> None:
    n, t, s = sizes
    attention = attention_of(score)
    width = D if score == "dot" else E
    queries, values = numbers(n, t, D), numbers(n, s, width, seed=3)
    lengths = [1 + (3 * lane + s - 1) % s for lane in range(n)]
    contexts, looks = reference(attention, queries, values, lengths)
    for lane in range(n):
        values[lane, lengths[lane] :] = (np.nan, np.inf)[lane % 2]
    memory = attention.remember(torch.tensor(values), torch.tensor(lengths))
    actual, weights = attention(torch.tensor(queries), memory)
    assert actual.shape == (n, t, width)
    assert weights.shape == (n, t, s)
    np.testing.assert_allclose(actual.detach(), contexts, atol=1e-6)
    np.testing.assert_allclose(weights.detach(), looks, atol=1e-6)
    np.testing.assert_allclose(weights.detach().sum(-1), 1, atol=1e-6)
    padded = np.arange(s) >= np.array(lengths)[:, None, None]
    assert (weights.detach().numpy()[np.broadcast_to(padded, weights.shape)] == 0).all()
    # One query a lane, of rank 2, is the same as a sequence of one.
    for step in range(t):
        context, look = attention(torch.tensor(queries[:, step]), memory)
        torch.testing.assert_close(context, actual[:, step])
        torch.testing.assert_close(look, weights[:, step])


@pytest.mark.parametrize("score", SCORES)
def test_no_gradient_comes_from_the_padding(score: Score) -> None:
    attention = attention_of(score)
    values = torch.tensor(numbers(2, 3, D if score == "dot" else E)).requires_grad_()
    memory = attention.remember(values, torch.tensor([3, 1]))
    attention(torch.tensor(numbers(2, 4, D)), memory)[0].sum().backward()
    assert values.grad is not None
    assert (values.grad[1, 1:] == 0).all()
    assert (values.grad[0] != 0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="received widths: 4 and 6"):
        Attention("dot", 4, 6)
    with pytest.raises(ValueError, match="additive, dot or general"):
        Attention("cosine", 4, 4)  # type: ignore[arg-type]
