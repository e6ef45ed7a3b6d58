"""Secrets inside a file, found by the plugins of detect-secrets.

Its plugins take some 80 µs for a line, and importing them takes longer than a whole start may. So
a few expressions first look for lines that could interest a plugin at all, in the whole file at
once; the library is imported at the first such line. Nothing is verified, and so nothing is sent:
``analyze_string`` alone is called.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from importlib import import_module
from itertools import chain, groupby, repeat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIBRARY = "1.5.0"  # a newer one may judge otherwise: this line is part of the rules' version

# What the plugins look at of a long line, on both sides of what caught the eye: some of their
# expressions take a time that grows with the square of the length.
BEFORE, AFTER = 200, 400

# A password must have this many characters, and this many bits a character, to be taken for one.
# Below, real ones are not told from the words of examples and tests.
MIN_LENGTH = 10
MIN_ENTROPY = 3.0
# A file with more places to ask about, or a place with more words that stand before secrets, is not
# judged but refused: a question may cost a millisecond, and seconds where such words abound.
MAX_QUESTIONS = 500
MAX_WORDS = 30
TOO_MANY = "too many places that look like one"
# A token of fewer different characters is a placeholder, or the letters of a genome.
MIN_DISTINCT = 8

# The plugins for tokens of a known shape. Left out are those that refuse ordinary files: bare
# entropy (hashes), addresses, Artifactory (any word that starts with AP), IBM's and SoftLayer's
# and Cloudant's (any value of the right length behind "key").
TOKENS = (
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("jwt", "JwtTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("npm", "NpmDetector"),
    ("openai", "OpenAIDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
)

# What these plugins can find lies inside what these find. Each starts with one fixed text, which
# Python then looks for at the speed of memory: one expression for all takes a hundred times longer.
_SHAPES = (
    rb"A(?:(?:3T[A-Z0-9]|BIA|CCA|KIA|SIA)[0-9A-Z]{16}|C[a-z0-9]{32})",
    rb"AccountKey=[a-zA-Z0-9+/=]{88}",
    rb"S(?:K[a-z0-9]{32}|G\.[\w-]{22}\.[\w-]{43})",
    rb"g(?:h[pousr]_[A-Za-z0-9_]{36}|l[a-z]{2,5}-[\w-]{20,})",
    rb"GR1348941[\w-]{20}",
    rb"eyJ[\w=-]+\.[\w=-]+",
    rb"k_live_[0-9a-zA-Z]{24}",
    rb":_authToken=[^\n]+",
    rb"pypi-AgE[\w-]{70}",
    rb"T3BlbkFJ[A-Za-z0-9]{20}",
    rb"sq0csp-[\w\\-]{43}",
    rb"-us(?<=[0-9a-z]{32}-us)[0-9]",
    rb":(?<=[0-9]{8}:)A[\w-]{34}",  # the plugin takes any letter: a number before a long word
    rb"\.[\w-]{6}\.[\w-]{27}",
)
# The same for plugins that do not mind upper and lower case: looked for in the lower-case file.
_LOWER_SHAPES = (
    rb"aws.{0,80}?(?:key|pwd|pw|pass|token).{0,80}?['\"][0-9a-z/+]{40}['\"]",
    rb"xox[abposr]-[0-9]+-[0-9a-z-]+",
    rb"hooks\.slack\.com/services/t\w+/b\w+/\w+",
)
# Tokens that the library does not know yet. They need no second look.
_OWN_SHAPES = (
    ("GitHub Token", rb"github_pat_[A-Za-z0-9_]{60,}"),
    ("Google API Key", rb"AIza[\w-]{35}"),
    ("Google OAuth Secret", rb"GOCSPX-[\w-]{28}"),
    ("Anthropic Token", rb"sk-ant-[\w-]{60,}"),
    ("Hugging Face Token", rb"hf_[A-Za-z0-9]{34}"),
    ("NPM tokens", rb"npm_[A-Za-z0-9]{36}"),
    ("Vault Token", rb"hvs\.[\w-]{24}"),
    ("age Key", rb"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
)
# The library refuses a file that names the first line of a key; code that reads keys does so too.
# It knows neither encrypted keys nor PuTTY's newer form.
_PRIVATE_KEY = rb"PRIVATE KEY|PuTTY-User-Key-File-[0-9]"
_KEY_BODY = rb"[A-Za-z0-9+/=]{40,}"
_KEY_BYTES = 1000

_NO_NAME = rb"[^:/?#\[\]@!$&'()*+,;=\s]"
_BASIC_AUTH = rb"://%b+:(%b{%d,})@" % (_NO_NAME, _NO_NAME, MIN_LENGTH)
# The library's words for secrets, as they stand in the lower-case file.
_WORDS = (
    rb"key(?:(?<=[ihetbv]key)|(?<=[ihetbv]_key)|(?=_?pass))",
    rb"pass(?:w|(?<=[eby]pass)|(?<=[eby]_pass))",
    rb"pwd",
    rb"secret",
    rb"contrase",
)
_ANY_WORD = "key|pass|pwd|secret"
_LONGEST_START = len("database_")
# What no password may hold that is told from code: it stands in a program's expressions, and rarely
# in what a machine makes.
_CODE = r"\s'\"`(){}\[\]<>|;,\\"
_CODES = r"://|^\$|%[sd]"
# Files where a value stands without quotes, beside those that the library takes for such.
_UNQUOTED = frozenset({"", ".sh", ".bash", ".zsh", ".dockerfile", ".service", ".env", ".envrc"})

_ALLOWED = r"pragma: ?(?:allow|white)list[ -]secret"
_PLACEHOLDER = r"(?i)example|x{4}|\*{3}|\.{3}|placeholder|change.?me|your|dummy|redacted|123456789"
# A name, as of a file or a host or in an example, is made of words with numbers behind them.
_JOINTS = r"[\W_]+"
_WORD = r"(?:[A-Z]?[a-z]+|[A-Z]+)?[0-9]*"


class Found(NamedTuple):
    """A secret: its kind, in the library's words, and its line, from 1. Never its text."""

    kind: str
    line: int


