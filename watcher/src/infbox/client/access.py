"""What a client's configuration is filled in with: by the server itself, or by what was given."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from infbox.client.ask import checked_url, choose_model, find_server, windows
from infbox.client.configurations import Access, check_client
from infbox.errors import InputError

if TYPE_CHECKING:
    import argparse

# As vLLM's names of models may be, and the gateway's of workspaces.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}(@[A-Za-z0-9][A-Za-z0-9._-]{0,99})?")


def access_for(options: argparse.Namespace) -> Access:
    """Return what to fill a configuration in with.

    Args:
        options: of the command line: name, server, workspace, window, model, ca, key_file and
            show_key.

    Raises:
        InputError: something that was given is wrong, or the server refuses the key.
        UnreadyError: the server does not answer.
    """
    check_client(options.name)
    authority = str(options.ca.absolute()) if options.ca else ""
    if options.window and not options.show_key:
        model = f"{options.model}@{options.workspace}" if options.workspace else options.model
        url, key, window = checked_url(options.server), "", options.window
    else:
        try:
            server = find_server(options)
        except InputError as error:
            raise InputError(f"{error}; or give --window TOKENS, which needs no key") from None
        known = windows(server)
        model = choose_model(list(known), options.workspace)
        window = options.window or known[model]
        url, key = server.url, server.key if options.show_key else ""
    if not _NAME.fullmatch(model):
        raise InputError(f"{model!r} is not a model name: give --model and --workspace")
    if not window:
        raise InputError(f"the server does not tell the window of {model}: give --window TOKENS")
    return Access(url, model, model.partition("@")[0], window, authority, key)
