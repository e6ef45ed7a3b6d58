"""The text index: found by words, kept current by path, begun anew when it is damaged."""

from __future__ import annotations

import sqlite3
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.retrieval import texts as module
from infbox.retrieval.texts import Texts, Weights, opened


@dataclass(frozen=True)
class File:
    """A file's content; its own text serves as its digest."""

    text: str

    @property
    def digest(self) -> str:
        return self.text


def filled(files: dict[str, str], file: Path | None = None) -> Texts:
    texts = Texts(file)
    texts.bring_up(files, lambda path: File(files[path]))
    return texts


def found(texts: Texts, *words: str) -> list[str]:
    ids = [id_ for id_, _ in texts.matching(words, 10, Weights())]
    return [place.path for place in texts.places(ids).values()]


FILES = {
    "src/client.py": "def send_request():\n    retries = 3\n",
    "src/server.py": "def accept():\n    backlog = 100\n",
    "docs/guide.md": "# Retries\n\nHow often a request is sent again.\n",
}


def test_a_word_is_found_in_the_text_the_names_and_the_path() -> None:
    texts = filled(FILES)
    assert found(texts, "backlog") == ["src/server.py"]
    assert set(found(texts, "retry", "retries")) == {"src/client.py", "docs/guide.md"}
    assert found(texts, "server") == ["src/server.py"]
    assert found(texts, "nowhere") == []
    assert found(texts) == []


def test_a_file_that_changed_is_found_by_what_it_is_now() -> None:
    texts = filled(FILES)
    texts.put("src/server.py", File("def accept():\n    queue = 5\n"))
    assert found(texts, "backlog") == []
    assert found(texts, "queue") == ["src/server.py"]
    texts.remove("src/server.py")
    assert found(texts, "queue") == []
    assert "src/server.py" not in texts.digests()
    texts.remove("src/server.py")


def test_bringing_it_up_touches_only_what_differs() -> None:
    texts = filled(FILES)
    now = {**FILES, "src/client.py": "def fetch(): ...\n", "new.py": "x = 1\n"}
    del now["docs/guide.md"]
    asked: list[str] = []

    def read(path: str) -> File:
        asked.append(path)
        return File(now[path])

    assert texts.bring_up(now, read) == (2, 1)
    assert sorted(asked) == ["new.py", "src/client.py"]
    assert texts.digests() == now
    assert texts.bring_up(now, read) == (0, 0)


def test_a_file_that_may_no_longer_be_read_is_taken_out() -> None:
    texts = filled(FILES)
    assert texts.bring_up({**FILES, "src/client.py": "other"}, lambda _: None) == (0, 1)
    assert set(texts.digests()) == {"src/server.py", "docs/guide.md"}
    assert found(texts, "send_request") == []


def test_a_symbol_is_found_by_its_very_name() -> None:
    texts = filled({"a.py": "def send(): ...\n", "b.py": "def send_request(): ...\n"})
    assert [place.path for place in texts.naming("send", 5)] == ["a.py"]
    assert [place.path for place in texts.naming("send_request", 5)] == ["b.py"]
    assert texts.naming("Send", 5) == []
    assert texts.naming('x" OR "y', 5) == []


def test_words_that_most_chunks_have_are_left_out_where_rarer_ones_match_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MATCHES", 3)
    monkeypatch.setattr(module, "MIN_WORDS", 1)
    texts = filled({**{f"{n}.py": "common\n" for n in range(9)}, "z.py": "rare words\n"})
    assert found(texts, "common", "rare") == ["z.py"]
    assert len(found(texts, "common")) == 9


def test_of_a_question_with_common_words_alone_no_more_than_so_many_chunks_are_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_SCORED", 5)
    texts = filled({f"{n}.py": "common\n" for n in range(9)})
    assert len(found(texts, "common")) == 5


def test_of_words_that_are_too_common_to_be_counted_the_longer_ones_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MATCHES", 3)
    monkeypatch.setattr(module, "MIN_WORDS", 1)
    texts = filled({f"{n}.py": "and\n" if n % 2 else "reservation\n" for n in range(10)})
    assert found(texts, "and", "reservation") == [f"{n}.py" for n in range(0, 10, 2)]


