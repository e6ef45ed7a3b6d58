"""A request and its answer, and what a request's headers tell the gateway."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infbox.auth import told_limits
from infbox.gateway.refusals import BAD_REQUEST, UNAUTHORIZED, RefusalError
from infbox.inputs import is_user

if TYPE_CHECKING:
    from infbox.gateway.bodies import Lease
    from infbox.gateway.connection import Incoming, Outgoing
    from infbox.gateway.upstream.replicas import Handover
    from infbox.gateway.workspaces import SeenWorkspaces
    from infbox.status.history import FirstEvent

# Ends the name of somebody who is signed in.
_SIGNED_IN = "@page"

_LIMITS = told_limits.HEADER.encode()
_ACCOUNT = told_limits.ACCOUNT.encode()


@dataclass
class Exchange:
    """A request and its answer.

    Attributes:
        incoming: the request.
        outgoing: the answer.
        events: notes when it began.
        began: monotonic time at which the request arrived, in seconds.
        user: whose key it came with.
        lease: of the memory for its body.
        is_counted: whether it is counted as under way where it came from.
        handover: where it goes to a replica; None where it is answered here.
        own_workspace: that it names, where it is answered here.
        answer_tokens: that all its answers may have together.
        answers: that it asks for.
        event_tokens: that an event of its stream may have.
        workspaces: that the user may use; not known before the request is let in.
    """

    incoming: Incoming
    outgoing: Outgoing
    events: FirstEvent
    began: float
    user: str
    lease: Lease
    is_counted: bool = False
    handover: Handover | None = None
    own_workspace: str = ""
    answer_tokens: int = 0
    answers: int = 1
    event_tokens: int = 1
    workspaces: SeenWorkspaces = field(init=False)

    @property
    def workspace(self) -> str:
        """The workspace that the request names; empty where it names none."""
        return self.handover.workspace if self.handover else self.own_workspace

    @property
    def is_elsewhere(self) -> bool:
        """Whether a replica has it, which then counts it."""
        return self.handover is not None and self.handover.is_out


def user_of(incoming: Incoming) -> str:
    """Return whose key the request came with, as Caddy says; empty where it does not."""
    names = incoming.header(b"x-infbox-user")
    return names[0] if len(names) == 1 and _is_user(names[0]) else ""


def account_of(incoming: Incoming) -> str:
    """Return whose usage the page shows, as Caddy says; empty where it does not."""
    names = incoming.header(_ACCOUNT)
    return names[0] if len(names) == 1 and _is_user(names[0]) else ""


def _is_user(name: str) -> bool:
    """Return whether a name may be a label of metrics: no stranger is to make any."""
    return is_user(name.removesuffix(_SIGNED_IN))


def check_user(user: str, *, is_required: bool) -> None:
    """Verify that a request came through who knows the users, where there is somebody.

    Args:
        user: whose key it came with; empty for nobody's.
        is_required: whether it must have one.

    Raises:
        RefusalError: it must, and has none.
    """
    if is_required and not user:
        raise RefusalError(
            UNAUTHORIZED,
            "The request has no user. Send it to the server's address, with a key; on the host "
            "itself with the header X-Infbox-User.",
        )


def most_at_once(incoming: Incoming) -> int:
    """Return how many requests the user may have under way, as Caddy says; 0 is any number."""
    given = incoming.header(b"x-infbox-concurrent")
    return int(given[0]) if len(given) == 1 and given[0].isascii() and given[0].isdigit() else 0


def limits_of(incoming: Incoming) -> dict[str, int]:
    """Return the limits of the user by name, as Caddy says.

    Raises:
        RefusalError: that cannot be understood.
    """
    given = incoming.header(_LIMITS)
    try:
        return told_limits.from_header(*given) if given not in ([], [""]) else {}
    except (TypeError, ValueError):  # several, or what the key service never says
        raise RefusalError(
            UNAUTHORIZED,
            "The header X-Infbox-Limits is malformed. Send the request to the server's address, "
            "with a key; on the host itself without this header.",
        ) from None


def wants_fit(incoming: Incoming) -> bool | None:
    """Say whether a request's headers have the pack cut to fit; None where they do not say.

    Raises:
        RefusalError: it cannot be told.
    """
    given = incoming.header(b"x-infbox-pack")
    if given not in ([], ["fit"], ["whole"]):
        raise RefusalError(BAD_REQUEST, "The header X-Infbox-Pack must be `fit` or `whole`.")
    return given == ["fit"] if given else None


def retrieve_of(incoming: Incoming) -> int | None:
    """Return how many tokens a request's headers want of what is found for it; None where they do
    not say.

    Raises:
        RefusalError: it cannot be told.
    """
    given = incoming.header(b"x-infbox-retrieve")
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch("[0-9]{1,6}", given[0]):
        raise RefusalError(
            BAD_REQUEST, "The header X-Infbox-Retrieve must be a number of tokens, or 0 for none."
        )
    return int(given[0])


def workspace_of(incoming: Incoming) -> str:
    """Return the workspace that a request's headers name; empty where they name none.

    Raises:
        RefusalError: they name several.
    """
    names = incoming.header(b"x-infbox-workspace")
    if len(names) > 1:
        raise RefusalError(BAD_REQUEST, f"X-Infbox-Workspace names several: {', '.join(names)}.")
    return names[0] if names else ""
