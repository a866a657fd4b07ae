"""Padding: prompts on the left, responses on the right, masks and positions from lengths alone."""

from __future__ import annotations

from rlhf_lora.padding import pad, positions


def test_prompts_are_padded_on_the_left_and_responses_on_the_right():
    padded = pad([[1, 2, 3], [4]], [[5], [6, 7]], fill_id=9)
    assert padded.ids_BS.tolist() == [[1, 2, 3, 5, 9], [9, 9, 4, 6, 7]]
    assert padded.attention_BS.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert padded.response_mask_BT.tolist() == [[True, False], [True, True]]
    assert padded.responses_BT.tolist() == [[5, 9], [6, 7]]
    assert padded.prompt_width == 3


def test_the_first_real_token_stands_at_position_zero():
    # Rotary embeddings would forgive a shift; learned ones and long-context scalings would not.
    padded = pad([[1, 2, 3], [4]], [[5], [6, 7]], fill_id=9)
    assert padded.positions_BS[0, :4].tolist() == [0, 1, 2, 3]
    assert padded.positions_BS[1, 2:].tolist() == [0, 1, 2]
    assert positions(padded.attention_BS).min() == 0


def test_a_filler_that_is_also_a_token_changes_no_mask():
    plain, same = (pad([[1, 2], [2]], [[2, 2], [1]], fill_id=fill) for fill in (9, 2))
    assert plain.attention_BS.tolist() == same.attention_BS.tolist()
    assert plain.response_mask_BT.tolist() == same.response_mask_BT.tolist()


def test_prompts_without_responses_have_an_empty_response_part():
    padded = pad([[1, 2], [3]], [[], []], fill_id=9)
    assert padded.ids_BS.tolist() == [[1, 2], [9, 3]]
    assert padded.response_mask_BT.shape == (2, 0)