def test_it_outlives_a_restart_and_only_its_group_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "shop.text.db"
    filled(FILES, file).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    texts = opened(file)
    assert texts.digests() == FILES
    assert found(texts, "backlog") == ["src/server.py"]
    assert texts.text(texts.of_file("src/client.py")[0]) == FILES["src/client.py"]


@pytest.mark.parametrize("damage", ["garbage", "another version", "functions parsed whole"])
def test_a_damaged_one_and_one_of_another_version_is_begun_anew(
    tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "shop.text.db"
    filled(FILES, file).close()
    if damage == "garbage":
        file.write_bytes(b"garbage" * 1000)
    else:
        with sqlite3.connect(file) as database:
            version = 1 if damage == "another version" else 301
            database.execute(f"PRAGMA user_version = {version}")
    texts = opened(file)
    assert texts.digests() == {}
    assert texts.bring_up(FILES, lambda path: File(FILES[path])) == (3, 0)


@pytest.mark.parametrize("how", ["it is gone", "it may not be read"])
def test_nothing_of_a_removed_file_is_left_on_the_disk(tmp_path: Path, how: str) -> None:
    file = tmp_path / "shop.text.db"
    gone = "zyxwvut"
    texts = filled({**FILES, "src/gone.py": f"def {gone}(): ...\n"}, file)
    assert gone.encode() in b"".join(part.read_bytes() for part in tmp_path.iterdir())
    now = {**FILES, **({"src/gone.py": "other"} if how == "it may not be read" else {})}
    texts.bring_up(now, lambda path: File(FILES[path]) if path in FILES else None)
    assert gone.encode() not in b"".join(part.read_bytes() for part in tmp_path.iterdir())


def test_what_a_merge_leaves_free_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / "texts.db"
    texts = Texts(file)
    texts.begin("rules")
    for number in range(30):  # a segment each, merged at the end
        text = "".join(f"word{number}x{n}\n" for n in range(500))
        texts.put(f"{number}.py", File(text))
    texts.forget_removed()
    texts.close()
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA freelist_count").fetchone() == (0,)


_PATHS = st.sampled_from(["a.py", "b/c.md", "d.go", "e"])
_TEXTS = st.text(st.sampled_from('ab_AB1 \n"#é\x00def class:'), max_size=60)


@given(edits=st.lists(st.tuples(_PATHS, st.none() | _TEXTS), max_size=12))
def test_after_any_edits_it_is_as_if_made_anew(edits: list[tuple[str, str | None]]) -> None:
    texts, files = Texts(), {}
    for path, text in edits:
        files.pop(path, None)
        if text is None:
            texts.remove(path)
        else:
            files[path] = text
            texts.put(path, File(text))
    anew = filled(files)
    assert texts.digests() == files
    for word in ("a", "b", "ab", "def", "class", "1", "é"):
        assert sorted(found(texts, word)) == sorted(found(anew, word))


def test_a_word_that_comes_later_is_found_then() -> None:
    texts = filled({"a.py": "def first(): pass\n"})
    assert found(texts, "second") == []
    texts.put("b.py", File("def second(): pass\n"))
    assert found(texts, "second") == ["b.py"]


def test_what_is_asked_too_late_is_broken_off() -> None:
    texts = filled({f"{n}.py": "def first(): pass\n" * 50 for n in range(200)})
    texts.end_at(0.0)
    with pytest.raises(sqlite3.OperationalError):
        found(texts, "first")
    texts.end_at(float("inf"))
    assert found(texts, "first")


def test_what_is_read_of_a_long_file_is_what_was_put() -> None:
    text = "".join(
        f"def f{number}():\n    return {'ä' * (number % 90)!r}\n\n\n" for number in range(900)
    )
    assert len(text) > 3 * module.BLOCK
    texts = filled({"a.py": text.rstrip("\n"), "b.py": "x = 1\n"})
    places = texts.of_file("a.py")
    assert "".join(map(texts.text, places)) == texts.whole("a.py") == text.rstrip("\n") + "\n"
    assert [len(texts.text(place)) for place in places] == [place.size for place in places]
    blocks = [(start, data.decode()) for path, start, data in texts.all_blocks() if path == "a.py"]
    assert len(blocks) > 3
    lines = text.splitlines(keepends=True)
    for start, block in blocks:
        assert "".join(lines[start - 1 :]).startswith(block.rstrip("\n"))
    texts.remove("a.py")
    assert list(texts.all_blocks()) == [("b.py", 1, b"x = 1\n")]
