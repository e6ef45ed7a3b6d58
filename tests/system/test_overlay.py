"""A developer's tree over another one, with the real engine: `make overlay` runs it.

What an overlay's text says is proven in the watcher's own tests, with a stub of the engine.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.client import Client
from lab.deployment import WORKSPACES, copy_tree, endpoint, inventory, play
from lab.settings import ROOT
from tests.system.conftest import HOST, WORKSPACE, Site

pytestmark = [pytest.mark.lab, pytest.mark.long]

DEVELOPER = "anna"
WARM_SHARE = 0.9
METRICS = "http://127.0.0.1:8000/metrics"
CHANGED = "README.md"


@pytest.fixture(scope="module")
def overlay(site: Site) -> Iterator[tuple[Client, Path]]:
    """Give the deployed host a second workspace over its first; its tree differs by a line."""
    tree = copy_tree(ROOT, f"{HOST}-{DEVELOPER}")
    file = tree / CHANGED
    file.write_text(file.read_text() + "\nAnna was here.\n")
    base = {"name": WORKSPACE, "path": f"{WORKSPACES}/{site.tree.name}"}
    over = {"name": DEVELOPER, "path": f"{WORKSPACES}/{tree.name}", "base": WORKSPACE}
    try:
        folder = inventory(site.host, {"infbox_workspaces": [base, over]})
        play(["site.yml", "-i", folder], "system-overlay")
        yield Client(endpoint(site.host), DEVELOPER), tree
    finally:
        shutil.rmtree(tree)


def computed(site: Site) -> float:
    """Return how many tokens of prompts the engine computed since it was started."""
    return site.metric(METRICS, "vllm:prompt_tokens_by_source_total", "local_compute")


def test_the_engine_computes_what_differs_and_loads_the_rest(
    site: Site, overlay: tuple[Client, Path]
) -> None:
    client, _ = overlay
    base = site.client.wait_until_warm()
    status = client.wait_until_warm()
    print(f"base {base['tokens']}, overlay {status['tokens']}, shared {status['shared_tokens']}")
    assert status["shared_tokens"] >= WARM_SHARE * base["tokens"]
    right = client.ask(cold=True)
    before = computed(site)
    answer = client.ask()
    print(f"cached {answer.cached_tokens} of {answer.prompt_tokens}")
    assert answer.text == right.text
    assert answer.cached_tokens >= WARM_SHARE * status["tokens"]
    assert computed(site) - before < (1 - WARM_SHARE) * status["tokens"]


def test_a_save_in_it_is_told_and_costs_no_more_than_itself(
    site: Site, overlay: tuple[Client, Path]
) -> None:
    client, tree = overlay
    tokens = client.wait_until_warm()["tokens"]
    before, since = computed(site), time.time()
    (tree / "seen_by_anna.py").write_text("def seen_by_anna() -> None: ...\n")
    client.wait_until_saved(since)
    cost = computed(site) - before
    print(f"the save cost {cost:.0f} tokens of a pack of {tokens}")
    assert cost < (1 - WARM_SHARE) * tokens
    assert "seen_by_anna" in client.openai.get(f"/workspaces/{DEVELOPER}/pack", cast_to=str)
