"""Cake in the real engine and the real LMCache, on a disk that the kernel holds back."""

import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.cake import CAKE, HTTP_PORT, Rig, prompt, stored
from tests.cake.conftest import AS_FAST_AS_IT_CAN, CHUNKS, TOKENS, Question
from tests.monitoring.panels import CAKE as OF_CAKE
from tests.monitoring.panels import metrics

pytestmark = pytest.mark.lab

NOTHING_COMES = 1e-3  # tokens a second


def counted(rig: Rig) -> dict[str, float]:
    """Return what Cake counted, by the value of each counter's label."""
    text = rig.client.get(f"http://127.0.0.1:{HTTP_PORT}/metrics").raise_for_status().text
    return {
        f"{family.name.removeprefix('infbox_cake_')} {sample.labels.get('way', '')}"
        f"{sample.labels.get('end', '')}".strip(): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("infbox_cake_")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def raced(rig: Rig, question: Question, speed: float) -> dict[str, float]:
    """Ask with the disk as fast as given; return what Cake counted meanwhile.

    Args:
        rig: is asked.
        question: what is asked.
        speed: tokens a second that the disk gives.
    """
    before = counted(rig)
    _, answer = rig.one(CAKE, question.ids, speed)
    assert answer == question.answer
    return {name: value - before.get(name, 0.0) for name, value in counted(rig).items()}


def test_what_is_computed_and_what_is_loaded_meet_and_the_answer_is_the_same(
    rig: Rig, question: Question
) -> None:
    raced(rig, question, question.speed)  # the first time finds out how fast both are
    seen = raced(rig, question, question.speed)
    assert seen["prompts loaded"] == 1
    assert seen["chunks loaded"] >= 2
    assert seen["chunks computed"] >= 2
    assert seen["chunks loaded"] + seen["chunks computed"] == CHUNKS


def test_from_a_disk_that_stalls_nothing_is_waited_for(rig: Rig, question: Question) -> None:
    seen = raced(rig, question, NOTHING_COMES)
    assert seen["prompts computed"] == 1
    assert seen["chunks computed"] == CHUNKS


def test_with_chunks_that_are_damaged_the_answer_is_the_same(rig: Rig, question: Question) -> None:
    for file in stored()[::3]:
        with file.open("r+b") as chunk:
            chunk.truncate(chunk.seek(0, os.SEEK_END) // 2)
    raced(rig, question, AS_FAST_AS_IT_CAN)


def test_each_of_its_metrics_that_a_panel_names_is_told(rig: Rig, question: Question) -> None:
    raced(rig, question, question.speed)
    text = rig.client.get(f"http://127.0.0.1:{HTTP_PORT}/metrics").text
    asked = metrics(OF_CAKE)
    assert len(asked) == 3
    assert [name for name in asked if f"\n{name}{{" not in text and f"\n{name} " not in text] == []


def test_without_anything_stored_it_steps_aside(rig: Rig) -> None:
    before = counted(rig)
    rig.ask(CAKE, prompt(TOKENS, 3))
    assert counted(rig) == before
