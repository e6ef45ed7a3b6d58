"""One heap for all threads, and freed memory given back: of the C library, seen from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what glibc does")

_HEAPS = """
import ctypes, threading
from infbox.runtime import memory
{first}
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)
def allocate():
    together.wait()
    for _ in range(100):
        libc.malloc(1000)
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
_GIVEN_BACK = """
import ctypes
from infbox.runtime import memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
memory.share_one_arena()
blocks = [ctypes.c_void_p(libc.malloc(8000)) for _ in range(5000)]
for block in blocks: ctypes.memset(block, 1, 8000)
last = libc.malloc(8000)  # behind which nothing goes back by itself
for block in blocks: libc.free(block)
before = resident()
memory.give_back()
print(before - resident())
"""


def printed(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("is_shared", [True, False])
def test_threads_share_one_heap_where_it_was_asked_for(is_shared: bool) -> None:
    first = "memory.share_one_arena()" if is_shared else ""
    heaps = printed(_HEAPS.format(first=first)).count("<heap nr=")
    assert (heaps == 1) == is_shared


def test_what_was_freed_is_given_back() -> None:
    assert int(printed(_GIVEN_BACK)) > 30_000_000
