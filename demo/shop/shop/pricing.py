"""What an order costs."""

from dataclasses import dataclass

from shop.cart import Cart

FREE_DELIVERY_FROM = 4900  # cents: an order of 49 euros or more is delivered for free
DELIVERY = 390  # cents
HEAVY_DELIVERY = 690  # cents, for parcels of more than five kilograms
HEAVY_FROM = 5000  # grams
DISCOUNT_FROM = 10  # copies of one book
DISCOUNT_PERCENT = 15
TAX_PERCENT = 7


@dataclass(frozen=True)
class Price:
    """What an order costs, in cents.

    Attributes:
        books: the books, discounts taken off.
        delivery: the parcel.
        tax: how much of the total is tax.
    """

    books: int
    delivery: int
    tax: int

    @property
    def total(self) -> int:
        """What the customer pays."""
        return self.books + self.delivery


def price_of(cart: Cart) -> Price:
    """Return what the books in a cart cost."""
    books = sum(price_of_copies(book.cents, count) for book, count in cart.copies.items())
    delivery = price_of_delivery(books, cart.grams)
    return Price(books, delivery, tax_in(books + delivery))


def price_of_copies(cents: int, count: int) -> int:
    """Return what copies of one book cost: ten or more are 15 percent cheaper."""
    full = cents * count
    return full - full * DISCOUNT_PERCENT // 100 if count >= DISCOUNT_FROM else full


def price_of_delivery(books: int, grams: int) -> int:
    """Return what the parcel costs; from 49 euros on it is free."""
    if books >= FREE_DELIVERY_FROM:
        return 0
    return HEAVY_DELIVERY if grams > HEAVY_FROM else DELIVERY


def tax_in(total: int) -> int:
    """Return how much of a price is tax."""
    return total - total * 100 // (100 + TAX_PERCENT)
