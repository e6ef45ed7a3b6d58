"""Signing in: a real provider in a process of its own, and one that lies about who somebody is."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from infbox import config
from infbox.auth import sign_in
from infbox.auth.oidc import Provider, RefusedError
from infbox.auth.sessions import Person, Sessions
from infbox.auth.sign_in import SESSION_COOKIE, WAY_COOKIE, SignInApp
from provider import Browser, Liar, Page, changed, know, provider
from serving import ANY, free_port, get_text, serving

ORIGIN = "https://gpu1.example.org"
CONSOLES = "https://gpu1.example.org:8443"
HOUR = 3600


class Clock:
    """Seconds, as the test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A sign-in, with a clock of its own.

    Args:
        issuer: of the provider.
        changes: of the settings.
    """

    def __init__(self, issuer: str, **changes: Any) -> None:
        self.settings = config.SignIn(
            listen=ANY, origin=ORIGIN, consoles={"/grafana": CONSOLES}, issuer=issuer,
            client_id="infbox", scopes=("openid", "profile", "email"), groups_claim="groups",
            groups=frozenset({"coders"}), session_seconds=12 * HOUR, idle_seconds=HOUR,
        )  # fmt: skip
        self.settings = self.settings._replace(**changes)
        self.clock = Clock()
        sessions = Sessions(
            self.settings.session_seconds, self.settings.idle_seconds, clock=self.clock
        )
        self.sign_in = SignInApp(self.settings, Provider(self.settings, "secret"), sessions)
        self.url = ""

    def browser(self) -> Browser:
        return Browser(self.url, ORIGIN)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with provider() as issuer:
        know(issuer, "alice", preferred_username="alice", groups=["others", "coders"])
        know(issuer, "bob", preferred_username="bob", groups=["others"])
        know(issuer, "carol", email="carol@example.org", email_verified=True, hd="example.org")
        know(issuer, "mallory", email="carol@example.org", email_verified=False)
        know(issuer, "eve", preferred_username="<b>e\nve</b>", groups="coders ")
        yield issuer


@pytest.fixture
def site(issuer: str) -> Iterator[Site]:
    site = Site(issuer)
    with serving(site.sign_in.app()) as site.url:
        yield site


@pytest.fixture(scope="module")
def lying() -> Iterator[Liar]:
    with Liar().running() as liar:
        know(liar.issuer, "alice", preferred_username="alice", groups=["coders"])
        yield liar


@pytest.fixture
def liar(lying: Liar) -> Liar:
    lying.change, lying.token, lying.publishes_key = lambda _: None, None, True
    lying.userinfo = ""
    return lying


def through(liar: Liar, subject: str = "alice") -> Page:
    """Sign in at a provider that lies."""
    site = Site(liar.issuer)
    with serving(site.sign_in.app()) as site.url:
        return site.browser().sign_in(subject)


@pytest.mark.parametrize(
    ("others", "of_groups", "told"),
    [
        (("*",), {}, "*"),
        ((), {}, "-"),
        ((), {"coders": ("shop", "web-*")}, "shop,web-*"),
        (("*",), {"coders": ("shop",)}, "shop"),
        (("*",), {"coders": (), "strangers": ("*",)}, "-"),
        ((), {"coders": ("shop",), "others": ("web", "shop")}, "shop,web"),
        ((), {"coders": ("shop",), "others": ("*",)}, "*"),
    ],
)
def test_who_signs_in_is_shown_the_workspaces_of_the_groups(
    issuer: str, others: tuple[str, ...], of_groups: dict[str, tuple[str, ...]], told: str
) -> None:
    site = Site(issuer, workspaces=others, group_workspaces=of_groups)
    with serving(site.sign_in.app()) as site.url:
        browser = site.browser()
        browser.sign_in("alice", to="/status")
        assert browser.check("/status").headers["x-infbox-workspaces"] == told


def test_a_member_of_a_group_signs_in_and_gets_the_page_that_was_asked_for(site: Site) -> None:
    browser = site.browser()
    sent = browser.check("/status")
    assert (sent.status, sent.headers["location"]) == (302, f"{ORIGIN}/sign-in?to=%2Fstatus")
    back = browser.sign_in("alice", to="/status")
    assert (back.status, back.headers["location"]) == (303, f"{ORIGIN}/status")
    seen = browser.check("/status")
    assert (seen.status, seen.headers["x-infbox-user"]) == (200, "alice")


def test_the_cookie_is_for_this_host_alone_and_for_no_script(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("alice")
    told = browser.told[SESSION_COOKIE]
    assert SESSION_COOKIE.startswith("__Host-")
    assert {part.strip().lower() for part in told.split(";")[1:]} == {
        "path=/", "secure", "httponly", "samesite=lax",
    }  # fmt: skip
    assert len(browser.cookies[SESSION_COOKIE]) == 43
    assert WAY_COOKIE not in browser.cookies


def test_the_provider_is_asked_for_a_code_with_pkce_state_and_nonce(site: Site) -> None:
    first, second = (
        dict(parse_qsl(urlsplit(site.browser().get("/sign-in").headers["location"]).query))
        for _ in range(2)
    )
    assert (first["response_type"], first["code_challenge_method"]) == ("code", "S256")
    assert first["redirect_uri"] == f"{ORIGIN}/sign-in/callback"
    assert first["scope"].split() == ["openid", "profile", "email"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name]) >= 43
        assert first[name] != second[name]


def test_the_code_comes_with_the_verifier_and_the_secret(liar: Liar) -> None:
    site = Site(liar.issuer)
    with serving(site.sign_in.app()) as site.url:
        browser = site.browser()
        url = browser.get("/sign-in").headers["location"]
        assert browser.get(browser.at_provider(url, "alice")).status == 303
    challenge = dict(parse_qsl(urlsplit(url).query))["code_challenge"]
    digest = sha256(liar.asked["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == challenge
    assert liar.asked["grant_type"] == "authorization_code"
    assert liar.authorization == "Basic " + base64.b64encode(b"infbox:secret").decode()


@pytest.mark.parametrize("subject", ["bob", "carol", "eve", "stranger"])
def test_who_is_in_no_group_is_told_so_and_gets_no_session(site: Site, subject: str) -> None:
    browser = site.browser()
    page = browser.sign_in(subject)
    assert page.status == 403
    assert "You are not in the group" in page.text
    assert "<b>" not in page.text
    assert SESSION_COOKIE not in browser.cookies
    assert browser.check().status == 302


def test_a_claim_may_be_one_text_and_may_come_from_userinfo_alone(issuer: str) -> None:
    site = Site(issuer, groups_claim="hd", groups=frozenset({"example.org"}))
    with serving(site.sign_in.app()) as site.url:
        browser = site.browser()
        assert browser.sign_in("carol").status == 303
        assert browser.check().headers["x-infbox-user"] == "carol@example.org"


def test_an_address_that_nobody_verified_is_nobodys(issuer: str) -> None:
    site = Site(issuer, groups_claim="email", groups=frozenset({"carol@example.org"}))
    with serving(site.sign_in.app()) as site.url:
        assert site.browser().sign_in("mallory").status == 403
        assert site.browser().sign_in("carol").status == 303


def test_a_session_ends_when_it_is_not_used(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("alice")
    for _ in range(3):
        site.clock.now += HOUR - 1
        assert browser.check().status == 200
    site.clock.now += HOUR
    assert browser.check().status == 302


def test_a_session_ends_however_much_it_is_used(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("alice")
    for _ in range(12 * 2 - 1):
        site.clock.now += HOUR / 2
        assert browser.check().status == 200
    site.clock.now += HOUR / 2
    assert browser.check().status == 302


def test_a_stolen_cookie_is_worth_nothing_after_the_sign_out(site: Site) -> None:
    browser, thief = site.browser(), site.browser()
    browser.sign_in("alice")
    thief.cookies = dict(browser.cookies)
    assert thief.check().status == 200
    assert "You are signed in as alice" in browser.get("/sign-out").text
    page = browser.ask("POST", "/sign-out", {"Sec-Fetch-Site": "same-origin"})
    assert (page.status, "You are signed out" in page.text) == (200, True)
    assert f'{site.settings.issuer}/oauth2/end_session?client_id=infbox"' in page.text
    assert SESSION_COOKIE not in browser.cookies
    assert thief.check().status == 302


def test_another_site_cannot_sign_somebody_out(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("alice")
    for origin in ("cross-site", "same-site"):
        assert browser.ask("POST", "/sign-out", {"Sec-Fetch-Site": origin}).status == 403
    assert browser.get("/sign-out").status == 200
    assert browser.check().status == 200


def test_signing_in_again_ends_the_session_before_and_takes_no_given_one(site: Site) -> None:
    browser, thief = site.browser(), site.browser()
    browser.sign_in("alice")
    thief.cookies = dict(browser.cookies)
    browser.sign_in("alice")
    assert browser.cookies[SESSION_COOKIE] != thief.cookies[SESSION_COOKIE]
    assert thief.check().status == 302
    browser.cookies[SESSION_COOKIE] = "given"
    browser.sign_in("alice")
    assert browser.cookies[SESSION_COOKIE] != "given"


@pytest.mark.parametrize("state", ["", "x", None])
def test_an_answer_with_another_state_signs_nobody_in(site: Site, state: str | None) -> None:
    browser, other = site.browser(), site.browser()
    target = browser.at_provider(browser.get("/sign-in").headers["location"], "alice")
    other.get("/sign-in")
    back = other if state is None else browser
    page = back.get(target if state is None else changed(target, state=state))
    assert (page.status, "was started in another browser" in page.text) == (400, True)
    assert SESSION_COOKIE not in back.cookies


def test_an_answer_is_good_once_and_in_its_own_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = site.browser()
    target = browser.at_provider(browser.get("/sign-in").headers["location"], "alice")
    way = browser.cookies[WAY_COOKIE]
    assert browser.get(target).status == 303
    assert browser.get(target).status == 400
    browser.cookies[WAY_COOKIE] = way
    assert "is not valid" in browser.get(target).text  # the provider knows the code no more
    target = browser.at_provider(browser.get("/sign-in").headers["location"], "alice")
    late = time.time() + 601
    monkeypatch.setattr(time, "time", lambda: late)
    assert browser.get(target).status == 400


def test_a_token_with_another_nonce_signs_nobody_in(site: Site) -> None:
    browser = site.browser()
    url = changed(browser.get("/sign-in").headers["location"], nonce="another")
    page = browser.get(browser.at_provider(url, "alice"))
    assert (page.status, "is not valid" in page.text) == (400, True)
    assert SESSION_COOKIE not in browser.cookies


def test_the_liar_is_believed_while_it_does_not_lie(liar: Liar) -> None:
    assert through(liar).status == 303


LIES: dict[str, Any] = {
    "another_audience": lambda claims: claims.update(aud="other"),
    "another_audience_by_us": lambda claims: claims.update(aud="other", azp="infbox"),
    "several_audiences": lambda claims: claims.update(aud=["infbox", "other"], azp="other"),
    "another_issuer": lambda claims: claims.update(iss="https://other.example.org"),
    "no_nonce": lambda claims: claims.pop("nonce"),
    "no_subject": lambda claims: claims.pop("sub"),
    "no_end": lambda claims: claims.pop("exp"),
    "an_end_that_was": lambda claims: claims.update(exp=int(time.time()) - 60),
    "a_beginning_to_come": lambda claims: claims.update(nbf=int(time.time()) + 600),
    "another_access_token": lambda claims: claims.update(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_for_somebody_else_or_another_time_is_refused(liar: Liar, lie: str) -> None:
    liar.change = LIES[lie]
    page = through(liar)
    assert (page.status, "is not valid" in page.text) == (400, True)


def test_userinfo_of_somebody_else_puts_nobody_into_a_group(liar: Liar) -> None:
    know(liar.issuer, "bob", preferred_username="bob")
    liar.userinfo = "alice"
    page = through(liar, "bob")
    assert (page.status, "is not valid" in page.text) == (400, True)
    liar.userinfo = "bob"
    assert through(liar, "bob").status == 303


def test_an_answer_that_names_another_provider_is_refused(site: Site) -> None:
    for issuer, status in (("https://other.example.org", 400), (site.settings.issuer, 303)):
        browser = site.browser()
        target = browser.at_provider(browser.get("/sign-in").headers["location"], "alice")
        assert browser.get(changed(target, iss=issuer)).status == status


def test_a_token_that_has_expired_is_refused() -> None:
    with Liar(token=lambda token: token, publishes_key=False).running(
        timedelta(seconds=-120)
    ) as late:
        know(late.issuer, "alice", groups=["coders"])
        assert through(late).status == 400


def tampered(token: str) -> str:
    """Put somebody into a group, and leave the signature as it was."""
    header, claims, signature = token.split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=="))
    content["groups"] = ["coders"]
    changed = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    return f"{header}.{changed}.{signature}"


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."


@pytest.mark.parametrize("token", [tampered, unsigned, lambda _: "x.y.z", lambda _: ""])
def test_a_tampered_token_is_refused(liar: Liar, token: Any) -> None:
    liar.token, liar.publishes_key = token, False
    assert through(liar).status == 400


def test_a_token_that_another_signed_is_refused(liar: Liar) -> None:
    liar.publishes_key = False
    assert through(liar).status == 400


def test_a_provider_that_is_another_is_not_asked(issuer: str) -> None:
    site = Site(issuer.replace("127.0.0.1", "localhost"))
    with serving(site.sign_in.app()) as site.url:
        page = site.browser().get("/sign-in")
        assert page.status == 302  # it names itself after the address it was asked at
    site = Site(issuer + "/")
    with serving(site.sign_in.app()) as site.url:
        assert site.browser().get("/sign-in").status == 503


def test_while_the_provider_is_away_nobody_new_is_let_in_and_nobody_is_put_out() -> None:
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(contextlib.ExitStack())
        issuer = there.enter_context(provider())
        know(issuer, "alice", groups=["coders"])
        site = Site(issuer)
        site.url = stack.enter_context(serving(site.sign_in.app()))
        browser, other = site.browser(), site.browser()
        browser.sign_in("alice")
        target = other.at_provider(other.get("/sign-in").headers["location"], "alice")
        there.close()
        page = other.get(target)
        assert (page.status, "The provider is not available" in page.text) == (503, True)
        assert browser.check().status == 200
        assert "You are signed out" in browser.ask("POST", "/sign-out").text


def test_a_provider_that_never_answered_is_away_and_the_way_is_kept() -> None:
    site = Site(f"http://127.0.0.1:{free_port()}")
    with serving(site.sign_in.app()) as site.url:
        page = site.browser().get("/sign-in?to=/status")
    assert (page.status, "The provider is not available" in page.text) == (503, True)
    assert 'href="/sign-in?to=%2Fstatus"' in page.text


def test_who_was_turned_down_there_is_told_so(site: Site) -> None:
    browser = site.browser()
    url = browser.get("/sign-in").headers["location"]
    target = browser.at_provider(url, "alice", action="deny")
    page = browser.get(target + ("" if "state=" in target else "&state=" + _state(url)))
    assert (page.status, "access_denied" in page.text) == (403, True)
    assert SESSION_COOKIE not in browser.cookies


@pytest.mark.parametrize(
    ("to", "there"),
    [
        ("/", f"{ORIGIN}/"),
        ("/status/events", f"{ORIGIN}/status/events"),
        ("/grafana/d/a?from=now-6h&to=now", f"{CONSOLES}/grafana/d/a?from=now-6h&to=now"),
        ("/grafana", f"{CONSOLES}/grafana"),
        ("https://evil.example", f"{ORIGIN}/"),
        ("//evil.example", f"{ORIGIN}/"),
        ("/\\evil.example", f"{ORIGIN}/"),
        ("/grafana\\@evil.example", f"{ORIGIN}/"),
        ("/grafana.evil.example", f"{ORIGIN}/"),
        ("@evil.example", f"{ORIGIN}/"),
        ("/sign-out", f"{ORIGIN}/"),
        ("/status\r\nX: y", f"{ORIGIN}/"),
        ("/grafana/é", f"{ORIGIN}/"),
        ("/grafana/" + "x" * 2000, f"{ORIGIN}/"),
    ],
)  # fmt: skip
def test_one_gets_to_pages_of_ours_and_to_none_of_anybody_else(
    site: Site, to: str, there: str
) -> None:
    assert site.browser().sign_in("alice", to=to).headers["location"] == there


def test_what_is_no_page_is_told_that_it_is_not_signed_in(site: Site) -> None:
    for headers in ({"Sec-Fetch-Mode": "cors"}, {"X-Forwarded-Method": "POST"}):
        page = site.browser().check("/status/events", **headers)
        assert page.status == 401
        assert "www-authenticate" not in page.headers


OWN = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}


@pytest.mark.parametrize(("subject", "label"), [("alice", "alice"), ("carol", "carol-example.org")])
def test_who_is_signed_in_may_ask_on_the_page_by_a_name_that_no_user_has(
    issuer: str, subject: str, label: str
) -> None:
    site = Site(issuer, groups_claim="sub", groups=frozenset({subject}))
    with serving(site.sign_in.app()) as site.url:
        browser = site.browser()
        browser.sign_in(subject)
        seen = browser.get("/check-question", OWN)
        page = browser.check()
    assert seen.status == 200
    account = seen.headers["x-infbox-user"]
    assert re.fullmatch(rf"{label}-[0-9a-f]{{12}}@page", account)
    assert page.headers["x-infbox-account"] == account
    assert account == sign_in._account(issuer, {"sub": subject, "preferred_username": label})
    assert seen.headers["x-infbox-limits"] == "concurrent_requests=2"
    assert seen.headers["x-infbox-concurrent"] == "2"
    assert seen.headers["x-infbox-workspaces"] == "*"


@pytest.mark.parametrize(
    "changes",
    [
        {"Origin": CONSOLES, "Sec-Fetch-Site": "same-site"},
        {"Origin": CONSOLES},
        {"Origin": "null"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": None},
        {"Origin": None},
    ],
)
def test_no_other_page_asks_for_who_is_signed_in(
    site: Site, changes: dict[str, str | None]
) -> None:
    browser = site.browser()
    browser.sign_in("alice")
    headers = {name: value for name, value in (OWN | changes).items() if value}
    refused = browser.get("/check-question", headers)
    assert (refused.status, "x-infbox-user" in refused.headers) == (403, False)


def test_nobody_asks_without_being_signed_in(site: Site) -> None:
    refused = site.browser().get("/check-question", OWN)
    assert (refused.status, "location" in refused.headers) == (401, False)


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "\udcff"])
def test_a_cookie_that_is_none_of_ours_is_nobody(site: Site, cookie: str) -> None:
    browser = site.browser()
    browser.cookies = {SESSION_COOKIE: cookie.encode(errors="replace").decode()}
    assert browser.check().status == 302


def test_pages_are_styled_by_themselves_and_take_nothing_from_elsewhere(site: Site) -> None:
    page = site.browser().get("/sign-out")
    style = page.text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_what_happened_is_counted(site: Site) -> None:
    site.browser().sign_in("alice")
    site.browser().sign_in("bob")
    told = get_text(f"{site.url}/metrics")
    assert 'infbox_sign_ins_total{result="signed_in"} 1.0' in told
    assert 'infbox_sign_ins_total{result="not_in_group"} 1.0' in told
    assert "infbox_sessions 1.0" in told


def test_the_session_unused_longest_makes_room() -> None:
    sessions = Sessions(10, 10, most=2, clock=Clock())
    a, b, c = Person("a"), Person("b"), Person("c")
    first, second = sessions.begin(a), sessions.begin(b)
    assert sessions.person(first) == a
    third = sessions.begin(c)
    assert [sessions.person(token) for token in (first, second, third)] == [a, None, c]
    assert len(sessions) == 2


def _state(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["state"]


def test_nobody_else_is_called_the_same() -> None:
    name = {"preferred_username": "alice" * 20}
    accounts = {
        sign_in._account(issuer, {"sub": subject, **name})
        for issuer in ("https://one.example", "https://other.example")
        for subject in ("1", "2")
    }
    assert len(accounts) == 4
    assert all(re.fullmatch("[a-z0-9][a-z0-9._-]{0,31}@page", account) for account in accounts)
    for renamed in ("Alice B.", "", "ünï"):
        again = sign_in._account("https://one.example", {"sub": "1", "preferred_username": renamed})
        assert again[-17:] in {account[-17:] for account in accounts}
    for without in ({}, {"sub": ""}, {"sub": 5}):
        with pytest.raises(RefusedError, match="no subject"):
            sign_in._account("https://one.example", without)


def test_a_member_of_groups_has_the_widest_of_their_limits(issuer: str) -> None:
    limits = {
        "alice": {"tokens_per_day": 5, "tokens_per_minute": 0},
        "others": {"tokens_per_day": 1},
    }
    site = Site(issuer, groups_claim="sub", groups=frozenset({"alice"}), group_limits=limits)
    with serving(site.sign_in.app()) as site.url:
        browser = site.browser()
        browser.sign_in("alice")
        seen = browser.get("/check-question", OWN)
    assert seen.headers["x-infbox-limits"] == "tokens_per_day=5;concurrent_requests=2"
    assert site.sign_in._limits({"sub": ["alice", "others"]})["tokens_per_day"] == 5
