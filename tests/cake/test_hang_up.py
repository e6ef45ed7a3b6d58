"""Clients that hang up at the worst moment: while the KV of their prompt is being loaded."""

import contextlib
import time
from collections.abc import Iterator

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from lab.cake import CAKE, PLAIN, PORTS, SERVER, Rig, prompt
from lab.engine import frozen
from tests.cake.conftest import Question

pytestmark = pytest.mark.lab

# Seconds after which LMCache stands still. It has then answered what there is, and is at handing it
# over in some of them: that takes a tenth of a second.
MOMENTS = [moment / 100 for moment in range(1, 13)]


@contextlib.contextmanager
def asked(engine: str, body: dict[str, object]) -> Iterator[None]:
    """Ask, and hang up at the end of the block."""

    async def ask() -> None:
        url = f"http://127.0.0.1:{PORTS[engine]}/v1/completions"
        async with httpx.AsyncClient(timeout=60) as client:
            await client.post(url, json=body)

    with start_blocking_portal() as portal:
        question = portal.start_task_soon(ask)
        yield
        question.cancel()


@pytest.mark.parametrize("engine", [PLAIN, CAKE])
def test_a_client_that_hangs_up_while_its_prompt_is_loaded_costs_nobody_anything(
    rig: Rig, question: Question, engine: str
) -> None:
    body = {"model": "coder", "prompt": list(question.ids), "max_tokens": 8, "temperature": 0}
    rig.ask(engine, question.ids)  # brings it to LMCache's RAM
    for moment in MOMENTS:
        rig.client.post(f"http://127.0.0.1:{PORTS[engine]}/reset_prefix_cache").raise_for_status()
        with contextlib.ExitStack() as ended:
            with asked(engine, body):
                time.sleep(moment)
                ended.enter_context(frozen(SERVER))
                time.sleep(0.3)
            time.sleep(0.3)
        time.sleep(0.5)
    _, answer = rig.ask(engine, question.ids)
    assert answer == question.answer


def test_a_client_that_hangs_up_before_its_turn_costs_nobody_anything(
    rig: Rig, question: Question
) -> None:
    body: dict[str, object] = {
        "model": "coder", "prompt": list(question.ids), "max_tokens": 8,
        "kv_transfer_params": {"cached_token_stats": True},
    }  # fmt: skip
    # Its turn comes with the next step, and the one under way takes long.
    with asked(PLAIN, {**body, "prompt": prompt(4000, 8)}):
        time.sleep(0.3)
        with asked(PLAIN, body):
            time.sleep(0.3)
    time.sleep(1)
    _, answer = rig.ask(PLAIN, question.ids)
    assert answer == question.answer
