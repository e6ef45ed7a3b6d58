"""Tokens of a known shape that Betterleaks does not know, or only beside another one, and keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from infbox.tree.secrets.values import is_name, is_placeholder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infbox.tree.secrets.text import Form, Place, Text

# By how they begin. What follows is matched there, with upper and lower case.
_SHAPES = (
    ("sk-infbox-", "infbox key", r"sk-infbox-[\w-]{40}"),
    *((start.lower(), "AWS access key", start + r"[0-9A-Z]{16}(?![0-9A-Z])")
      for start in ("AKIA", "ASIA", "ABIA", "ACCA")),
    ("a3t", "AWS access key", r"A3T[A-Z0-9]{17}(?![0-9A-Z])"),
    ("sk-ant-", "Anthropic token", r"sk-ant-[\w-]{60}"),
    ("api/webhooks/", "Discord webhook", r"api/webhooks/[0-9]{17,20}/[\w-]{60}"),
    ("xox", "Slack token", r"xox[abeposr]-[0-9]+-[0-9A-Za-z-]{10,}"),
    ("eyj", "JSON Web Token", r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.?[\w-]*"),
    ("sq0csp-", "Square secret", r"sq0csp-[\w-]{43}"),
    ("gocspx-", "Google OAuth secret", r"GOCSPX-[\w-]{28}"),
    ("1//0", "Google OAuth token", r"1//0[\w-]{60}"),
    ("hf_", "Hugging Face token", r"hf_[A-Za-z0-9]{34}"),
    ("hvs.", "Vault token", r"hvs\.[\w-]{24}"),
    ("age-secret-key-", "age key", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    (":_", "npm token", r":_(?:authToken|password|auth)=[^\s$]{20}"),
    ("q~", "Azure client secret", r"Q~(?<=[\w.~-]{3}[78]Q~)[\w.~-]{31,34}"),
    ("-us", "Mailchimp key", r"-us(?<=[0-9a-f]{32}-us)[0-9]"),
    ("ls0tls1crudjtib", "encoded private key",
     r"LS0tLS1CRUdJTiB(?:QUklWQVRF|SU0EgUFJJ|FQyBQUklW|PUEVOU1NI|EU0EgUFJJ|FTkNSWVBU|QR1AgUFJJ)"),
)  # fmt: skip

# These begin with what is everywhere: expressions of their own, over the whole file, are faster.
COMMON = tuple(
    (kind, re.compile(shape, re.ASCII))
    for kind, shape in (
        ("Telegram bot token", r":A(?<=[0-9]{8}:A)[\w-]{34}(?![\w-])"),
        ("Discord bot token", r"\.(?<=[MNO][\w-]{23}\.)[\w-]{6}\.[\w-]{27,38}(?![\w-])"),
        ("Twilio key", r"AC[a-z0-9]{32}(?![A-Za-z0-9])"),
        ("Twilio key", r"SK[a-z0-9]{32}(?![A-Za-z0-9])"),
    )
)

# Betterleaks wants the last line of a key too, and knows neither PuTTY's form nor OpenVPN's. Code
# that reads keys names the first line of one: what counts is what follows.
_HEADS = ("private key", "putty-user-key-file-", "openvpn static key v1")
_BODY = re.compile(r"[A-Za-z0-9+/=]{32,}")
_BODY_WITHIN = 1000
_MIN_NAME = 16  # characters: shorter hits are marks in the middle of a token


def is_no_token(text: str) -> bool:
    """Say whether what has the shape of a token is a placeholder, or a name."""
    return is_placeholder(text) or (len(text) >= _MIN_NAME and is_name(text))


def forms() -> Iterator[tuple[str, Form]]:
    """Yield words, in lower case, and what is to be done where one stands."""
    for word, kind, shape in _SHAPES:
        yield word, _form(kind, re.compile(shape, re.ASCII))
    for head in _HEADS:
        yield head, _of_private_key


def _form(kind: str, shape: re.Pattern[str]) -> Form:
    def of_shape(text: Text, start: int) -> Iterator[Place]:
        found = shape.match(text.plain, start)
        if found and not is_no_token(found[0]):
            yield kind, start

    return of_shape


def _of_private_key(text: Text, start: int) -> Iterator[Place]:
    body = _BODY.search(text.plain, start + len("PRIVATE KEY"), start + _BODY_WITHIN)
    is_head = text.plain[start].isupper()
    if is_head and body and not is_no_token(body[0]):
        yield "private key", start
