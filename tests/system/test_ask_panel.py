"""The panel that asks, in Chromium, of a deployed host: Caddy, key service, gateway."""

import json
import re

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.page.visit import PICTURES, SIZES, chromium_at
from tests.system.conftest import WORKSPACE, Site

pytestmark = pytest.mark.lab

LONG = 600_000  # milliseconds: however long a busy machine takes to answer
TOKENS = 4
UNDER_WAY = re.compile("^$|Checking the key|Waiting for the first token|Answering")


def shortened(route: Route) -> None:
    """Send a question on, with a shorter answer than the page wants: this host is a slow one."""
    asked = json.loads(route.request.post_data or "{}")
    route.continue_(post_data=json.dumps({**asked, "max_tokens": TOKENS}))


def use_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use key").click()


def ask_by_panel(page: Page, address: str, workspace: str, key: str) -> None:
    """Log in, paste a wrong key and a right one, and ask; what is wrong fails here."""
    errors: list[str] = []
    sent: list[Request] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: sent.append(request) if "/v1/" in request.url else None)
    page.route("**/v1/chat/completions", shortened)
    # The login first, by itself: on a page whose address has one no script may send requests.
    page.goto(f"https://team:{key}@{address}/status")
    page.goto(f"https://{address}/")
    page.wait_for_selector("body[data-state=shown]")

    use_key(page, "sk-infbox-of-nobody")
    expect(page.locator("#ask-said[data-state=bad]")).to_contain_text("does not accept this key")
    use_key(page, key)
    page.get_by_label("Workspace", exact=True).select_option(f"coder@{workspace}")
    page.get_by_label("Question").fill("What is this source tree for?")
    page.get_by_role("button", name="Ask").click()
    said = page.locator("#ask-said")
    ended = re.compile("The answer is complete|The answer is cut off")
    expect(said).not_to_have_text(UNDER_WAY, timeout=LONG)
    expect(said).to_have_text(ended)

    assert page.text_content("#ask-answer")
    cached = int((page.text_content("#ask-cached") or "").replace(",", ""))
    assert cached > 0, "the pack is warm, and the answer says so"
    expect(page.locator("#ask-tokens")).to_contain_text("token")
    # The key that was pasted, although the browser has a login.
    assert sent[-1].headers["authorization"] == f"Bearer {key}"
    assert errors == []


def test_a_pasted_key_asks_through_the_edge_and_finds_the_pack_cached(site: Site) -> None:
    site.client.wait_until_warm()
    key = site.client.openai.api_key
    with chromium_at(site.host) as browser:
        # The certificate is of the host's own authority: other tests verify it.
        page = browser.new_page(viewport=SIZES["desktop"], ignore_https_errors=True)
        ask_by_panel(page, site.host.address, WORKSPACE, key)
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "system-asked.png", full_page=True)
