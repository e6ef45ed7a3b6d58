"""What is chosen for a question, and why."""

from __future__ import annotations

import pytest
from test_texts import filled

from infbox.kinds import RETRIEVAL_WEIGHTS, changed
from infbox.packing.tokens import MOST_CHARS, Estimate
from infbox.retrieval.search import choose, rendered
from infbox.retrieval.texts import Texts

ESTIMATE = Estimate()
PADDING = "".join(f"    value_{n} = {n}\n" for n in range(30))
FILES = {
    "shop/cart.py": f"def add_item(cart):\n{PADDING}\n\ndef total(cart):\n{PADDING}",
    "shop/users.py": f"def sign_in(user):\n{PADDING}\n\ndef total(user):\n{PADDING}",
    "tests/test_cart.py": f"def test_discount():\n{PADDING}",
    "docs/discount.md": "# Discount\n\nHow a discount is given to customers.\n" + "Prose.\n" * 60,
    **{f"other/{n}.py": f"def other_{n}():\n{PADDING}" for n in range(20)},
    "shop/price.py": f"def reduced(price):\n    # the discount of a customer\n{PADDING}",
}


def chosen(question: str, room: int = 2000, *, besides: str = "", **more: list[str]) -> list[str]:
    found = choose(filled(FILES), question, lambda path: path == besides, room, ESTIMATE, **more)
    return [f"{each.place.path}:{each.place.start}" for each in found]


def test_what_a_stack_trace_names_comes_first() -> None:
    trace = 'Traceback:\n  File "/srv/app/shop/users.py", line 5, in sign_in\nthe discount is wrong'
    assert chosen(trace)[0] == "shop/users.py:1"
    assert chosen("panic at shop/cart.py:40: the discount is wrong")[0] == "shop/cart.py:34"


def test_a_symbol_is_shown_where_it_is_defined() -> None:
    assert chosen("why does `reduced` give a wrong discount?")[0] == "shop/price.py:1"
    assert chosen("sign_in fails with a discount")[0] == "shop/users.py:1"


def test_a_file_that_is_named_or_open_comes_before_what_has_the_words() -> None:
    assert chosen("what does users.py do about the discount?")[0].startswith("shop/users.py")
    assert chosen("the discount", files=["shop/cart.py"])[0].startswith("shop/cart.py")
    assert chosen("see ../../etc/passwd.txt and /no/such.xyz") == []


def test_source_comes_before_tests_and_docs_for_the_same_words() -> None:
    order = [place.rpartition(":")[0] for place in chosen("discount of a customer")]
    assert order[0] == "shop/price.py"
    assert "docs/discount.md" in order


def test_the_weights_decide_which_kind_of_file_comes_first() -> None:
    weights = changed(RETRIEVAL_WEIGHTS, {"docs": 100}, "")
    found = choose(
        filled(FILES), "discount of a customer", lambda _: False, 2000, ESTIMATE, weights=weights
    )
    assert found[0].place.path == "docs/discount.md"


def test_nothing_that_the_pack_shows_in_full_is_shown_again() -> None:
    found = chosen("`reduced` in shop/price.py and the discount", besides="shop/price.py")
    assert found
    assert not [place for place in found if place.startswith("shop/price.py")]


def test_no_more_is_shown_than_there_is_room_for() -> None:
    texts = filled({f"{n}.py": f"def discount_{n}():\n{PADDING}" for n in range(40)})
    for room in (0, 10, 100, 300, 1000, 4000):
        found = choose(texts, "discount", lambda _: False, room, ESTIMATE)
        assert ESTIMATE.count(rendered(found)) <= room
        assert bool(found) == (room >= 300)


def test_a_chunk_that_is_too_long_by_its_size_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = filled(FILES)
    read: list[str] = []
    monkeypatch.setattr(texts, "text", lambda place: read.append(place.path) or "")
    room = 110  # tokens: below 470 characters, the shortest chunk, by 4.3 a token, and not by 7
    choose(texts, "discount", lambda _: False, room, ESTIMATE)
    assert read == []
    choose(texts, "discount", lambda _: False, room, Estimate(MOST_CHARS))
    assert read


def test_neighbours_are_one_section_and_each_chunk_has_a_reason() -> None:
    texts = filled(FILES)
    found = choose(texts, "shop/cart.py", lambda _: False, 2000, ESTIMATE)
    assert rendered(found).count("## shop/cart.py (lines 1-64)") == 1
    assert all(each.reason for each in found)
    assert rendered([]) == ""


def test_odd_questions_are_no_trouble() -> None:
    odd = (
        '"',
        "' OR 1=1 --",
        "NEAR(a b)",
        "*",
        "\0",
        "a" * 100_000,
        "{}[]^",
        "é" * 50,
        "AND OR NOT",
    )
    for question in odd:
        choose(filled(FILES), question, lambda _: False, 500, ESTIMATE)
    assert choose(Texts(), "discount", lambda _: False, 500, ESTIMATE) == []


def test_a_file_whose_path_has_the_word_does_not_come_whole_before_others() -> None:
    body = "".join(f"    turn_{n} = {n}\n" for n in range(50))
    parts = "".join(f"def part_{n}():\n{body}\n" for n in range(20))
    texts = filled(
        {
            "discount.py": parts,
            **{f"other/{n}.py": f"def other_{n}():\n{body}" for n in range(60)},
            "shop/price.py": f"def reduced():\n    discount = discount + more_discount\n{body}",
        }
    )
    found = choose(texts, "discount", lambda _: False, 9000, ESTIMATE)
    order = [each.place.path for each in found]
    assert order[0] == "discount.py"
    assert order.index("shop/price.py") < order.count("discount.py")


def test_of_equal_matches_the_file_that_is_edited_of_late_comes_first() -> None:
    texts = filled({f"{name}.py": f"def discount():\n{PADDING}" for name in "abc"})
    for edited in "abc":
        heat = {f"{edited}.py": 3.0}
        found = choose(
            texts,
            "discount",
            lambda _: False,
            2000,
            ESTIMATE,
            heat=lambda path, h=heat: h.get(path, 0.0),
        )
        assert found[0].place.path == f"{edited}.py"


def test_a_reason_names_the_words_that_were_found() -> None:
    found = choose(filled(FILES), "discount of a customer", lambda _: False, 2000, ESTIMATE)
    assert found[0].reason == "has discount, customer"
