"""The tools at /mcp, by the SDK's own client against the real gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client

from fake_engine import FakeEngine
from infbox import kinds
from infbox.gateway.app import Gateway
from infbox.retrieval import texts
from infbox.tools import catalog, reading, searching
from infbox.tools.source import Source
from infbox.tree.files import Tree
from infbox.watcher.text_index import TextIndex
from infbox.watching import index
from serving import get_text, serving, settings_for
from trees import fill, git

if TYPE_CHECKING:
    from infbox.config import Config

CANARY = "ineffable"
"""Stands in each file that must not be shown, and in no other."""

PRICES = """\
from decimal import Decimal


class Prices:
    \"\"\"Prices of orders.\"\"\"

    def total(self, order):
        return sum(line.price for line in order.lines)


def discount(price):
    return price * Decimal("0.9")
"""
FILES = {
    ".gitignore": "ignored.py\nbuild/\n",
    ".infboxignore": "private/\n",
    "shop/prices.py": PRICES,
    "shop/orders.py": "from shop.prices import discount\n\nTOTAL = discount(3)\n",
    "docs/guide.md": "# Guide\n\nHow a discount is given.\n",
    "ignored.py": f"# {CANARY} discount\n",
    "build/out.py": f"# {CANARY} discount\n",
    "private/plan.md": f"{CANARY} discount\n",
    ".env": f"KEY={CANARY}\n",
    "secrets.json": f'{{"key": "{CANARY}"}}\n',
    "keys.py": f'# {CANARY}\naws_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzQXAMPLEKEq9"'
    "\n",
    "app.min.js": f"var {CANARY}=1\n",
}
ALLOWED = {".gitignore", ".infboxignore", "shop/prices.py", "shop/orders.py", "docs/guide.md"}


def state_of(tmp_path: Path) -> Path:
    return tmp_path / "state"


def bring_up(root: Path, state: Path, name: str = "shop") -> None:
    """Index a tree once, as the watcher does."""
    file = index.place(state, name)
    with contextlib.closing(index.Index(file)) as known, known.transaction():
        tree = Tree(root)
        known.keep(policy=tree.policy)
        rows = {}
        for path in tree.scan():
            content = tree.fetch(path)
            edit = known.next_edit()
            assert content.stamp
            rows[path] = index.Row(*content.stamp, content.digest, content.refused, edit, 0.0)
        known.write(rows, known.paths() - rows.keys())
        known.keep(edit=str(known.last_edit))
    keeper = TextIndex(texts.place(state, name), file, Tree(root))
    with contextlib.closing(keeper):
        while keeper.step():
            pass


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A tree in a repository, with an outside that links lead to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/far.py").write_text(f"# {CANARY} discount\n")
    root = fill(tmp_path / "shop", FILES)
    git(root, "init", "--quiet")
    (root / "link.py").symlink_to(tmp_path / "outside/far.py")
    (root / "linked").symlink_to(tmp_path / "outside")
    bring_up(root, state_of(tmp_path))
    return root


@dataclass
class Site:
    """A gateway with the tools."""

    url: str
    config: Config

    def call(self, tool: str, **arguments: Any) -> tuple[str, bool]:
        """Call a tool by the SDK's client; return its text, and whether it was refused."""

        async def run() -> tuple[str, bool]:
            async with Client(f"{self.url}/mcp/shop") as client:
                result = await client.call_tool(tool, arguments)
                return result.content[0].text, bool(result.is_error)  # type: ignore[union-attr]

        return anyio.run(run)

    def done(self, tool: str, **arguments: Any) -> str:
        text, is_error = self.call(tool, **arguments)
        assert not is_error, text
        return text

    def refused(self, tool: str, **arguments: Any) -> str:
        text, is_error = self.call(tool, **arguments)
        assert is_error, text
        return text

    def post(self, path: str, **headers: str) -> httpx2.Response:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"accept": "application/json, text/event-stream"}
        return httpx2.post(f"{self.url}{path}", json=body, headers={**accept, **headers})


