"""Five clients as people install them, configured by `infbox-watch client`, through the edge.

`make clients` has all of them; these are installed in seconds.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.client import fetch_tokenizer
from lab.settings import STATE
from tests.clients.configured import Server
from tests.clients.environments import python_environment
from tests.clients.libraries import FIVE, Seen, run_library
from tests.system.conftest import WORKSPACE, Site
from tests.system.test_site import without_white_space

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def runs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sequence[Seen]]:
    """What each client saw. They run side by side, as most of their time is Python's start."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.touch(0o600)
    key.write_text(site.client.openai.api_key)
    authority = STATE / f"{site.host.instance}.crt"
    server = Server(f"https://{site.host.address}", authority, key, WORKSPACE)
    extra = {"logit_bias": without_white_space(fetch_tokenizer(site.host))}
    python_environment("libraries")  # installed once, before they ask for it at once

    def run(name: str) -> Sequence[Seen]:
        return run_library(name, server, tmp_path_factory.mktemp(name), extra)

    with ThreadPoolExecutor() as pool:
        return dict(zip(FIVE, pool.map(run, FIVE), strict=True))


@pytest.mark.parametrize("name", FIVE)
def test_it_is_answered_streams_calls_a_tool_and_lists_models(
    runs: Mapping[str, Sequence[Seen]], name: str
) -> None:
    seen = {each.check: each for each in runs[name]}
    assert {each.outcome for each in seen.values()} <= {"passed", "form", "none"}, seen
    assert seen["answer"].outcome == seen["stream"].outcome == "passed", seen
    # llm has no way to have a tool called, and a model of random words calls none by itself.
    assert seen["tool"].outcome == ("form" if name == "llm" else "passed"), seen
