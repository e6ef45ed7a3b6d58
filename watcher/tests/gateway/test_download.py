"""A pack by itself, for programs that build their own prompts."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from gateway_stack import TEXT, Answer, Stack, publish

PACK = "/v1/workspaces/shop/pack"
WHOLE = TEXT.encode()


def fetch(stack: Stack, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(*stack.ask("GET", PACK, headers=named))


def test_a_pack_can_be_read(stack: Stack) -> None:
    answer = fetch(stack)
    assert (answer.status, answer.body) == (200, WHOLE)
    assert answer.headers["ETag"] == f'"{sha256(WHOLE).hexdigest()}"'
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Infbox-Version"] == "1"
    assert answer.headers["X-Infbox-Pack-Tokens"] == "100"


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_a_pack_that_is_known_is_not_sent_again(stack: Stack, tmp_path: Path, form: str) -> None:
    tag = fetch(stack).headers["ETag"]
    answer = fetch(stack, If_None_Match=form.format(tag))
    assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", tag)
    publish(tmp_path, "another text", version=2)
    assert fetch(stack, If_None_Match=tag).body == b"another text"


@pytest.mark.parametrize("tag", ["", "other", '"other"', "'*'x"])
def test_another_tag_gets_the_pack(stack: Stack, tag: str) -> None:
    assert fetch(stack, If_None_Match=tag).status == 200


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("Bytes=5-5", slice(5, 6)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=10-99999999", slice(10, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
def test_a_part_can_be_asked_for(stack: Stack, wanted: str, part: slice) -> None:
    answer = fetch(stack, Range=wanted)
    start, stop, _ = part.indices(len(WHOLE))
    assert (answer.status, answer.body) == (206, WHOLE[part])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(WHOLE)}"


@pytest.mark.parametrize(
    "wanted", ["bytes=9-5", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "x", f"bytes={'9' * 5000}-"]
)
def test_what_is_no_single_range_gets_the_whole(stack: Stack, wanted: str) -> None:
    assert fetch(stack, Range=wanted).body == WHOLE


@pytest.mark.parametrize("wanted", [f"bytes={len(WHOLE)}-", "bytes=-0"])
def test_a_part_that_is_not_there_is_said_so(stack: Stack, wanted: str) -> None:
    answer = fetch(stack, Range=wanted)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(WHOLE)}"


def test_a_part_of_another_version_is_not_mixed_in(stack: Stack) -> None:
    tag = fetch(stack).headers["ETag"]
    assert fetch(stack, Range="bytes=0-3", If_Range=tag).status == 206
    assert fetch(stack, Range="bytes=0-3", If_Range='"older"').body == WHOLE


def test_a_workspace_without_a_pack_and_an_unknown_one_have_none(stack: Stack) -> None:
    status, _, body = stack.ask("GET", "/v1/workspaces/bare/pack")
    assert (status, b"has no pack yet" in body) == (404, True)
    status, _, body = stack.ask("GET", "/v1/workspaces/other/pack")
    assert (status, b"There are: shop, bare" in body) == (404, True)