@contextlib.contextmanager
def running(
    tmp_path: Path, weights: kinds.Weights = kinds.DEFAULTS, **gateway: Any
) -> Iterator[Site]:
    with FakeEngine().running() as upstream:
        config = settings_for(tmp_path, upstream.url, shop=(tmp_path / "shop", 1000))
        config = config._replace(gateway=config.gateway._replace(**gateway), weights=weights)
        with serving(Gateway(config).app) as url:
            yield Site(url, config)


@pytest.fixture
def site(tmp_path: Path, shop: Path) -> Iterator[Site]:
    with running(tmp_path) as running_site:
        yield running_site


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_sdks_client_finds_the_tools_by_either_handshake(site: Site, mode: str) -> None:
    async def names() -> list[str]:
        async with Client(f"{site.url}/mcp/shop", mode=mode) as client:
            listed = await client.list_tools()
            assert all(
                tool.annotations and tool.annotations.read_only_hint for tool in listed.tools
            )
            return [tool.name for tool in listed.tools]

    assert anyio.run(names) == ["search", "read", "outline", "references", "changed_since"]


def test_the_weights_that_are_set_order_what_a_search_finds(tmp_path: Path, shop: Path) -> None:
    fill(shop, {"docs/price.md": PRICES})
    git(shop, "add", "--all")
    bring_up(shop, state_of(tmp_path))
    query = "how is a discount of the price computed?"
    docs = kinds.changed(kinds.RETRIEVAL_WEIGHTS, {"docs": 1000}, "")
    for weights, first in (
        (kinds.DEFAULTS, "shop/prices.py:"),
        (kinds.Weights(retrieval=docs), "docs/price.md:"),
    ):
        with running(tmp_path, weights) as site:
            assert site.done("search", query=query).startswith(first)


def test_a_search_by_words_shows_what_is_about_them(site: Site) -> None:
    found = site.done("search", query="how is a discount of the price computed?")
    assert "shop/prices.py" in found
    assert "return price * Decimal" in found


def test_a_symbol_is_found_where_it_is_defined(site: Site) -> None:
    found = site.done("search", query="discount", kind="symbol")
    assert "11\tdef discount(price):" in found
    assert "orders.py" not in found


def test_a_type_is_found_where_it_begins_and_not_once_more_for_each_member(
    tmp_path: Path, shop: Path
) -> None:
    member = "    def m{n}(self):\n" + "        return 'a long line of a member'\n" * 12 + "\n"
    large = "class Large:\n" + "".join(member.replace("{n}", str(n)) for n in range(8))
    fill(shop, {"shop/large.py": large})
    bring_up(shop, state_of(tmp_path))
    with running(tmp_path) as site:
        found = site.done("search", query="Large", kind="symbol")
        assert found.count("shop/large.py:") == 1
        assert "1\tclass Large:" in found
        assert "def m3(self)" in site.done("search", query="m3", kind="symbol")


def test_a_pattern_finds_lines_with_their_numbers(site: Site) -> None:
    found = site.done("search", query=r"^def \w+\(", kind="regex")
    assert found == "shop/prices.py:11: def discount(price):"
    assert "prices.py:11" in site.done("search", query="^DEF", kind="regex", ignore_case=True)
    assert "Nothing" in site.done("search", query="^def", kind="regex", path="docs")


@pytest.mark.parametrize("pattern", [r"\Adef", r"(?-m)^def", r"(?m)^def", r"\Qdef", r"(?s)^def.d"])
def test_each_line_is_matched_by_itself_however_a_pattern_is_written(
    site: Site, pattern: str
) -> None:
    assert "shop/prices.py:11:" in site.done("search", query=pattern, kind="regex")


def test_a_pattern_that_hangs_others_is_matched_at_once_and_a_bad_one_refused(site: Site) -> None:
    assert "Nothing" in site.done("search", query="(a*)*(a*)*(a*)*b$$x", kind="regex")
    for bad in ("(", "(?=a)", r"(a)\1", "a{1000}{1000}"):
        assert "RE2's syntax" in site.refused("search", query=bad, kind="regex")


def test_references_are_the_lines_that_use_a_name(site: Site) -> None:
    found = site.done("references", name="discount").splitlines()
    assert [line.split(": ")[0] for line in found] == [
        "docs/guide.md:3",
        "shop/orders.py:1",
        "shop/orders.py:3",
        "shop/prices.py:11",
    ]
    assert "Nothing" in site.done("references", name="iscount")
    assert "Nothing" in site.done("references", name=".*")


