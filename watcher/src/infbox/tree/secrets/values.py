"""Tells values that a machine made, or a careful person, from names, words and placeholders."""

from __future__ import annotations

import math
import re
from collections import Counter

MIN_LENGTH = 10
"""Of a value that stands behind a name alone; where a form leaves no doubt, less is enough."""

MIN_ENTROPY = 2.8
"""In bits a character."""

_MIN_LETTERS = 16  # of a value without anything else: below, it is a name that looks odd
_MOST_LENGTH = 4096
_MIN_DISTINCT = 6

# What stands in the place of a secret: a variable, a template, a call, a format.
_VARIABLE = re.compile(
    r"[$%]\{|\$\(|\{\{|\}\}|\{\w*\}|\{[\w.]+[:!]|<%|<[\w /.-]{1,60}>|\$\[|#\{|%\(|%[sdvr]\b|@@?\w+@"
    r"|A-Z|a-z|0-9\]|\\[dws]|\[\^|^\$[A-Za-z_:]|^%\w+%$|^@\w|^!\w|\$[A-Z_]{3,}|://|^\$env:|^\w+\(|\w\(\)"
)
_EXPRESSION = re.compile(r"A-Z|a-z|0-9\]|\\[dws]|\[\^")
# A hash, an encrypted text, a public key: meant to be seen.
_MEANT_TO_BE_SEEN = re.compile(
    r"^\$(?:1|2[abxy]|5|6|7|y|apr1|argon2\w*|pbkdf2[\w-]*|scrypt|sha1|bcrypt)\$"
    r"|^\w*(?:pbkdf2|bcrypt|argon2)\w*\$|(?:^|@)sha\d{1,3}[-:=$]|^md5[-:=]|^ENC\[|^\{cipher\}|^vault:v\d"
    r"|^(?:AgA|AgB)[\w/+=]{100}|^AAAA[BCE]3Nza|^AAAAE2Vj|^age1|^LS0tLS1CRUdJTiB(?:DRVJU|QVUJM)"
    r"|^arn:|^projects/|^op://|^h1:|^base64$"
)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)

_PLACEHOLDER = re.compile(
    r"example|x{4}|\*{3}|\.{3}|\u2026|placeholder|change.?(?:me|it)|your|dummy|redacted|123456789"
    r"|insert.?|replace.?(?:me|with|this)|abcdefgh|not.?a.?(?:real|secret)|deadbeef",
    re.IGNORECASE,
)
# Passwords that everybody knows, and words that say that it is none.
_WEAK = re.compile(
    r"(?:(?:my|the|new|old|test|db|root|admin|user|super|some|default)[-_.]?)?"
    r"(?:p[a@4]ssw[o0]r[dt]|passwd|s[e3]cr[e3]t|changeit|qwerty|letmein|hunter2|minioadmin)"
    r"[-_.]?[0-9]{0,4}[!.?]?"
    r"|(?:.*[^a-z])?(?:fake|mock|test|testing|demo|sample|todo|foo|bar|baz|none|null|true|false)"
    r"(?:[^a-z].*)?",
    re.IGNORECASE,
)

_APPLE = re.compile(r"[A-Za-z0-9]{6}-[A-Za-z0-9]{6}-[A-Za-z0-9]{6}")
_MIN_NOISE, _MOST_NOISE, _LONGEST_IN_NOISE = 32, 200, 8

_SPECIAL = frozenset("!#$%^&*?")
_JOINTS = re.compile(r"[\W_]+")
_HUMPS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[A-Z]")
_MIN_HUMP = 2.4  # letters of a word in camel case, on average
_WORD = re.compile(r"([A-Za-z]*)[0-9]*|[0-9]{1,4}[a-z]{1,4}")
_ODD_WORD = re.compile(r"[a-z]{1,8}[0-9]{1,5}[a-z]{1,8}[0-9]{0,2}|[0-9][a-z][0-9][a-z]?")
_ODD_WORDS = frozenset(
    (
        *("k8s", "k3s", "i18n", "l10n", "a11y", "e2e", "o11y", "x509", "b2b", "b2c", "p2p", "h2c"),
        *("s3fs", "ed25519", "v1alpha1", "v1alpha2", "v1beta1", "v1beta2", "v2beta1", "utf8mb4"),
        *("oauth2client", "base64url", "x86", "amd64", "arm64v8", "md5sum", "sha256sum"),
    )
)
# What a word of a name has not, as far as so few letters can tell.
_MIN_JUDGED = 4
_NO_ENGLISH = re.compile(r"q(?![ualts]|$)|[jqvz][jqxz]|[jvz][bcdfgkmpqtx]", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    (
        *("http", "https", "html", "xhtml", "grpc", "smtp", "smtps", "sftp", "mqtt", "ctrl"),
        *("mgmt", "tmpl", "dflt", "pgsql", "wsdl", "pnpm", "jdbc", "vxlan", "jquery", "vmware"),
        *(
            "stdlib",
            "jjwt",
            "vllm",
            "dhcp",
            "nfsd",
            "mysql",
            "xvfb",
            "lzma",
            "bzip",
            "hmac",
            "tcpdump",
        ),
    )
)
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{6}", re.IGNORECASE)
_LONG_WORD = re.compile(r"[A-Za-z]{4,}")
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)


