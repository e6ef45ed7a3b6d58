"""A file as the rules about secrets see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from infbox.tree.secrets.values import MIN_LENGTH, is_secret

MOST_JUDGED = 500_000
"""Characters of values that are judged in a file: about twice those of the largest file."""

_MOST_LOOKED_AT = 256  # characters of a value

Place = tuple[str, int]
"""A kind of secret, and where it begins."""

_PROGRAMS = (
    *(".py", ".pyi", ".pyx", ".go", ".rs", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".tsx"),
    *(".vue", ".svelte", ".java", ".kt", ".kts", ".scala", ".groovy", ".c", ".h", ".cc", ".cpp"),
    *(".cxx", ".hh", ".hpp", ".cs", ".fs", ".swift", ".m", ".mm", ".rb", ".php", ".pl", ".pm"),
    *(".lua", ".ex", ".exs", ".erl", ".hs", ".ml", ".clj", ".dart", ".r", ".jl", ".zig", ".nim"),
    *(".sql", ".proto", ".graphql", ".tf", ".css", ".scss", ".less"),
)


class TooManyPlacesError(Exception):
    """A file has more places to look at than any that people write."""


@dataclass(frozen=True)
class Text:
    """A file, one character a byte, so that a place is the same in both.

    Attributes:
        plain: as it is.
        lower: in lower case.
        is_code: whether it is a program, in which texts stand between quotes.
        seen: documents of YAML that were looked at.
        judged: characters of values that were judged, the one number in it.
    """

    plain: str
    lower: str
    is_code: bool = False
    seen: set[int] = field(default_factory=set)
    judged: list[int] = field(default_factory=lambda: [0])

    @classmethod
    def of(cls, data: bytes, path: str) -> Text:
        """Return the text of a file's bytes.

        Args:
            data: the bytes.
            path: the end of its name tells whether it is a program.
        """
        is_code = path.lower().endswith(_PROGRAMS)
        return cls(data.decode("latin-1"), data.lower().decode("latin-1"), is_code)

    def is_secret(self, value: str, minimum: int = MIN_LENGTH, *, may_be_uuid: bool = True) -> bool:
        """Say whether a value of the file looks like a secret; arguments as of the function.

        Raises:
            TooManyPlacesError: values lie upon each other, so that it would take long.
        """
        value = value[:_MOST_LOOKED_AT]
        self.judged[0] += len(value)
        if self.judged[0] > MOST_JUDGED:
            raise TooManyPlacesError
        return is_secret(value, minimum, may_be_uuid=may_be_uuid)

    def line_before(self, start: int, most: int = 1000) -> int:
        """Return where the line of a place begins, at most so many characters before it."""
        return max(self.lower.rfind("\n", 0, start) + 1, start - most)

    def line_from(self, start: int, most: int = 1000) -> str:
        """Return the rest of a line, at most so many characters."""
        end = self.plain.find("\n", start, start + most)
        return self.plain[start : end if end >= 0 else start + most]


Form = Callable[[Text, int], Iterator[Place]]
"""Looks at a place where a word was found, and yields a secret there. It looks no further than some
hundred characters: the time of all grows with the number of places."""