def test_lines_of_a_file_are_read_with_their_numbers(site: Site) -> None:
    assert site.done("read", path="shop/prices.py", start=11, lines=1) == (
        "shop/prices.py, lines 11 to 11 of 12\n11\tdef discount(price):"
    )
    assert "12 lines" in site.refused("read", path="shop/prices.py", start=13)


def test_an_outline_names_definitions_and_what_a_directory_holds(site: Site) -> None:
    assert site.done("outline", path="shop/prices.py").splitlines()[1:] == [
        "Prices 4-8",
        "  total 7-8",
        "discount 11-12",
    ]
    listed = site.done("outline")
    assert "shop/ (2 files)" in listed
    assert f"{len(ALLOWED)} files" in listed
    assert "shop/orders.py" in site.done("outline", path="shop/")


def test_what_was_edited_since_a_call_is_told(site: Site, shop: Path, tmp_path: Path) -> None:
    since = int(site.done("changed_since").rpartition("since=")[2].split()[0])
    assert "no file" in site.done("changed_since", since=since)
    with contextlib.closing(index.Index(index.place(state_of(tmp_path), "shop"))) as known:
        row = known.row("shop/orders.py")
        assert row
        known.write_one("shop/orders.py", row._replace(edit=known.next_edit()))
    told = site.done("changed_since", since=since)
    assert "shop/orders.py" in told
    assert "prices.py" not in told


HIDDEN = [
    *("ignored.py", "build/out.py", "private/plan.md", ".env", "secrets.json", "keys.py"),
    *("app.min.js", "link.py", "linked/far.py", "linked", "../outside/far.py", "..", ".git/config"),
    *("shop/../ignored.py", "./ignored.py", "/etc/passwd", "\0", "ignored.py\0.md", "a" * 1000),
]


@pytest.mark.parametrize("path", HIDDEN)
def test_what_scan_would_not_list_is_never_shown(site: Site, path: str) -> None:
    for tool in ("read", "outline"):
        assert CANARY not in site.refused(tool, path=path)


def test_no_search_shows_what_scan_would_not_list(site: Site) -> None:
    for kind in ("text", "symbol", "regex"):
        for query in (CANARY, "discount", "."):
            found = site.done("search", query=query, kind=kind)
            own_words = (f"Nothing was found for {CANARY}.", f"No definition of {CANARY} is known.")
            assert CANARY not in found or found.startswith(own_words)
    assert CANARY not in site.done("references", name="discount")
    shown = site.done("changed_since")
    assert {line.split(" (")[0] for line in shown.splitlines()[1:-1]} == ALLOWED


def test_what_the_watcher_refuses_now_is_not_shown_though_the_text_index_has_it_still(
    site: Site, tmp_path: Path
) -> None:
    with contextlib.closing(index.Index(index.place(state_of(tmp_path), "shop"))) as known:
        row = known.row("shop/prices.py")
        assert row
        known.write_one("shop/prices.py", row._replace(refused="secret by content"))
    site.refused("read", path="shop/prices.py")
    site.refused("outline", path="shop/prices.py")
    for kind in ("text", "symbol", "regex"):
        assert "shop/prices.py" not in site.done("search", query="discount", kind=kind)
    assert "shop/prices.py" not in site.done("references", name="discount")


TEXTS = st.one_of(
    st.text(max_size=50),
    st.sampled_from(["", ".", "..", "shop", "%", "*", '"', "'; --", "\ud800", "linked", *HIDDEN]),
)
VALUES = st.one_of(
    TEXTS,
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, -1, 0, 10**30]),
    st.none(),
    st.booleans(),
    st.floats(),
    st.lists(TEXTS, max_size=2),
)


