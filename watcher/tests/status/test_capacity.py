"""The KV cache that an engine reports, beside the one that was planned."""

from __future__ import annotations

import pytest

from infbox.status.capacity import METRIC, capacity, reported_tokens
from infbox.status.exposition import Exposition


def reported(*labels: str) -> int | None:
    """Return what is read of engines with these labels."""
    text = "".join(f"{METRIC}{{{each}}} 1.0\n" for each in labels)
    return reported_tokens(Exposition(text, [METRIC]))


def test_the_engine_s_own_count_of_tokens_is_taken() -> None:
    assert reported('block_size="16",kv_cache_size_tokens="96800",num_gpu_blocks="9999"') == 96_800


def test_blocks_stand_in_where_the_engine_reports_no_tokens() -> None:
    assert reported('block_size="16",kv_cache_size_tokens="None",num_gpu_blocks="6000"') == 96_000


def test_the_smallest_of_several_engines_counts() -> None:
    assert (
        reported('engine="0",kv_cache_size_tokens="7"', 'engine="1",kv_cache_size_tokens="5"') == 5
    )


@pytest.mark.parametrize(
    "labels",
    [
        'kv_cache_size_tokens="None",num_gpu_blocks="None",block_size="16"',
        'kv_cache_size_tokens="0"',
        'kv_cache_size_tokens="-5"',
        'kv_cache_size_tokens="1e9"',
        'kv_cache_size_tokens="²"',
        f'kv_cache_size_tokens="{"9" * 5000}"',
        'other="1"',
    ],
)
def test_what_is_no_number_is_not_known(labels: str) -> None:
    assert reported(labels) is None


def test_an_engine_without_the_metric_reports_nothing() -> None:
    assert reported() is None


def test_a_smaller_cache_than_planned_is_explained_in_one_sentence() -> None:
    (note,) = capacity(94_165, 80_000)["notes"]
    assert "80,000 tokens, 15% less than the 94,165 that were planned" in note
    assert "docs/presets.md#plan-and-reality" in note


def test_what_is_to_say_about_the_plan_comes_first() -> None:
    notes = capacity(94_165, 80_000, "The plan was lowered.")["notes"]
    assert [note[:21] for note in notes] == ["The plan was lowered.", "vLLM reports a KV cac"]
    assert capacity(94_165, None, "The plan was lowered.")["notes"] == ["The plan was lowered."]


@pytest.mark.parametrize(
    ("planned", "tokens"), [(94_165, 94_165), (94_165, 94_000), (94_165, None), (0, 5), (0, None)]
)
def test_a_cache_that_holds_what_was_planned_needs_no_explanation(
    planned: int, tokens: int | None
) -> None:
    found = capacity(planned, tokens)
    assert found == {"planned_tokens": planned or None, "tokens": tokens, "notes": []}
