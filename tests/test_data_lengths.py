"""How lengths are gathered into bars and held against limits; what a plan makes of whole files is in test_data_view."""

from __future__ import annotations

import pytest

from rlhf_lora import data_lengths
from rlhf_lora.records import Demonstration, Label, Pair, Prompt

TEA = Prompt("tea")


def test_replies_are_named_by_what_they_are_and_the_one_to_imitate_comes_first():
    assert data_lengths.replies_of(TEA) == {}
    assert list(data_lengths.replies_of(Pair(TEA, "sure", "no")).items()) == [("chosen", "sure"), ("rejected", "no")]
    assert data_lengths.replies_of(Demonstration(TEA, "sure")) == {"reply": "sure"}
    assert data_lengths.replies_of(Label(TEA, "sure", True)) == {"good": "sure"}
    assert data_lengths.replies_of(Label(TEA, "no", False)) == {"bad": "no"}
    assert all(data_lengths.prompt_of(row) is TEA for row in (TEA, Pair(TEA, "a", "b"), Label(TEA, "a", True)))


def test_figures_are_read_off_the_sorted_lengths():
    found = data_lengths._of_one("prompts", list(range(100, 0, -1)), 250, [])
    assert found is not None
    # Half of 1…100 is at most 51 (the upper middle), 95 of them lie below 96.
    assert (found.counted, found.of, found.median, found.p95, found.longest) == (100, 250, 51, 96, 100)
    assert data_lengths._of_one("prompts", [], 0, []) is None


@pytest.mark.parametrize(
    ("shortest", "longest", "limits", "edges"),
    [
        (3, 3, [], [3]),
        (101, 299, [], [150, 200, 250, 300]),
        (10, 16, [], [10, 11, 12, 13, 14, 15, 16]),
        (1, 100, [], [1, 2, 4, 8, 16, 32, 64, 128]),  # doubling
        (1, 100, [20, 100, 500], [1, 2, 4, 8, 16, 20, 32, 64, 128]),  # a limit that cuts nothing is no edge
        (100, 300, [], [100, 150, 200, 250, 300]),  # even steps
    ],
)
def test_bars_double_or_are_even_and_limits_that_cut_are_edges(shortest, longest, limits, edges):
    assert data_lengths._edges(shortest, longest, limits) == edges


def test_every_length_is_in_one_bar():
    for lengths in ([1], [1, 1000], [7, 8, 9], [500, 4000, 501]):
        found = data_lengths._of_one("rows", lengths, len(lengths), [data_lengths.Limit("x", 8, 0.5, "")])
        assert found is not None
        assert sum(count for _, count in found.bins) == len(lengths)


def test_more_than_half_too_long_is_another_matter_than_some():
    some = data_lengths._limit("m", 3, [1, 2, 4, 5], "left out", "refused")
    most = data_lengths._limit("m", 3, [1, 4, 5], "left out", "refused")
    assert (some.longer, some.then) == (0.5, "left out")
    assert (most.longer, most.then) == (pytest.approx(2 / 3), "refused")


def test_a_sample_keeps_the_order_of_the_file_and_is_the_same_every_time():
    records = [Prompt(str(i)) for i in range(5000)]
    sample = data_lengths._sampled(records)
    assert len(sample) == data_lengths.SAMPLE
    assert [int(p.text) for p in sample] == sorted(int(p.text) for p in sample)
    assert sample == data_lengths._sampled(records)
    assert data_lengths._sampled(records[:9]) == records[:9]
    assert (
        1 <= len(data_lengths._sampled([Prompt("x" * 10**6 + str(i)) for i in range(100)])) <= 40
    )  # 50,000 count of each
