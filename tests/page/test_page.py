"""The status page in a real Chromium: how it looks, how it is used, what it shows of trouble."""

import time
from typing import Any

import pytest
from fake_host import FakeHost
from infbox.config import Listen
from playwright.sync_api import Browser, Page, expect

from tests.page.visit import SIZES, Visit, go_to, look_at_every_size

pytestmark = pytest.mark.lab


def verdict(page: Page) -> Any:
    return expect(page.get_by_role("status"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_at_every_size_and_in_both_schemes(
    browser: Browser, host: FakeHost, scheme: Any
) -> None:
    with host.gateway() as gateway:
        page = browser.new_page(viewport=SIZES["desktop"], color_scheme=scheme)
        visit = Visit(page, gateway.url)
        visit.open()
        verdict(page).to_have_text("All services are healthy")
        look_at_every_size(page, f"{scheme}-well")
        host.workspaces["shop"] |= {"warm": False, "error": "only 0 of 5633 tokens are cached"}
        expect(page.locator("#workspaces .error")).to_be_visible()
        host.engine.kv_tokens = "80000"
        expect(page.locator("#notes")).to_contain_text("15% less than the 94,165")
        host.down("vllm")
        host.down("watcher")
        host.lmcache["is_healthy"] = False
        verdict(page).to_have_text("vLLM, LMCache and Watcher are unhealthy")
        look_at_every_size(page, f"{scheme}-trouble")
        assert visit.errors == []
        page.close()


def test_who_is_known_sees_the_own_usage_and_what_limits_leave(visit: Visit) -> None:
    visit.page.set_extra_http_headers({
        "X-Infbox-Account": "ann-0123456789ab@page",
        "X-Infbox-Limits": "requests_per_minute=60;tokens_per_day=5000",
    })  # fmt: skip
    page = visit.open()
    usage = page.locator("#usage-section")
    expect(usage).to_be_visible()
    expect(usage.locator("#usage-who")).to_have_text("ann")
    expect(usage).to_contain_text("0 of 5,000")
    expect(usage).to_contain_text("60 at most")
    look_at_every_size(page, "light-usage")
    assert visit.errors == []


def test_nothing_comes_from_elsewhere(visit: Visit) -> None:
    visit.open().wait_for_load_state("load")
    assert {url.removeprefix(visit.url) for url in visit.asked} == {
        "/", "/status/page.css", "/status/page.js", "/status/ask.js", "/status/icon.svg",
        "/status/usage.js", "/status/usage", "/status/events",
    }  # fmt: skip


def test_nothing_jumps_when_the_first_answer_and_the_next_ones_come(visit: Visit) -> None:
    page = visit.open()
    first = page.text_content("#link-text")
    expect(page.locator("#link-text")).not_to_have_text(first or "")
    assert page.evaluate("window.shifted") < 0.01


def test_it_is_used_with_the_keyboard(host: FakeHost, visit: Visit) -> None:
    host.down("keys")
    page = visit.open()
    # The gateway asks the parts every other second: at first it may not know yet.
    expect(page.locator("#what-to-do")).to_be_visible()
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outlined = page.evaluate(
            "[document.activeElement, document.querySelector('#chart')]"
            ".some(e => getComputedStyle(e).outlineStyle === 'solid')"
        )
        assert outlined, f"nobody sees that {reached[-1]} has the focus"
    assert reached == ["to-ask", "what-to-do", "minute", "ask-key"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#legend-when")).not_to_have_text("Last hour")
    assert "tokens" in str(page.get_attribute("#minute", "aria-valuetext"))
    page.keyboard.press("Escape")
    expect(page.locator("#legend-when")).to_have_text("Last hour")


def test_a_part_that_goes_down_is_shown_with_what_to_do_and_comes_back(
    host: FakeHost, visit: Visit
) -> None:
    page = visit.open()
    verdict(page).to_have_text("All services are healthy")
    host.down("lmcache")
    verdict(page).to_have_text("LMCache is unhealthy")
    part = page.locator("#services li", has_text="LMCache")
    expect(part).to_contain_text("docker logs --tail 50 infbox-lmcache-1")
    expect(part).to_contain_text("docs/troubleshooting.md#lmcache-is-down")
    expect(page.locator("#storage")).to_contain_text("disk")
    host.up("lmcache")
    verdict(page).to_have_text("All services are healthy")


def test_the_kv_cache_is_shown_beside_its_plan(host: FakeHost, visit: Visit) -> None:
    page = visit.open()
    expect(page.locator("#kv-tokens")).to_have_text("of 96.8K tokens, 94.2K planned")
    expect(page.locator("#notes li")).to_have_count(0)
    host.engine.kv_tokens = "80000"
    expect(page.locator("#notes li")).to_have_count(1)
    host.engine.kv_tokens = "96800"
    expect(page.locator("#notes li")).to_have_count(0)


def test_what_is_old_says_how_old_it_is(host: FakeHost, visit: Visit) -> None:
    page = visit.open()
    host.down("watcher")
    expect(page.locator("#workspaces-age")).to_contain_text("s ago", timeout=20_000)
    expect(page.locator("#workspaces")).to_contain_text("413")
    expect(page.locator("#cache-age")).to_be_empty()


def test_it_finds_the_gateway_again_after_a_restart(browser: Browser, host: FakeHost) -> None:
    page = browser.new_page(viewport=SIZES["phone"])
    with host.gateway() as gateway:
        visit = Visit(page, gateway.url)
        visit.open()
        address = Listen("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    verdict(page).to_have_text("No connection")
    expect(page.locator("#verdict-more")).to_contain_text("The data below is from")
    expect(page.locator("#workspaces")).to_contain_text("shop")
    with host.gateway(listen=address):
        verdict(page).to_have_text("All services are healthy")
        expect(page.locator("#link-text")).to_contain_text("Live")
    page.close()


def test_where_too_many_look_on_it_asks_now_and_then(visit: Visit) -> None:
    visit.page.route("**/status/events", lambda route: route.fulfill(status=503))
    page = visit.open()
    verdict(page).to_have_text("All services are healthy")
    expect(page.locator("#link-text")).to_contain_text("Every 10 s")


def test_who_may_no_longer_look_is_told_so(visit: Visit) -> None:
    for path in ("status", "status/events"):
        visit.page.route(f"**/{path}", lambda route: route.fulfill(status=401))
    go_to(visit.page, visit.url)
    expect(visit.page.locator("#verdict-more")).to_contain_text("Your key is no longer valid")


def test_whoever_has_signed_in_can_sign_out(browser: Browser, host: FakeHost, visit: Visit) -> None:
    link = visit.open().get_by_role("link", name="Sign out")
    expect(link).to_be_hidden()  # there is nothing to sign out from
    settings = host.settings()
    signs_in = settings._replace(status=settings.status._replace(sign_in=True))
    with host.gateway(signs_in) as gateway:
        page = browser.new_page()
        go_to(page, gateway.url)
        expect(page.get_by_role("link", name="Sign out")).to_have_attribute("href", "/sign-out")
        page.close()


def test_nobody_is_asked_for_a_page_in_the_background(host: FakeHost, visit: Visit) -> None:
    page = visit.open()
    page.evaluate("""
        Object.defineProperty(document, "hidden", {value: true, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    """)
    time.sleep(2.5)  # the sample that was due already
    before = host.asked
    time.sleep(3)
    assert host.asked == before


def test_who_wants_no_motion_gets_none(browser: Browser, host: FakeHost) -> None:
    with host.gateway() as gateway:
        for motion, seconds in (("reduce", "0s"), ("no-preference", "0.4s")):
            page = browser.new_page(reduced_motion=motion)  # type: ignore[arg-type]
            Visit(page, gateway.url).open()
            took = page.evaluate(
                "getComputedStyle(document.querySelector('.fill')).transitionDuration"
            )
            assert took == seconds
            page.close()
