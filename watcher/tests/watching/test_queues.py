"""What waits for a time waits no longer for what is put off again and again."""

from __future__ import annotations

from infbox.tree.records import Stamp
from infbox.watching.queues import SETTLE_SECONDS, Queues


def test_a_file_written_without_end_keeps_no_other_from_being_trusted() -> None:
    queues, stamp = Queues(), Stamp(1, 2, 3)
    queues.settle("app.log", stamp, now=0.0)
    queues.settle("a.py", stamp, now=0.0)
    for step in range(1, 5):
        queues.settle("app.log", stamp, now=step * SETTLE_SECONDS / 2)
    assert queues.take_settled(2 * SETTLE_SECONDS, most=10) == [("a.py", stamp)]
