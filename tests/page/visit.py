"""A visit of the status page, and pictures of it at every size."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Error, Page, ViewportSize, expect, sync_playwright

from lab import engine, hosts
from lab.images import lock
from lab.settings import STATE

CHROMIUM = "/usr/bin/chromium"
PICTURES = STATE / "pages"
SIZES: dict[str, ViewportSize] = {
    "phone": {"width": 390, "height": 844},
    "tablet": {"width": 820, "height": 1180},
    "desktop": {"width": 1440, "height": 900},
}
TRIES = 20
SOON = 15_000  # milliseconds: two samples, and a try to connect again
expect.set_options(timeout=SOON)
RULES = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
# What moved without anybody having done anything, as Chromium counts it: 0 is nothing.
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


@contextlib.contextmanager
def chromium(program: str | Path = CHROMIUM) -> Iterator[Browser]:
    """Start Debian's Chromium, installed where it is missing.

    Args:
        program: that starts it.
    """
    with lock():  # several stages of `make test` may want it at once
        engine.ensure_packages({CHROMIUM: "chromium"})
    with sync_playwright() as playwright:
        # Its sandbox wants a user other than root, and namespaces that a container may lack.
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=False)
        yield browser
        browser.close()


@contextlib.contextmanager
def chromium_at(host: hosts.Host) -> Iterator[Browser]:
    """Start Chromium in the network of a lab host; as another user than root, in this machine's.

    It ends all connections when its network gets an interface, as this machine's does with each
    lab host that another stage creates.
    """
    if os.geteuid() != 0:
        with chromium() as browser:
            yield browser
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "chromium"
        network = hosts.network_of(host.instance)
        program.write_text(f'#!/bin/sh\nexec nsenter --net={network} {CHROMIUM} "$@"\n')
        program.chmod(0o700)
        with chromium(program) as browser:
            yield browser


def go_to(page: Page, url: str) -> None:
    """Open an address, again if the network of this machine changed meanwhile.

    With each lab host that another stage creates the machine gets an interface, and Chromium then
    ends all connections.

    Raises:
        TimeoutError: it changed each time.
    """
    for _ in range(TRIES):
        try:
            page.goto(url)
        except Error as error:
            if "ERR_NETWORK_CHANGED" not in error.message:
                raise
        else:
            return
    raise TimeoutError(f"the network changed {TRIES} times while {url} was opened")


class Visit:
    """A page that is open, and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.add_init_script(SHIFTS)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def open(self) -> Page:
        """Open it, and wait until it shows how things are."""
        go_to(self.page, self.url)
        self.page.wait_for_selector("body[data-state=shown]")
        return self.page


def look_at_every_size(page: Page, name: str) -> None:
    """Take pictures, and have axe look for what cannot be read, reached or understood."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)
        page.screenshot(path=PICTURES / f"{size}-{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    for size in ("phone", "desktop"):  # what lies between them has the same colours and names
        page.set_viewport_size(SIZES[size])
        found = Axe().run(page, options=RULES)
        assert found.violations_count == 0, found.generate_report()
