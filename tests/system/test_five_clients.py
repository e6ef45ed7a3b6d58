"""Five clients as people install them, configured by `infbox-watch client`, through the edge.

`make clients` has all of them; these are installed in seconds.
"""

from pathlib import Path

import pytest

from lab.client import fetch_tokenizer
from lab.settings import STATE
from tests.clients.configured import Server
from tests.clients.libraries import FIVE, run_library
from tests.system.conftest import WORKSPACE, Site
from tests.system.test_site import without_white_space

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("name", FIVE)
def test_it_is_answered_streams_calls_a_tool_and_lists_models(
    site: Site, tmp_path: Path, name: str
) -> None:
    home, key = tmp_path / "home", tmp_path / "key"
    home.mkdir()
    key.touch(0o600)
    key.write_text(site.client.openai.api_key)
    authority = STATE / f"{site.host.instance}.crt"
    server = Server(f"https://{site.host.address}", authority, key, WORKSPACE)
    extra = {"logit_bias": without_white_space(fetch_tokenizer(site.host))}
    seen = {each.check: each for each in run_library(name, server, home, extra)}
    assert {each.outcome for each in seen.values()} <= {"passed", "form", "none"}, seen
    assert seen["answer"].outcome == seen["stream"].outcome == "passed", seen
    # llm has no way to have a tool called, and a model of random words calls none by itself.
    assert seen["tool"].outcome == ("form" if name == "llm" else "passed"), seen