class Finder:
    """Looks for secrets in whole files.

    Nothing is made ready before it is needed: expressions with the first file, the library with
    the first place that it must judge.
    """

    def __init__(self) -> None:
        self._eye: Eye | None = None
        self._library: Library | None = None

    def find(self, data: bytes, path: str = "") -> Found | None:
        """Return the first secret that is found.

        Args:
            data: the whole file.
            path: its path; the end of its name tells where values stand without quotes.
        """
        self._eye = self._eye or Eye()
        for kind, start in self._found(self._eye, data, path):
            if not re.search(_ALLOWED, piece(data, start, start)):
                return Found(kind, data.count(b"\n", 0, start) + 1)
        return None

    def _found(self, eye: Eye, data: bytes, path: str) -> Iterator[tuple[str, int]]:
        yield from eye.known(data)
        lower = data.lower()
        places = chain(
            zip(repeat(self._token), eye.tokens(data, lower)),
            zip(repeat(self._password), eye.passwords(data, lower)),
        )
        for number, (judge, (start, end)) in enumerate(places):
            kind = judge(data, start, end, path) if number < MAX_QUESTIONS else TOO_MANY
            if kind:
                yield kind, start

    def _token(self, data: bytes, start: int, end: int, _path: str) -> str | None:
        if is_placeholder(data[start:end].decode()):
            return None
        return self._judge().token(piece(data, start, end))

    def _password(self, data: bytes, start: int, end: int, path: str) -> str | None:
        if len(re.findall(_ANY_WORD, piece(data, start, end), re.IGNORECASE)) > MAX_WORDS:
            return TOO_MANY
        # A line may hold several, and the library looks at the first one only.
        pieces = (piece(data, start, end, before) for before in (BEFORE, _LONGEST_START))
        return next(filter(None, (self._judge().password(each, path) for each in pieces)), None)

    def _judge(self) -> Library:
        self._library = self._library or Library()
        return self._library


class Eye:
    """What sees, in a whole file, the places that could interest the library.

    Places are start and end in the file. ``lower`` is the file in lower case.
    """

    def __init__(self) -> None:
        self._shapes = [re.compile(shape) for shape in _SHAPES]
        self._lower_shapes = [re.compile(shape) for shape in _LOWER_SHAPES]
        self._own_shapes = [(kind, re.compile(shape)) for kind, shape in _OWN_SHAPES]
        self._private_key = re.compile(_PRIVATE_KEY)
        self._key_body = re.compile(_KEY_BODY)
        self._basic_auth = re.compile(_BASIC_AUTH)
        self._words = [re.compile(word) for word in _WORDS]
        self._value = re.compile(rb"[^%b]{%d,}" % (_CODE.encode(), MIN_LENGTH))

    def known(self, data: bytes) -> Iterator[tuple[str, int]]:
        """Find what needs no second look: kind and start."""
        for kind, shape in self._own_shapes:
            for hit in shape.finditer(data):
                if not is_placeholder(hit[0].decode()):
                    yield kind, hit.start()
        for hit in self._private_key.finditer(data):
            body = self._key_body.search(data, hit.end(), hit.end() + _KEY_BYTES)
            if body and not is_placeholder(body[0].decode()):
                yield "Private Key", hit.start()

    def tokens(self, data: bytes, lower: bytes) -> Iterator[tuple[int, int]]:
        """Find whatever a plugin could take for a token."""
        for shape in self._shapes:
            yield from (hit.span() for hit in shape.finditer(data))
        for shape in self._lower_shapes:
            yield from (hit.span() for hit in shape.finditer(lower))

    def passwords(self, data: bytes, lower: bytes) -> Iterator[tuple[int, int]]:
        """Find whatever a plugin could take for a password, and ``is_random`` for a good one."""
        for hit in self._basic_auth.finditer(data):
            if _could_be_random(unquote(hit[1].decode(errors="replace"))):
                yield hit.span()
        words = sorted(hit.span() for word in self._words for hit in word.finditer(lower))
        for line, here in groupby(words, key=lambda word: _line(data, *word)):
            yield from self._next_to_values(data, line, [*here])

    def _next_to_values(
        self, data: bytes, line: tuple[int, int], words: list[tuple[int, int]]
    ) -> Iterable[tuple[int, int]]:
        """Return those words of a line that may name a value: on each side of one the nearest."""
        near: set[tuple[int, int]] = set()
        for value in self._value.finditer(data, *line):
            if _could_be_random(value[0].decode(errors="replace")):
                at = bisect_left(words, value.span())
                near.update(words[max(0, at - 1) : at + 1])
        return sorted(near)


