"""What a person can fix."""


class InputError(Exception):
    """Configuration or input that cannot be used.

    The message is one line: the file or field, what is wrong with it, and the fix. Commands print
    it and exit with status 2.
    """


class UnreadyError(Exception):
    """Something that a start needs is not there yet, and may come by itself: a directory that is
    still to be mounted, a full disk.

    The message is one line. Commands print it and exit with status 1, so that a service manager
    tries again, which it does not after status 2.
    """


class GitError(Exception):
    """git could not answer; the message is its own first line."""