def is_secret(value: str, minimum: int = MIN_LENGTH, *, may_be_uuid: bool = True) -> bool:
    """Say whether a value looks like a secret.

    Args:
        value: as it stands, without quotes.
        minimum: how many characters it must have.
        may_be_uuid: whether a UUID is one, too.
    """
    if is_placeholder(value):
        return False
    value = value.strip(" \t.,;:")
    if _is_noise(value):
        return True
    if not minimum <= len(value) <= _MOST_LENGTH or " " in value or "\t" in value:
        return False
    if _UUID.fullmatch(value):
        return may_be_uuid
    return _is_of_apple(value) or not (_is_harmless(value) or _is_plain(value))


def _is_harmless(value: str) -> bool:
    """Say whether a value stands for a secret, is meant to be seen, or known to everybody."""
    harmless = _VARIABLE.search(value) or _MEANT_TO_BE_SEEN.search(value) or _WEAK.fullmatch(value)
    return harmless is not None


def _is_plain(value: str) -> bool:
    """Say whether a value is too plain to be a secret."""
    if (value.isalpha() and len(value) < _MIN_LETTERS) or is_name(value):
        return True
    return _entropy(value) < min(MIN_ENTROPY, math.log2(len(value)) - 0.6)


def _is_noise(value: str) -> bool:
    """Say whether a long text is of all kinds of characters in no order, as WordPress' keys."""
    if not _MIN_NOISE <= len(value) <= _MOST_NOISE or len(set(value)) < _MIN_NOISE * 2 // 3:
        return False
    if _EXPRESSION.search(value) or value.count(" ") > len(value) // 16:
        return False
    odd = sum(not c.isalnum() and c not in "-_/ .,\"'" for c in value)
    words = [len(word) for word in re.findall("[A-Za-z]+", value)]
    return (
        odd * 6 > len(value)
        and any(c.isdigit() for c in value)
        and max(words, default=0) <= _LONGEST_IN_NOISE
    )


def _is_of_apple(value: str) -> bool:
    """Say whether this has one digit and one capital, as what Apple's devices make."""
    is_one = _APPLE.fullmatch(value) is not None
    return is_one and sum(c.isdigit() for c in value) == 1 == sum(c.isupper() for c in value)


def is_placeholder(text: str) -> bool:
    """Say whether a text stands where a secret would, and is none."""
    few = len(text) > 2 * _MIN_DISTINCT and len(set(text)) < _MIN_DISTINCT
    return few or _PLACEHOLDER.search(text) is not None


def is_name(text: str) -> bool:
    """Say whether a text is made of words and numbers, as the name of a file, a host or a version.

    One part may be an odd one, such as ``k8s`` or ``x509``, beside a word.
    """
    has_digit = any(c.isdigit() for c in text)
    if has_digit and not _SPECIAL.isdisjoint(text) and any(c.isalpha() for c in text):
        return False
    if text.startswith(("/", "./", "../", "~/")) and "+" not in text and "=" not in text:
        return True
    parts = [part for part in _JOINTS.split(text) if part]
    odd = [part for part in parts if not _is_word(part)]
    if not odd:
        return True
    is_odd_name = len(odd) == 1 < len(parts) and _is_odd_word(odd[0])
    return is_odd_name and any(_is_long_word(part) for part in parts if part not in odd)


def _is_odd_word(part: str) -> bool:
    is_abbreviation = len(part) <= 6 and part.isalpha() and (part.islower() or part.isupper())  # noqa: PLR2004
    return is_abbreviation or _ODD_WORD.fullmatch(part) is not None


def _is_word(part: str) -> bool:
    if part.lower() in _ODD_WORDS:
        return True
    found = _WORD.fullmatch(part)
    if not found:
        return False
    letters = found[1] or ""
    humps = _HUMPS.findall(letters)
    if any(_is_no_english(hump) for hump in humps):
        return False
    # Of fewer letters the length of humps says nothing.
    return len(letters) < 6 or len(letters) >= len(humps) * _MIN_HUMP  # noqa: PLR2004


def _is_no_english(word: str) -> bool:
    if len(word) < _MIN_JUDGED or word.lower() in _ABBREVIATIONS:
        return False
    is_odd = _NO_ENGLISH.search(word) or _CONSONANTS.search(word)
    return is_odd is not None or not _VOWEL.search(word)


def _is_long_word(part: str) -> bool:
    return _LONG_WORD.fullmatch(part) is not None and _VOWEL.search(part) is not None


def _entropy(text: str) -> float:
    """Return the entropy of a text in bits a character."""
    counts = Counter(text).values()
    return sum(count / len(text) * math.log2(len(text) / count) for count in counts)