class Library:
    """The plugins of detect-secrets that count, and its heuristics."""

    def __init__(self) -> None:
        self._tokens = [_plugin(module, name) for module, name in TOKENS]
        self._basic_auth = _plugin("basic_auth", "BasicAuthDetector")
        self._keyword = _plugin("keyword", "KeywordDetector")
        self._keywords: Any = import_module("detect_secrets.plugins.keyword")
        self._heuristic: Any = import_module("detect_secrets.filters.heuristic")

    def token(self, text: str) -> str | None:
        """Return the kind of the token that a part of a line holds."""
        for plugin in self._tokens:
            if any(plugin.analyze_string(text)):
                return str(plugin.secret_type)
        return None

    def password(self, text: str, path: str) -> str | None:
        """Return the kind of the password that a part of a line holds."""
        for value in self._basic_auth.analyze_string(text):
            if self._is_good(unquote(value)):
                return str(self._basic_auth.secret_type)
        for value in self._keyword.analyze_string(text, self._expressions(path)):
            if self._is_good(_without_comment(value)):
                return str(self._keyword.secret_type)
        return None

    def _expressions(self, path: str) -> Any:
        if PurePosixPath(path).suffix.lower() in _UNQUOTED:
            return self._keywords.CONFIG_DENYLIST_REGEX_TO_GROUP
        kind = self._keywords.determine_file_type(path)
        quoted = self._keywords.QUOTES_REQUIRED_DENYLIST_REGEX_TO_GROUP
        return self._keywords.REGEX_BY_FILETYPE.get(kind, quoted)

    def _is_good(self, value: str) -> bool:
        return is_random(value) and not (
            self._heuristic.is_sequential_string(value) or self._heuristic.is_potential_uuid(value)
        )


def _plugin(module: str, name: str) -> Any:
    return getattr(import_module(f"detect_secrets.plugins.{module}"), name)()


def _without_comment(value: str) -> str:
    """Take away what may follow a value that stands without quotes."""
    word, _, rest = value.strip().partition(" ")
    return word.rstrip(",;") if rest.lstrip().startswith(("#", "//", ";")) else value.strip(" ,;")


def is_random(value: str) -> bool:
    """Say whether a value looks like a secret that a machine made, or a careful person."""
    return (
        len(value) >= MIN_LENGTH
        and not re.search(f"[{_CODE}]|{_CODES}", value)
        and not is_placeholder(value)
        and _is_no_name(value)
        and _entropy(value) >= MIN_ENTROPY
    )


def is_placeholder(text: str) -> bool:
    """Say whether a text stands where a secret would, and is none."""
    few = len(text) > 2 * MIN_DISTINCT and len(set(text)) < MIN_DISTINCT
    return few or re.search(_PLACEHOLDER, text) is not None


def _could_be_random(run: str) -> bool:
    """Say whether some part of a run of characters may be random: what is, makes this true."""
    return len({*run}) >= MIN_DISTINCT and _is_no_name(run)


def _is_no_name(text: str) -> bool:
    """Say whether a text has letters and digits, and is not made of words and numbers."""
    if not re.search("[0-9]", text) or not re.search("[A-Za-z]", text):
        return False
    return not all(re.fullmatch(_WORD, part) for part in re.split(_JOINTS, text))


def _entropy(text: str) -> float:
    """Return the entropy of a text in bits a character."""
    counts = Counter(text).values()
    return sum(count / len(text) * math.log2(len(text) / count) for count in counts)


def piece(data: bytes, start: int, end: int, before: int = BEFORE) -> str:
    """Return the part of the line around a place that a plugin is shown."""
    first, last = _line(data, start, end)
    return data[max(first, start - before) : min(last, end + AFTER)].decode(errors="replace")


def _line(data: bytes, start: int, end: int) -> tuple[int, int]:
    last = data.find(b"\n", end)
    return data.rfind(b"\n", 0, start) + 1, last if last >= 0 else len(data)
