"""From a cart to a paid order."""

import uuid
from dataclasses import dataclass, field
from enum import Enum

from shop import mail
from shop.cart import Cart
from shop.pricing import Price, price_of
from shop.stock import Stock


class State(Enum):
    """How far an order is."""

    OPEN = "open"
    PAID = "paid"
    SENT = "sent"
    CANCELLED = "cancelled"


@dataclass
class Order:
    """An order of one customer."""

    cart: Cart
    price: Price
    number: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    state: State = State.OPEN


def place(cart: Cart, stock: Stock) -> Order:
    """Make an order of a cart, and keep its books until it is paid.

    Raises:
        ValueError: the cart is empty.
        SoldOutError: there are not enough copies of a book.
    """
    if not cart.copies:
        raise ValueError("the cart is empty")
    order = Order(cart, price_of(cart))
    stock.reserve(order.number, cart)
    return order


def pay(order: Order, cents: int, stock: Stock) -> None:
    """Take a payment, which must be the whole price, and confirm it by a letter."""
    if order.state is not State.OPEN or cents != order.price.total:
        raise ValueError(f"order {order.number} takes one payment of {order.price.total} cents")
    stock.take(order.number)
    order.state = State.PAID
    mail.confirm(order.cart.customer, order.number, order.price.total)
