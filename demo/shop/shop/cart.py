"""What a customer wants to buy."""

from dataclasses import dataclass, field

from shop.catalogue import Book

MOST_COPIES = 20  # of one book in a cart; more are asked for by letter


@dataclass
class Cart:
    """The cart of one customer."""

    customer: str
    copies: dict[Book, int] = field(default_factory=dict)

    def add(self, book: Book, copies: int = 1) -> None:
        """Put copies of a book into the cart.

        Raises:
            ValueError: that would be more than may be bought at once, or fewer than one.
        """
        count = self.copies.get(book, 0) + copies
        if copies < 1 or count > MOST_COPIES:
            raise ValueError(f"a cart holds 1 to {MOST_COPIES} copies of a book, not {count}")
        self.copies[book] = count

    def remove(self, book: Book) -> None:
        """Take all copies of a book out of the cart."""
        self.copies.pop(book, None)

    @property
    def grams(self) -> int:
        """What the books weigh together."""
        return sum(book.grams * count for book, count in self.copies.items())