@given(data=st.data())
def test_whatever_a_client_sends_nothing_hidden_is_shown_and_nothing_breaks(
    data: st.DataObject, shop: Path, tmp_path: Path
) -> None:
    tool = data.draw(st.sampled_from(catalog.TOOLS))
    names = st.sampled_from([*tool.parameters, "other"])
    arguments = data.draw(st.dictionaries(names, VALUES))
    for name, parameter in tool.parameters.items():
        if parameter.is_required and data.draw(st.booleans()):
            arguments[name] = data.draw(TEXTS)
        if parameter.choices and data.draw(st.booleans()):
            arguments[name] = data.draw(st.sampled_from(parameter.choices))
    try:
        text = catalog.call(state_of(tmp_path), "shop", tool, arguments)
    except catalog.ToolError as error:
        text = str(error)
    assert text.encode()
    assert CANARY not in text or CANARY in str(arguments)
    assert len(text) <= 2 * reading.MAX_CHARS


def test_answers_are_bounded(tmp_path: Path, shop: Path) -> None:
    lines = "".join(f"wide = {n}  # {'x' * 100}\n" for n in range(2200))
    fill(shop, {"shop/wide.py": lines, "shop/flat.md": "flat words " * 330 + "\n"})
    fill(shop, {f"many/m{n}.py": "common = 1\n" for n in range(600)})
    bring_up(shop, state_of(tmp_path))
    with running(tmp_path) as site:
        read = site.done("read", path="shop/wide.py", lines=2000)
        assert len(read) <= reading.MAX_CHARS + 200
        flat = site.done("read", path="shop/flat.md").splitlines()[1]
        assert len(flat) <= reading.MAX_LINE_CHARS + 10
        found = site.done("references", name="common", max_results=100).splitlines()
        assert len(found) == 101
        assert "There are more" in found[-1]
        listed = site.done("outline", path="many").splitlines()
        assert len(listed) == reading.MAX_ENTRIES + 2
        assert listed[-1] == "… 100 more"
        assert "max_results must be 1 to 100" in site.refused(
            "references", name="common", max_results=101
        )
        assert "lines must be" in site.refused("read", path="shop/wide.py", lines=2**70)
        assert "may have" in site.refused("search", query="x" * 4001)


def test_a_search_that_takes_too_long_ends_and_says_so(shop: Path, tmp_path: Path) -> None:
    with contextlib.closing(Source(state_of(tmp_path), "shop", seconds=0)) as source:
        assert "Not all files" in searching.by_pattern(source, "discount", "", 10)


def test_without_an_index_a_tool_says_why(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        assert "cannot be read at present" in site.refused("outline")


def test_a_workspace_is_named_by_path_or_header_and_must_be_there(site: Site) -> None:
    assert site.post("/mcp/shop").status_code == 200
    assert site.post("/mcp", **{"x-infbox-workspace": "shop"}).status_code == 200
    assert site.post("/mcp").status_code == 200  # there is only one
    missing = site.post("/mcp/other")
    assert missing.status_code == 404
    assert "There are: shop" in missing.text
    both = site.post("/mcp/shop", **{"x-infbox-workspace": "other"})
    assert both.status_code == 400


def test_a_request_without_a_user_is_refused_where_one_is_required(
    tmp_path: Path, shop: Path
) -> None:
    with running(tmp_path, requires_user=True) as site:
        assert site.post("/mcp/shop").status_code == 401
        assert site.post("/mcp/shop", **{"x-infbox-user": "anna"}).status_code == 200


def test_other_methods_and_large_bodies_are_refused(site: Site) -> None:
    for method in ("GET", "DELETE", "PUT"):
        assert httpx2.request(method, f"{site.url}/mcp/shop").status_code == 405
    large = httpx2.post(f"{site.url}/mcp/shop", content=b" " * 100_000)
    assert large.status_code == 413


def test_calls_are_counted_by_tool_and_no_stranger_makes_labels(site: Site) -> None:
    site.done("outline")
    assert "There is no tool" in site.refused("rm -rf")
    metrics = get_text(f"{site.url}/metrics")
    labels = 'infbox_gateway_tool_calls_total{result="%s",tool="%s",user="",workspace="shop"} 1.0'
    assert labels % ("done", "outline") in metrics
    assert labels % ("refused", "") in metrics
    assert "rm -rf" not in metrics


def test_tools_can_be_switched_off(tmp_path: Path, shop: Path) -> None:
    with running(tmp_path, tools=False) as site:
        assert "outline" not in site.post("/mcp/shop").text  # it is the engine's to answer
