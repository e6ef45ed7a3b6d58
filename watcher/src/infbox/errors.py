"""What a person can mend."""


class InputError(Exception):
    """Configuration or input that cannot be used.

    The message is one line: the file or field, what is wrong with it, and the mend. Commands print
    it and exit with status 2.
    """
