"""The panel of the status page that asks about a workspace, in a real Chromium."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_host import FakeHost
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.page.visit import SIZES, Visit, look_at_every_size

pytestmark = pytest.mark.lab

KEY = "sk-key-of-alice-0123456789-0123456789"
MARKUP = "<b>bold</b><img src=x onerror=\"document.title='owned'\"> "
ANSWER = (
    "Orders are priced in shop/pricing.py.\n\n    def price(order):\n        "
    "return sum(line.amount * line.price for line in order.lines)\n\n"
    "The discount of a customer is taken off at the end. "
)


def said(text: str) -> bytes:
    """An event with a piece of an answer."""
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode()


def use_key(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use key").click()


def ask(page: Page, question: str = "Where are orders priced?") -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask").click()


def asked_of(request: Request) -> dict[str, Any]:
    """The body of a request."""
    body: dict[str, Any] = json.loads(request.post_data or "{}")
    return body


def trouble(page: Page) -> Any:
    return expect(page.locator("#ask-said[data-state=bad]"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_at_every_size_and_in_both_schemes(
    browser: Browser, host: FakeHost, scheme: Any
) -> None:
    host.engine.event = said(ANSWER)
    with host.gateway() as gateway:
        page = browser.new_page(viewport=SIZES["desktop"], color_scheme=scheme)
        visit = Visit(page, gateway.url)
        visit.open()
        look_at_every_size(page, f"{scheme}-ask-key")
        use_key(page)
        ask(page)
        expect(page.locator("#ask-said")).to_have_text("The answer is complete.")
        ask(page)
        expect(page.locator("#ask-prompt")).to_contain_text("%")
        look_at_every_size(page, f"{scheme}-asked")
        assert visit.errors == []
        host.down("vllm")
        ask(page)
        trouble(page).to_contain_text("The engine does not respond")
        expect(page.locator("#ask-told")).to_be_hidden()
        expect(page.get_by_role("status")).to_have_text("vLLM is unhealthy")
        look_at_every_size(page, f"{scheme}-ask-engine-away")
        page.close()


def test_who_pastes_a_key_picks_a_workspace_and_asks(host: FakeHost, visit: Visit) -> None:
    host.engine.event = said("It is in the shop. ")
    page = visit.open()
    page.context.add_cookies([{"name": "session", "value": "x", "url": visit.url}])
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if "/v1/" in request.url else None)
    use_key(page)
    picker = page.get_by_label("Workspace", exact=True)
    expect(picker.locator("option")).to_have_text(
        ["shop", "billing-service-of-the-other-team", "infrastructure", "None: the model alone"]
    )
    picker.select_option("infrastructure")
    ask(page)
    expect(page.locator("#ask-answer")).to_have_text("It is in the shop. " * 5)
    expect(page.locator("#ask-said")).to_have_text("The answer is complete.")
    expect(page.locator("#ask-first")).to_contain_text("s")
    expect(page.locator("#ask-cached")).to_have_text("0")
    ask(page)
    expect(page.locator("#ask-prompt")).to_contain_text("(100 %)")
    cached = page.text_content("#ask-cached")
    expect(page.locator("#ask-prompt")).to_have_text(f"of {cached} (100 %)")
    assert host.engine.chats[-1].chat["model"] == "coder"
    assert asked_of(sent[-1])["model"] == "coder@infrastructure"
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in sent)
    assert not any("cookie" in request.all_headers() for request in sent)
    assert visit.errors == []


def test_a_key_is_nowhere_but_in_memory(visit: Visit) -> None:
    page = visit.open()
    use_key(page)
    expect(page.get_by_label("Question")).to_be_visible()
    kept = page.evaluate("""
        [document.documentElement.outerHTML, location.href, document.cookie, history.state,
         {...localStorage}, {...sessionStorage},
         ...[...document.querySelectorAll("input, textarea, select")].map((field) => field.value)]
    """)
    assert KEY not in json.dumps(kept)
    assert page.evaluate("(async () => (await indexedDB.databases()).length)()") == 0
    assert page.evaluate("(async () => (await caches.keys()).length)()") == 0
    assert not any(KEY in url for url in visit.asked)
    page.reload()
    page.wait_for_selector("body[data-state=shown]")
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_label("API key")).to_have_value("")


def test_a_key_is_forgotten_when_told_so_and_when_the_page_is_left(visit: Visit) -> None:
    page = visit.open()
    for forget in (
        lambda: page.get_by_role("button", name="Forget key").click(),
        lambda: page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))"),
    ):
        use_key(page)
        page.get_by_label("Question").wait_for()
        forget()
        expect(page.get_by_label("API key")).to_have_value("")
        expect(page.get_by_label("Question")).to_be_hidden()
        assert page.locator("#ask-workspace option").count() == 0


def test_markup_in_an_answer_is_text(host: FakeHost, visit: Visit) -> None:
    host.engine.event = said(MARKUP)
    page = visit.open()
    use_key(page)
    ask(page)
    expect(page.locator("#ask-answer")).to_have_text(MARKUP * 5)
    assert page.evaluate("document.querySelector('#ask-answer').childElementCount") == 0
    assert page.title() != "owned"


def test_an_answer_shows_as_it_comes_and_can_be_stopped(host: FakeHost, visit: Visit) -> None:
    host.engine.event = said("One more word. ")
    host.engine.events, host.engine.delay = 10_000, 0.05
    page = visit.open()
    use_key(page)
    ask(page)
    expect(page.locator("#ask-answer")).to_contain_text("One more word. One more word.")
    assert host.engine.under_way == 1
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#ask-said")).to_have_text("Stopped.")
    for _ in range(500):
        if host.engine.cancelled:
            break
        page.wait_for_timeout(20)
    assert host.engine.cancelled == 1
    length = len(page.text_content("#ask-answer") or "")
    page.wait_for_timeout(300)
    assert len(page.text_content("#ask-answer") or "") == length
    host.engine.events = 1
    ask(page)
    expect(page.locator("#ask-said")).to_have_text("The answer is complete.")


def test_an_answer_that_breaks_off_says_so(host: FakeHost, visit: Visit) -> None:
    host.engine.event = said("Half a ")
    host.engine.breaks_off = True
    page = visit.open()
    use_key(page)
    ask(page)
    trouble(page).to_contain_text("The answer was interrupted.")
    expect(page.locator("#ask-answer")).to_have_text("Half a ")


def refused(status: int, message: str = "", **headers: str) -> Callable[[Route], None]:
    body = json.dumps({"error": {"message": message}})
    return lambda route: route.fulfill(status=status, headers=headers, body=body)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (403, {}, "You do not have access."),
        (404, {}, "The server does not know this workspace, or you may not use it."),
        (413, {}, "The question is too long."),
        (429, {"retry-after": "17"}, "Too many requests. Try again in 17 s."),
        (502, {}, "The gateway or the engine does not respond. Try again later."),
        (503, {"retry-after": "10"}, "is overloaded. Try again in 10 s."),
        (418, {}, "The server refuses the request (HTTP status 418)."),
    ],
)
def test_a_refusal_is_told_in_plain_words(
    visit: Visit, status: int, headers: dict[str, str], words: str
) -> None:
    page = visit.open()
    use_key(page)
    page.route("**/v1/chat/completions", refused(status, "<i>Some reason.</i>", **headers))
    ask(page)
    trouble(page).to_contain_text(f"{words}")
    trouble(page).to_contain_text("The server says: <i>Some reason.</i>")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    expect(page.get_by_label("Question")).to_have_value("Where are orders priced?")


def test_a_key_that_is_not_accepted_is_not_kept(visit: Visit) -> None:
    page = visit.open()
    page.route("**/v1/workspaces", refused(401))
    use_key(page)
    trouble(page).to_contain_text("The server does not accept this key.")
    expect(page.get_by_label("API key")).to_have_value("")
    page.unroute("**/v1/workspaces")
    use_key(page)
    page.route("**/v1/chat/completions", refused(401))
    ask(page)
    trouble(page).to_contain_text("The server does not accept this key.")
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_host_that_is_away_says_so(visit: Visit) -> None:
    page = visit.open()
    use_key(page)
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    ask(page)
    trouble(page).to_have_text("The host does not respond, or the network to it is down.")


def test_what_is_no_key_is_sent_nowhere(visit: Visit) -> None:
    page = visit.open()
    page.get_by_role("button", name="Use key").click()
    trouble(page).to_have_text("Paste an API key first.")
    use_key(page, "two words")
    trouble(page).to_contain_text("This is not a key")
    assert not any("/v1/" in url for url in visit.asked)


@contextlib.contextmanager
def signed_in(browser: Browser, host: FakeHost) -> Iterator[Page]:
    """A page of somebody who may ask without a key. What Caddy does of it is done by a route."""
    settings = host.settings()
    status = settings.status._replace(sign_in=True, sign_in_asks=True)
    with host.gateway(settings._replace(status=status)) as gateway:
        page = browser.new_page(viewport=SIZES["desktop"])
        chats = f"{gateway.url}/v1/chat/completions"
        page.route("**/status/ask", lambda route: route.continue_(url=chats))
        Visit(page, gateway.url).open()
        yield page
        page.close()


def test_who_is_signed_in_asks_without_a_key(browser: Browser, host: FakeHost) -> None:
    host.engine.event = said("It is in the shop. ")
    with signed_in(browser, host) as page:
        expect(page.get_by_label("API key")).to_be_hidden()
        expect(page.get_by_role("button", name="Forget key")).to_be_hidden()
        picker = page.get_by_label("Workspace", exact=True)
        picker.select_option("infrastructure")
        with page.expect_request("**/status/ask") as asked:
            ask(page)
        expect(page.locator("#ask-said")).to_have_text("The answer is complete.")
        expect(page.locator("#ask-answer")).to_have_text("It is in the shop. " * 5)
        assert asked_of(asked.value)["model"] == "coder@infrastructure"
        assert "authorization" not in asked.value.headers
        look_at_every_size(page, "light-ask-signed-in")
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
        expect(page.locator("#ask-told")).to_be_hidden()
        expect(picker).to_have_value("coder@infrastructure")


def test_who_is_signed_out_meanwhile_is_told_so(browser: Browser, host: FakeHost) -> None:
    with signed_in(browser, host) as page:
        page.route("**/status/ask", refused(401))
        ask(page)
        trouble(page).to_have_text("You are signed out. Reload the page.")
        expect(page.get_by_label("Question")).to_be_visible()
