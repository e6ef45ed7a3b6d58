"""What all of our SQLite databases share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


def transaction(database: sqlite3.Connection) -> sqlite3.Connection:
    """Begin a transaction that may write, and return a context that ends it.

    All that is written within happens at once, or not at all where an error leaves it.

    Args:
        database: no transaction is open on it.

    Raises:
        sqlite3.OperationalError: another process writes for longer than its time to wait.
    """
    database.execute("BEGIN IMMEDIATE")
    return database
