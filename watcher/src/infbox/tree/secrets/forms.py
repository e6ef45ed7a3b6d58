"""Secrets by where they stand: in an address, a header, a command, a statement, a manifest.

One look at the file finds all words at which one of these may begin; each place is then looked at
by itself.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ahocorasick_rs import BytesAhoCorasick

from infbox.tree.secrets import names, shapes
from infbox.tree.secrets.names import MIN_CLEAR, MIN_KEY, is_hex
from infbox.tree.secrets.text import Text, TooManyPlacesError
from infbox.tree.secrets.values import is_placeholder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infbox.tree.secrets.text import Form, Place

MOST_PLACES = 30_000
"""A file with more places to look at is refused unjudged: none that people write has a tenth."""


class Forms:
    """Looks for secrets by all forms and shapes."""

    def __init__(self) -> None:
        forms: dict[str, list[Form]] = defaultdict(list)
        for words, form in _FORMS:
            for word in words:
                forms[word].append(form)
        for word, form in shapes.forms():
            forms[word].append(form)
        self._forms = list(forms.values())
        self._words = BytesAhoCorasick([word.encode() for word in forms])

    def found(self, data: bytes, path: str) -> Iterator[Place]:
        """Find secrets: kind and place.

        Args:
            data: the file.
            path: its path; the end of its name tells whether it is a program.

        Raises:
            TooManyPlacesError: it would take long to judge.
        """
        text = Text.of(data, path)
        for kind, shape in shapes.COMMON:
            for hit in shape.finditer(text.plain):
                if not shapes.is_no_token(hit[0]):
                    yield kind, hit.start()
        places = self._words.find_matches_as_indexes(text.lower.encode("latin-1"), overlapping=True)
        if len(places) > MOST_PLACES:
            raise TooManyPlacesError
        for word, start, _ in places:
            for form in self._forms[word]:
                yield from form(text, start)


# Addresses

_IN_ADDRESS = re.compile(r"://([^\s/?#@'\"<>`|]{0,120}?):([^\s/@'\"<>`|]{4,200})@[\w\[.{$<-]")
_AS_USER = re.compile(r"://([^\s/?#@:'\"<>`|]{20,200})@[\w\[.-]")
_SIGNATURE = re.compile(r"(?:sig|signature|code)=([\w%+/=-]{20,200})", re.IGNORECASE)


def _of_address(text: Text, start: int) -> Iterator[Place]:
    found = _IN_ADDRESS.match(text.plain, start)
    if found and text.is_secret(unquote(found[2]), MIN_CLEAR):
        yield "password in an address", start
    found = _AS_USER.match(text.plain, start)
    if found and text.is_secret(unquote(found[1]), MIN_KEY):
        yield "token in an address", start


def _of_signature(text: Text, start: int) -> Iterator[Place]:
    found = _SIGNATURE.match(text.plain, start)
    is_field = text.plain[start - 1 : start] in ("?", "&", "-")
    if found and is_field and text.is_secret(unquote(found[1])):
        yield "signature in an address", start


# Headers

_HEADER = re.compile(
    r"""(?i:authorization)["'`\]]{0,2}(?:[ \t]{0,4}[:=,][ \t]{0,4}|[ \t]{1,4}(?=["'`]))["'`]{0,2}"""
    r"""(?i:(?P<scheme>basic|bearer|token|bot|apikey|key)[ \t=]{1,4})?"""
    r"""(?P<value>[^\s"'`<>,;\\]{8,2000})"""
)
_SCHEME = re.compile(
    r"""(?i:(?P<scheme>basic|bearer))[ \t]{1,4}(?P<value>[^\s"'`<>,;\\]{12,2000})"""
)
_COOKIE = re.compile(r"""cookie["']?[ \t]{0,4}[:=][ \t]{0,4}["']?([^\n]{0,2000})""", re.IGNORECASE)
_COOKIE_VALUE = re.compile(r"=([\w%.~+/-]{20,2000})")
_USER_AND_PASSWORD = re.compile(r"auth[ \t]{1,4}[\w.@-]{1,80}:(?P<value>[^\s\"'`,;]{8,200})")


def _of_auth(text: Text, start: int) -> Iterator[Place]:
    if found := _HEADER.match(text.plain, start):
        yield from _header(text, found)
    found = _USER_AND_PASSWORD.match(text.plain, start)
    if found and text.is_secret(found["value"], MIN_CLEAR):
        yield "user and password", start


def _of_scheme(text: Text, start: int) -> Iterator[Place]:
    if found := _SCHEME.match(text.plain, start):
        yield from _header(text, found)


def _of_cookie(text: Text, start: int) -> Iterator[Place]:
    found = _COOKIE.match(text.plain, start)
    if found and any(text.is_secret(value, MIN_KEY) for value in _COOKIE_VALUE.findall(found[1])):
        yield "cookie", start


def _header(text: Text, found: re.Match[str]) -> Iterator[Place]:
    value = found["value"]
    is_basic = (found["scheme"] or "").lower() == "basic"
    if text.is_secret(_password_of(value), 6) if is_basic else text.is_secret(value):
        yield "header that lets in", found.start()


def _password_of(encoded: str) -> str:
    """Return the password of a user and a password as HTTP encodes them, or nothing."""
    try:
        decoded = b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return decoded.partition(":")[2]


# Commands

_ARGUMENT = r"""["']?(?P<value>[^\s"'`<>(){}\[\],;|&\\]{6,200})"""
# Programs whose -p, -P, -w or -a is a password, glued to it or not.
_TOOL = re.compile(
    r"(?:mysql|mariadb|login|mongo|sshpass|redis-cli|ldap|sqlcmd|bcp|osql|psql|keytool|zip"
    r"|7z|xfreerdp|ipmitool|snmp|cqlsh|rclone|plink|pscp|influx|vnc|impacket|exec|mqtt|mosquitto"
    r"|amqp|curl|wget|http|az |svn|ftp|isql|sudo|useradd|mount|net )"
)
_OPTION = re.compile(rf"[ \t]-(?:pw|pass|[pPaw])(?P<gap>[ \t=]?){_ARGUMENT}")
_SURE = re.compile(r"[\w!@#%^&+=.~*?-]{10,200}")
_USER = re.compile(
    r"[ \t](?:-[uUa]|--user(?:name|pass)?)[ \t=]{1,3}"
    r"""["']?[\w.@\\-]{1,80}[:%]["']?(?P<value>[^\s"'`<>{}\[\],;|\\]{6,200})"""
)
_NEW_USER = re.compile(rf"user[ \t]{{1,8}}[\w.@%-]{{1,80}}[ \t]{{1,8}}{_ARGUMENT}")
_HTPASSWD = re.compile(
    r"htpasswd[ \t]{1,8}-[a-zA-Z0-9]{1,8}[ \t]{1,8}\S{1,100}"
    rf"[ \t]{{1,8}}[\w.@%-]{{1,80}}[ \t]{{1,8}}{_ARGUMENT}"
)
_PIPED = re.compile(r"[\w.-]{1,40}:(?P<value>[^\s\"'`$]{6,200})[\"']?[ \t]{0,8}(?:\||\\n|$)")


def _of_option(text: Text, start: int) -> Iterator[Place]:
    found = _OPTION.match(text.plain, start)
    if not found:
        return
    value = found["value"]
    if _TOOL.search(text.lower[text.line_before(start, 300) : start]):
        is_one = text.is_secret(value, MIN_CLEAR)
    else:
        is_sure = found["gap"] and not text.is_code and _SURE.fullmatch(value)
        is_one = bool(is_sure) and text.is_secret(value) and not is_hex(value)
    if is_one:
        yield "argument of a command", start


def _of_user(text: Text, start: int) -> Iterator[Place]:
    found = _USER.match(text.plain, start)
    if found and text.is_secret(found["value"], MIN_CLEAR):
        yield "user and password of a command", start


def _of_new_user(text: Text, start: int) -> Iterator[Place]:
    found = _NEW_USER.match(text.plain, start)
    is_new = text.lower[max(0, start - 4) : start] in ("net ", "add_")
    if found and is_new and text.is_secret(found["value"], MIN_CLEAR):
        yield "argument of a command", start


def _of_htpasswd(text: Text, start: int) -> Iterator[Place]:
    found = _HTPASSWD.match(text.plain, start)
    if found and text.is_secret(found["value"], MIN_CLEAR):
        yield "argument of a command", start


def _of_chpasswd(text: Text, start: int) -> Iterator[Place]:
    line = text.plain[text.line_before(start, 300) : start]
    if any(text.is_secret(found["value"], MIN_CLEAR) for found in _PIPED.finditer(line)):
        yield "argument of a command", start


# Calls and statements

_CALL = re.compile(
    r"(?:log_?in|sign_?in|authenticate|auth|credentials?|connect|client)\w{0,16}"
    r"""["']?[ \t]{0,4}[=:]?[ \t]{0,4}[(\[]\s{0,40}["'`][^"'`\n]{1,80}["'`]\s{0,40},\s{0,40}"""
    r"""(?:Some\()?["'`](?P<value>[^"'`\n]{8,200})["'`]""",
    re.IGNORECASE,
)
_SIGNING = re.compile(
    r"(?:createhmac|createcipheriv|createdecipheriv|hmac\.new|jwt\.sign|jwt\.verify|jwt\.encode"
    r"|jwt\.decode|aes\.new|fernet)\([^\n\"'`]{0,80}?"
    r"""(?:["'][\w-]{3,20}["'],[ \t]{0,4})?b?["'`](?P<value>[^"'`\n]{8,200})["'`]""",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"""(?:identified[ \t]{1,8}(?:with[ \t]{1,8}\w{1,40}[ \t]{1,8})?by|securestring|psk)"""
    r"""[ \t]{1,8}(?:-string[ \t]{1,8})?b?["']?(?P<value>[^\s"'`;,]{8,200})""",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"""\{\{[ \t]{0,8}["'](?P<value>[^"'\n]{8,200})["'][ \t]{0,8}\|""")
_PASSWORD_FILE = re.compile(r":5432:[\w*.-]{1,80}:[\w.-]{1,80}:(?P<value>[^\s:\"']{6,200})")
_MNEMONIC = re.compile(
    r"""(?:mnemonic|seed[ _-]?phrase|recovery[ _-]?phrase)\w{0,20}["']?[ \t]{0,8}[:=]{1,2}"""
    r"""[ \t]{0,8}["'`]?(?:[a-z]{3,8} ){11,23}[a-z]{3,8}(?![a-z ])"""
)


def _of_call(text: Text, start: int) -> Iterator[Place]:
    found = _CALL.match(text.plain, start)
    if found and text.is_secret(found["value"], MIN_CLEAR, may_be_uuid=False):
        yield "password of a call", start


def _of_signing(text: Text, start: int) -> Iterator[Place]:
    found = _SIGNING.match(text.plain, start)
    if found and text.is_secret(found["value"]):
        yield "key of a call", start


def _of_statement(text: Text, start: int) -> Iterator[Place]:
    for expression in (_STATEMENT, _FILTERED, _PASSWORD_FILE):
        found = expression.match(text.plain, start)
        if found and text.is_secret(found["value"], MIN_CLEAR, may_be_uuid=False):
            yield "password of a statement", start
    if _MNEMONIC.match(text.lower, start):
        yield "mnemonic of a wallet", start


# Manifests

_VARIABLE = re.compile(
    r"""variable[ \t]{1,8}"(?P<name>[\w-]{1,80})"[ \t]{0,8}\{"""
    r"(?P<body>(?:[^{}]|\{[^{}]{0,500}\}){0,2000})"
)
_DEFAULT = re.compile(r"""\bdefault[ \t]{0,40}=[ \t]{0,8}"(?P<value>[^"\n]{6,400})\"""")
_KIND = re.compile(r"""kind["']?[ \t]{0,8}:[ \t]{0,8}["']?secret["']?[ \t\r]{0,8}(?=[\n,}])""")
_DATA = re.compile(r"""(?<=[\n \t"'{,])(?P<kind>data|stringdata)["']?[ \t]{0,8}:""")
_PAIR = re.compile(
    r"""[ \t{,]{0,40}["']?[\w./-]{1,200}["']?[ \t]{0,8}:[ \t]{0,8}["']?(?P<value>[^\s"',}]{6,})"""
)
_DOCUMENT = 32_000  # characters on both sides of the kind that are looked at
_MOST_HEADS = 50  # mappings of a document
_MAPPING, _MAPPING_LINES = 16_000, 200  # characters and lines of one
_MIN_BINARY = 16  # bytes of a value that are no text
_NEAR = 4000  # characters on both sides of the private part of a key
_PRIVATE_PART = re.compile(r"""["']d["'][ \t]{0,8}:[ \t]{0,8}["']([\w-]{40,800})["']""")


def _of_variable(text: Text, start: int) -> Iterator[Place]:
    """Find the default of a variable of Terraform that is named like a secret."""
    found = _VARIABLE.match(text.plain, start)
    if found and names.names_a_secret(Text.of(found["name"].encode("latin-1"), "")):
        default = _DEFAULT.search(found["body"])
        if default and text.is_secret(default["value"], MIN_CLEAR):
            yield "default of a secret variable", start


def _of_kind(text: Text, start: int) -> Iterator[Place]:
    """Find the values of a Secret of Kubernetes."""
    if not _KIND.match(text.lower, start):
        return
    separator = text.lower.rfind("\n---", max(0, start - _DOCUMENT), start)
    document = separator if separator >= 0 else -1 - start // _DOCUMENT
    if document in text.seen:
        return
    text.seen.add(document)
    begin = separator if separator >= 0 else max(0, start - _DOCUMENT)
    end = text.lower.find("\n---", start, start + _DOCUMENT)
    end = end if end >= 0 else start + _DOCUMENT
    for count, head in enumerate(_DATA.finditer(text.lower, begin, end)):
        if count == _MOST_HEADS:
            raise TooManyPlacesError
        is_encoded = head["kind"] == "data"
        values = _values(text.plain[head.end() : min(end, head.end() + _MAPPING)])
        if any(_is_kept(text, value, is_encoded=is_encoded) for value in values):
            yield "value of a Secret", head.start()


def _values(rest: str) -> Iterator[str]:
    """Yield the values of a mapping, in YAML or JSON, until it ends."""
    first = None
    for line in rest.split("\n", _MAPPING_LINES)[:_MAPPING_LINES]:
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        depth = len(line) - len(line.lstrip())
        if first is None and stripped != "{":
            first = depth
        elif first is not None and depth < first:
            return
        yield from (pair["value"] for pair in _PAIR.finditer(line))
        if "}" in line:
            return


def _is_kept(text: Text, value: str, *, is_encoded: bool) -> bool:
    if not is_encoded:
        return text.is_secret(value, MIN_CLEAR)
    try:
        decoded = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    if is_placeholder(value) or b"-----BEGIN CERT" in decoded[:40]:
        return False
    try:
        inside = decoded.decode().strip()
    except UnicodeDecodeError:
        return len(decoded) >= _MIN_BINARY
    is_file = len(inside) >= _MIN_BINARY and not {*"\n={"}.isdisjoint(inside)
    return text.is_secret(inside, MIN_CLEAR) or is_file


def _of_json_web_key(text: Text, start: int) -> Iterator[Place]:
    is_key = _PRIVATE_PART.match(text.plain, start) is not None
    if is_key and '"kty"' in text.lower[max(0, start - _NEAR) : start + _NEAR]:
        yield "private JSON Web Key", start


_FORMS: tuple[tuple[tuple[str, ...], Form], ...] = (
    (names.WORDS, names.of_name),
    (("://",), _of_address),
    (("sig=", "signature=", "code="), _of_signature),
    (("auth",), _of_auth),
    (("bearer", "basic"), _of_scheme),
    (("cookie",), _of_cookie),
    ((" -p", " -w", " -a"), _of_option),
    ((" -u", " --user", " -a "), _of_user),
    (("user ",), _of_new_user),
    (("htpasswd",), _of_htpasswd),
    (("chpasswd",), _of_chpasswd),
    (("login", "log_in", "signin", "sign_in", "auth", "credential"), _of_call),
    (("createhmac", "createcipheriv", "createdecipheriv"), _of_signing),
    (("hmac.new", "jwt.", "aes.new", "fernet"), _of_signing),
    (("identified", "securestring", "psk", "{{", ":5432:"), _of_statement),
    (("mnemonic", "seed phrase", "seed_phrase", "recovery"), _of_statement),
    (("variable",), _of_variable),
    (("kind",), _of_kind),
    (('"d"',), _of_json_web_key),
)
