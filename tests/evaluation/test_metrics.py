"""Metrics of predictions against values computed by hand or printed in the papers."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.evaluation.metrics import (
    ByClass,
    Share,
    accuracy,
    are_span_tags,
    bleu,
    by_class,
    by_span,
    confused,
    confusion,
    exact_match,
    macro_f1,
    spans_of,
)

WORDS = st.lists(st.sampled_from(["the", "cat", "is", "on", "a", "mat"]), min_size=4, max_size=12)
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


def test_accuracy() -> None:
    assert accuracy([1, 2, 0, 2], [1, 2, 2, 2]) == Share(3, 4)
    assert accuracy([1, 2, 0, 2], [1, 2, 2, 2]).value == 0.75
    assert accuracy(np.array([[1, 0], [3, 3]]), np.array([[1, 1], [3, 3]])) == Share(3, 4)


def test_accuracy_of_a_choice() -> None:
    assert accuracy([1, 2, 0, 2], [1, 2, 2, 2], [True, False, True, False]) == Share(1, 2)
    assert accuracy([1, 2], [1, 2], [0, 0]).value is None


def test_accuracy_of_nothing_is_none() -> None:
    assert accuracy([], []) == Share(0, 0)
    assert accuracy([], []).value is None


def test_accuracy_is_of_one_prediction_each() -> None:
    with pytest.raises(ValueError, match=r"differ in shape: \(2,\) and \(3,\)"):
        accuracy([1, 2], [1, 2, 3])
    with pytest.raises(
        ValueError, match=r"differ in shape: \(1, 2\) and \(2, 1\)"
    ):  # No broadcasting.
        accuracy([[1, 2]], [[1], [2]])
    with pytest.raises(ValueError, match="choice"):
        accuracy([1, 2], [1, 2], [True])


def test_exact_match() -> None:
    assert exact_match(["abc", "ab"], ["abc", "abc"]) == Share(1, 2)
    assert exact_match([np.array([1, 2]), [3]], [[1, 2], (3,)]) == Share(2, 2)
    assert exact_match([[]], [[]]) == Share(1, 1)
    with pytest.raises(ValueError, match=r"longer|shorter"):
        exact_match(["a"], [])


# Gold: 4 of class 0, 3 of class 1, 1 of class 2, none of class 3.
GOLD = [0, 0, 0, 0, 1, 1, 1, 2]
PREDICTED = [0, 0, 1, 3, 1, 1, 0, 1]


def test_confusion_has_gold_in_rows() -> None:
    assert confusion(PREDICTED, GOLD, 4).tolist() == [
        [2, 1, 0, 1],
        [1, 2, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]
    assert confusion([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("predicted", "gold"), [([2], [0]), ([0], [-1]), ([0, 1], [0])])
def test_confusion_refuses_what_is_no_class(predicted: list[int], gold: list[int]) -> None:
    with pytest.raises(ValueError, match=r"not all between 0 and|differ in shape"):
        confusion(predicted, gold, 2)


def test_macro_f1_is_over_the_classes_that_are_there_or_are_predicted() -> None:
    assert macro_f1(confusion(PREDICTED, GOLD, 5)) == pytest.approx((4 / 7 + 4 / 7 + 0 + 0) / 4)
    assert macro_f1(confusion([], [], 3)) is None
    assert macro_f1(confusion([0, 1], [0, 1], 7)) == 1


def tokens(text: str) -> list[str]:
    return text.split()


THE_CAT = tokens("the cat is on the mat")


def test_bleu_clips_counts_as_in_the_paper() -> None:
    """Papineni et al. 2002, section 2.1: example 2, a modified unigram precision of 2/7."""
    found = bleu([["the"] * 7], [[THE_CAT, tokens("there is a cat on the mat")]])
    assert found.precisions == (2 / 7, 0, 0, 0)
    assert found.score == 0


GUIDE = [
    "it is a guide to action that ensures that the military will forever heed party commands",
    "it is the guiding principle which guarantees the military forces always being under the "
    "command of the party",
    "it is the practical guide for the army always to heed the directions of the party",
]
FIRST = (
    "it is a guide to action which ensures that the military always obeys the commands of the party"
)
SECOND = "it is to insure the troops forever hearing the activity guidebook that party direct"


@pytest.mark.parametrize(
    ("candidate", "unigrams", "bigrams"), [(FIRST, 17 / 18, 10 / 17), (SECOND, 8 / 14, 1 / 13)]
)
def test_bleu_precisions_as_in_the_paper(candidate: str, unigrams: float, bigrams: float) -> None:
    """Papineni et al. 2002, example 1, with the precisions that section 2.1 gives."""
    references = [tokens(reference) for reference in GUIDE]
    assert bleu([tokens(candidate)], [references]).precisions[:2] == (unigrams, bigrams)


def test_bleu_by_hand() -> None:
    """Five of six words match, of the bigrams `cat is` and `is on`, of the trigrams `cat is on`.

    The lengths are equal, so at order 3 the score is (5/6 x 2/5 x 1/4)^(1/3).
    """
    found = bleu([tokens("my cat is on the mat")], [[tokens("the cat is on a mat")]], order=3)
    assert found.precisions == (5 / 6, 2 / 5, 1 / 4)
    assert found.score == pytest.approx((1 / 12) ** (1 / 3))
    assert found.brevity_penalty == 1


def test_bleu_is_one_for_a_copy_and_orders_matter() -> None:
    assert bleu([THE_CAT], [[THE_CAT]]) == (1, (1, 1, 1, 1), 1, 6, 6)
    assert bleu([THE_CAT[::-1]], [[THE_CAT]]).score == 0


def test_bleu_punishes_what_is_short_and_only_that() -> None:
    """Five of six tokens, all precisions 1: the score is exp(1 - 6/5)."""
    short = bleu([THE_CAT[:5]], [[THE_CAT]])
    assert short.precisions == (1, 1, 1, 1)
    assert short.score == short.brevity_penalty == pytest.approx(math.exp(-0.2))
    long = bleu([[*THE_CAT, "mat"]], [[THE_CAT]])
    assert long.brevity_penalty == 1
    assert long.score == pytest.approx((6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** (1 / 4))


def test_bleu_sums_over_the_corpus_before_it_divides() -> None:
    """Of the 4-grams 3 of 3 and 0 of 2 match, so 3 of 5; the lengths are 6 + 5 and 6 + 6."""
    found = bleu([THE_CAT, tokens("no cat was on it")], [[THE_CAT], [THE_CAT]])
    assert found.precisions == (8 / 11, 5 / 9, 4 / 7, 3 / 5)
    assert (found.length, found.reference_length) == (11, 12)
    expected = math.exp(1 - 12 / 11) * (8 / 11 * 5 / 9 * 4 / 7 * 3 / 5) ** (1 / 4)
    assert found.score == pytest.approx(expected)


def test_bleu_compares_lengths_with_the_nearest_reference_the_shorter_of_two() -> None:
    references = [["a"] * 2, ["a"] * 6, ["a"] * 9]
    assert bleu([["a"] * 4], [references]).reference_length == 2
    assert bleu([["a"] * 5], [references]).reference_length == 6
    assert bleu([["a"] * 20], [references]).reference_length == 9


def test_bleu_clips_by_the_largest_count_of_one_reference() -> None:
    assert bleu([["a", "a", "a"]], [[["a", "b"], ["a", "a"]]]).precisions[0] == 2 / 3


def test_bleu_of_nothing_is_nothing() -> None:
    assert bleu([], []) == (0, (0, 0, 0, 0), 0, 0, 0)
    assert bleu([[]], [[THE_CAT]]).score == 0
    assert bleu([["a", "b"]], [[["a", "b"]]]).score == 0  # no 4-grams, and no smoothing
    with pytest.raises(ValueError, match=r"longer|shorter"):
        bleu([THE_CAT], [])


@PROPERTY
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=1, max_size=4), st.data())
def test_bleu_is_between_0_and_1(references: list[list[str]], data: st.DataObject) -> None:
    candidates = [data.draw(st.lists(st.sampled_from("abc"), max_size=9)) for _ in references]
    found = bleu(candidates, [[reference] for reference in references])
    assert 0 <= found.score <= found.brevity_penalty <= 1
    assert bleu(references, [[r] for r in references]).brevity_penalty in (0, 1)


@PROPERTY
@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5))
def test_bleu_is_that_of_sacrebleu(rows: list[tuple[list[str], list[str], list[str]]]) -> None:
    """sacreBLEU (Post 2018) is used without its tokeniser and its smoothing."""
    candidates = [candidate for candidate, *_ in rows]
    theirs = sacrebleu.corpus_bleu(
        [" ".join(candidate) for candidate in candidates],
        [[" ".join(references[i]) for _, *references in rows] for i in (0, 1)],
        smooth_method="none",
        tokenize="none",
    )
    ours = bleu(candidates, [references for _, *references in rows])
    assert 100 * ours.score == pytest.approx(theirs.score, abs=1e-6)
    assert ours.brevity_penalty == pytest.approx(theirs.bp)
    assert (ours.length, ours.reference_length) == (theirs.sys_len, theirs.ref_len)
    for mine, printed in zip(ours.precisions, theirs.precisions, strict=True):
        assert 100 * mine == pytest.approx(printed)


def test_each_class_by_hand() -> None:
    table = confused(["a", "a", "b", "a"], ["a", "b", "b", "new"], ["a", "b", "never"])
    assert table.names == ("a", "b", "never", "new")
    assert table.counts.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert by_class(table) == {
        "a": ByClass(1 / 3, 1.0, 0.5, 1),
        "b": ByClass(1.0, 0.5, pytest.approx(2 / 3), 2),
        "new": ByClass(0.0, 0.0, 0.0, 1),
    }


# The spans that seqeval 1.2.2 reads; its rules are those of conlleval.
@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", ""),
        ("B-A I-A O", "A0-2"),
        ("I-A I-A B-A", "A0-2 A2-3"),
        ("I-A I-B", "A0-1 B1-2"),
        ("B-A I-B I-B", "A0-1 B1-3"),
        ("B-A B-A O I-A", "A0-1 A1-2 A3-4"),
        ("B-A I-A E-A E-A", "A0-3 A3-4"),
        ("S-A S-A I-A", "A0-1 A1-2 A2-3"),
        ("B-A E-B I-B", "A0-1 B1-2 B2-3"),
        ("O E-A I-A S-A", "A1-2 A2-3 A3-4"),
        ("B-A L-A U-A", "A0-2 A2-3"),
        ("B-A-x I-A-x I-A", "A-x0-2 A2-3"),
        ("B-A X I-A", "A0-1 A2-3"),
    ],
)
def test_spans_are_those_of_conll(tags: str, spans: str) -> None:
    read = [f"{span.type}{span.start}-{span.stop}" for span in spans_of(tags.split())]
    assert " ".join(read) == spans


def test_a_span_is_right_as_a_whole() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["B-PER", "I-PER"]]
    measured = by_span(predicted, gold)
    assert measured.all == ByClass(1 / 3, 1 / 3, 1 / 3, 3)
    assert measured.types == {
        "LOC": ByClass(0.0, 0.0, 0.0, 1),
        "PER": ByClass(1 / 3, 1 / 2, pytest.approx(2 / 5), 2),
    }
    assert by_span([["O"]], [["O"]]).all == ByClass(0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("tags", "mark_spans"),
    [
        ("O B-A I-A", True),
        ("B-A E-A S-A O", True),
        ("O", False),
        ("NOUN VERB", False),
        ("B I O", False),
        ("O U-A", False),
        ("B-A NOUN", False),
        ("B- O", False),
    ],
)
def test_tags_that_mark_spans_are_known(tags: str, mark_spans: bool) -> None:
    assert are_span_tags(tags.split()) is mark_spans
