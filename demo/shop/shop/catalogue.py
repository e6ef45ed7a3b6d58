"""The books that are sold."""

from dataclasses import dataclass


class UnknownBookError(LookupError):
    """No such book is sold."""


@dataclass(frozen=True)
class Book:
    """A book.

    Attributes:
        isbn: thirteen digits.
        title: as printed on the cover.
        cents: the price of a copy, tax included.
        grams: the weight of a copy.
    """

    isbn: str
    title: str
    cents: int
    grams: int


class Catalogue:
    """The books, by their ISBN."""

    def __init__(self, books: list[Book]) -> None:
        self._books = {book.isbn: book for book in books}

    def find(self, isbn: str) -> Book:
        """Return a book.

        Raises:
            UnknownBookError: it is not sold.
        """
        try:
            return self._books[isbn]
        except KeyError:
            raise UnknownBookError(f"{isbn} is not sold") from None

    def search(self, words: str) -> list[Book]:
        """Return the books whose title has all these words."""
        wanted = words.lower().split()
        return [
            book
            for book in self._books.values()
            if all(word in book.title.lower() for word in wanted)
        ]
