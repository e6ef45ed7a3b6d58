"""A real Chromium, in front of a real gateway on a host whose other parts are fakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_host import FakeHost, told
from playwright.sync_api import Browser

from tests.page.visit import SIZES, Visit, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    """A host with three workspaces, one of them with a long name."""
    names = ("shop", "billing-service-of-the-other-team", "infrastructure")
    with FakeHost(tmp_path, names).running() as host:
        host.workspaces["infrastructure"] = told(last_save=None, save_to_warm_seconds=None)
        yield host


@pytest.fixture
def visit(browser: Browser, host: FakeHost) -> Iterator[Visit]:
    """A desktop's visit, in light colours."""
    with host.gateway() as gateway:
        page = browser.new_page(viewport=SIZES["desktop"], color_scheme="light")
        yield Visit(page, gateway.url)
        page.close()
