"""Running a command of a program, and telling people what they can fix."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from infbox.errors import GitError, InputError, UnreadyError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_MISTAKE = 2
_UNREADY = 1


def exit_status(program: str, options: argparse.Namespace) -> int:
    """Run a command, and tell people what they can fix.

    Args:
        program: its name.
        options: of the command line, with the ``command`` to call with them.

    Returns:
        The exit status: 2 where configuration or input cannot be used, 1 where what a start needs
        may still come.
    """
    try:
        command: Callable[[argparse.Namespace], None] = options.command
        command(options)
    except (InputError, GitError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return _MISTAKE
    except UnreadyError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return _UNREADY
    except BrokenPipeError:
        # The reader has seen enough. Python must not complain about it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
