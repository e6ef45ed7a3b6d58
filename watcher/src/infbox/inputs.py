"""Rules of single values that people write, each in one place.

The package checks its configuration by them, and the collection's plugins load this file, so that
what a service would refuse on a host is refused before the first change. Hence only the standard
library is imported here.
"""

from __future__ import annotations

import re

MIN_EVERY = 5
"""Seconds between two fetches of a remote."""

MOST_PATTERNS = 200
"""Of one grant: what goes with each request is bounded."""

MOST_STARS = 4
"""Of one pattern: each multiplies what matching costs."""

# Texts are compiled when first used: a start of the watcher waits for none that it has no use of.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_USER = r"[a-z0-9][a-z0-9._-]{0,31}"
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_GRANT = r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,127}"

_LOOPBACK = r"http://(?:localhost|127\.0\.0\.1)(?::[0-9]+)?"
_SAFE_URL = rf"(?:https://[^/\s?#]+|{_LOOPBACK})(?:/[^\s?#]*)?"
_SERVICE_URL = r"https?://[^/\s]+"

_HOST = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
_GIT_URL = (
    rf"(?:ssh://(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?{_HOST}|https://{_HOST}|{_LOOPBACK})/[^\s?#\\]+"
)
_SHORT_GIT_URL = r"((?:[A-Za-z0-9._-]+@)?[A-Za-z0-9.-]+):(?![/:])([^\s@]+)"
_USERINFO = r"https?://[^/]*@|ssh://[^/]*:[^/]*@"
# What git takes for a ref, less what nobody uses and a shell or a pattern would see something in.
_REF = r"(?:[A-Za-z0-9_@+=,#-][A-Za-z0-9._@+=,#-]*/)*[A-Za-z0-9_@+=,#][A-Za-z0-9._@+=,#-]*"
_COMMIT = r"[0-9a-f]{40}|[0-9a-f]{64}"


def is_name(value: object) -> bool:
    """Return whether a value can be the name of a workspace or a host."""
    return _matches(_NAME, value)


def is_user(value: object) -> bool:
    """Return whether a value can be the name of a user, or the label of a key: it names a file."""
    return _matches(_USER, value)


def is_day(value: object) -> bool:
    """Return whether a value is written like a day, as 2027-01-31; the calendar is not asked."""
    return _matches(_DAY, value)


def is_grant(value: object) -> bool:
    """Return whether a value is a pattern of workspaces' names."""
    return _matches(_GRANT, value) and str(value).count("*") <= MOST_STARS


def is_safe_url(value: object) -> bool:
    """Return whether a value is a URL that secrets may be sent to, such as an issuer's.

    TLS says who answers; on loopback nobody else can.
    """
    return _matches(_SAFE_URL, value)


def is_service_url(value: object) -> bool:
    """Return whether a value is http://HOST:PORT or https://HOST:PORT, without a path."""
    return _matches(_SERVICE_URL, value)


def has_secret(url: str) -> bool:
    """Return whether a URL may contain a secret, and is not to be repeated in messages."""
    return re.match(_USERINFO, url) is not None


def git_url_hint(url: str) -> str:
    """Return what to do about the URL of a git remote; empty if it is one.

    A URL that may contain a secret is not repeated.
    """
    if has_secret(url):
        return "remove the user or the password in it, and give a token in a file of its own"
    short = re.fullmatch(_SHORT_GIT_URL, url)
    if short:
        return f"write it as ssh://{short[1]}/{short[2]}"
    return "" if _matches(_GIT_URL, url) else "write ssh://USER@HOST/PATH or https://HOST/PATH"


def git_ref_hint(ref: object) -> str:
    """Return what to do about the branch or tag of a git remote; empty if it is one."""
    if not _matches(_REF, ref) or ".." in str(ref):
        return "give a branch or a tag"
    if _matches(_COMMIT, ref):
        return "give a branch or a tag in place of a commit, which never changes"
    return ""


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
