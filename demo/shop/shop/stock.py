"""How many copies of each book there are."""

import time
from dataclasses import dataclass, field

from shop.cart import Cart

RESERVED_SECONDS = 30 * 60  # a cart at the cash desk keeps its books for 30 minutes


class SoldOutError(Exception):
    """There are not enough copies."""


@dataclass
class Stock:
    """The copies in the store, by ISBN, less those that are reserved."""

    copies: dict[str, int]
    reserved: dict[str, tuple[float, dict[str, int]]] = field(default_factory=dict)

    def reserve(self, order: str, cart: Cart) -> None:
        """Keep the books of a cart for an order, for 30 minutes.

        Raises:
            SoldOutError: there are not enough copies of one of them.
        """
        self.release_old()
        wanted = {book.isbn: count for book, count in cart.copies.items()}
        for isbn, count in wanted.items():
            if self.copies.get(isbn, 0) < count:
                raise SoldOutError(f"fewer than {count} copies of {isbn} are left")
        for isbn, count in wanted.items():
            self.copies[isbn] -= count
        self.reserved[order] = (time.time() + RESERVED_SECONDS, wanted)

    def take(self, order: str) -> None:
        """Take the books of a paid order out of the store for good."""
        self.reserved.pop(order)

    def release_old(self) -> None:
        """Put back what was reserved and not paid in time."""
        now = time.time()
        for order, (until, books) in list(self.reserved.items()):
            if until < now:
                del self.reserved[order]
                for isbn, count in books.items():
                    self.copies[isbn] += count
