"""Novelty: the copied share of a sample, against a search for every span."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.data.vocabulary import code_points
from charrnn.evaluation import novelty as module
from charrnn.evaluation.novelty import LENGTHS, _copied, novelty, verdict

TEXTS = st.text("ab", max_size=60)


def spans(text: str, length: int) -> list[str]:
    return [text[i : i + length] for i in range(len(text) - length + 1)]


@settings(max_examples=300, deadline=None)
@given(sample=TEXTS, train=TEXTS)
def test_it_is_what_looking_for_every_span_finds(sample: str, train: str) -> None:
    result = novelty(code_points(sample), code_points(train))
    for length in LENGTHS:
        each = [span in train for span in spans(sample, length)]
        assert result.shares[length] == pytest.approx(sum(each) / len(each) if each else 0)
    longest = max((n for n in range(61) if any(s in train for s in spans(sample, n))), default=0)
    assert result.longest == longest
    assert sample[result.start : result.start + longest] in train


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 13, 16])
def test_equal_hashes_are_not_taken_for_equal_spans(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(module, "_mix", lambda values: values & np.uint64(1))
    sample, train = code_points("abcabdabcaddabcbdbac" * 3), code_points("dbacabdcabbdacbacbd" * 3)
    whole = "dbacabdcabbdacbacbd" * 3
    truth = [s in whole for s in spans("abcabdabcaddabcbdbac" * 3, length)]
    result = _copied(sample, train, length)
    assert not np.any(result & ~np.array(truth))


def test_a_copy_is_a_copy_and_a_stranger_none() -> None:
    random = np.random.default_rng(1)
    train = random.integers(0, 1 << 20, 5000).astype(np.uint32)
    copied = novelty(train[100:300], train)
    assert (copied.longest, copied.shares) == (200, {8: 1.0, 16: 1.0, 32: 1.0})
    stranger = novelty(train[100:300] + np.uint32(1 << 20), train)
    assert (stranger.longest, stranger.shares) == (0, {8: 0.0, 16: 0.0, 32: 0.0})


def test_a_long_copy_is_found_in_seconds() -> None:
    train = np.random.default_rng(2).integers(0, 60, 300_000).astype(np.uint32)
    began = time.process_time()
    result = novelty(train[1000:-1000], train)
    assert (result.longest, result.start) == (298_000, 0)
    assert time.process_time() - began < 30


HELD_OUT = {8: 0.4, 16: 0.05, 32: 0.002}


@pytest.mark.parametrize(
    ("shares", "length", "word"),
    [
        (HELD_OUT, 5000, "new"),
        ({8: 0.42, 16: 0.06, 32: 0.0}, 5000, "new"),
        ({8: 0.7, 16: 0.3, 32: 0.1}, 5000, "partly copied: spans of 32"),
        ({8: 0.7, 16: 0.3, 32: 0.0}, 5000, "partly copied: spans of 16"),
        ({8: 1.0, 16: 1.0, 32: 0.9}, 400, "copied: most"),
        ({8: 1.0, 16: 1.0, 32: 1.0}, 319, "too short to say; give a sample of at least 320"),
    ],
)
def test_the_verdict_compares_with_held_out_text(
    shares: dict[int, float], length: int, word: str
) -> None:
    assert verdict(shares, HELD_OUT, length).startswith(word)


def test_text_that_repeats_itself_is_not_called_copied() -> None:
    held_out = {8: 1.0, 16: 0.99, 32: 0.9}
    assert verdict({8: 1.0, 16: 0.99, 32: 0.91}, held_out, 5000).startswith("new")
    assert verdict({8: 0.5, 16: 0.2, 32: 0.1}, {}, 5000).startswith("not clear")
