"""Writes an index without a pause, two rows that belong together at a time."""

import itertools
import sqlite3
import sys
import time

with sqlite3.connect(sys.argv[1], isolation_level=None) as index:
    index.execute("PRAGMA journal_mode = WAL")
    index.execute("PRAGMA synchronous = NORMAL")
    index.execute("CREATE TABLE IF NOT EXISTS pairs (number INTEGER, side TEXT)")
    for number in itertools.count():
        index.execute("BEGIN")
        for side in ("left", "right"):
            index.execute("INSERT INTO pairs VALUES (?, ?)", (number, side))
        index.execute("COMMIT")
        time.sleep(0.001)
