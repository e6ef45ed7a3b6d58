"""Values behind the name of a secret: ``password = …``, ``"apiKey": "…"``, ``<secret>…</secret>``.

Both sides must be right: the name must mean the secret itself and not what is about it, as
``secretName`` and ``token_url`` do, and the value must look like one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infbox.tree.secrets.text import Place, Text

MIN_CLEAR = 8
"""Characters of a value whose form leaves no doubt that it is a password."""

MIN_KEY = 20
"""Characters of a value behind ``key`` alone, which may be the key of anything."""

WORDS = ("pass", "secret", "token", "key", "cred", "auth", "psk", "pw", "salt", "encrypt")
"""How a name that may mean a secret begins, or goes on."""

_NAME = re.compile(
    r"(?P<word>(?i:pass(?:word|wd|phrase|wort|code)?|pwd|secret|token|cred(?:ential)?"
    r"|authtok(?:en)?|auth|psk|pw|salt|encrypt|key))s?(?P<rest>(?![a-z])[\w-]{0,40})"
)
# With one of these words behind it, a name is about the secret and does not hold it.
_ABOUT = re.compile(
    r"names?|files?|paths?|dirs?|urls?|uris?|endpoint|ids?|refs?|arn|hash(?:ed|es)?|digest"
    r"|checksum|sha\d*|md5|types?|kind|policy|rules?|len(?:gth)?|size|count|ttl|age|expir\w*|field"
    r"|label|placeholder|prompt|hint|header|prefix|suffix|params?|parameter|column|patterns?|regex"
    r"|re|version|provider|manager|class|service|mount|volume|group|role|usages?|spec|index|vault"
    r"|scope|issuer|audience|format|images?|store|set|map|space|board|stdin|from"
)
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_OF_A_CLOUD = re.compile(r"(?:arn:[\w:/-]*|projects/[\w/-]*|\w::\w*)$")
# What stands before the word and gives it another meaning.
_NO_PASS = re.compile(
    r"(?:by|com|sur|tres|over|under|encom|multi|single|two|one|render|sub|first)$"
)
_NO_TOKEN = re.compile(
    r"(?:next|page|continuation|cursor|lex|lexer|design|color|colour|pad|eos|bos|unk|mask|sep|cls"
    r"|special|public[_-]?key|start|end|stop|max|min|num|sync|cancell?ation|image)[_-]?$"
)
_NO_KEY = re.compile(
    r"(?:public|pub|foreign|primary|sort|partition|hot|cache|host|row|group|object|map|lookup|mon"
    r"|tur|whis|don|ho|joc|idempotency|natural|composite|range|hash|shard|routing|s3|kms|ssh"
    r"|shortcut|keyboard|translation|i18n|message|gpg|site|publishable|anon)[_\- ]?$"
)
_KEY_OF = re.compile(
    r"(?:api|access|auth|secret|private|priv|encrypt(?:ion)?|sign(?:ing)?|account|master|shared"
    r"|service|licen[cs]e|app(?:lication)?|admin|client|consumer|jwt|hmac|aes|fernet|session|cookie"
    r"|deploy|webhook|storage|root|user|integration|ingest(?:ion)?|subscription|write|server|bot"
    r"|hub|ai|dd|pre[_-]?shared|wg|wireguard|pass|tls|ssl|token|password)[_\- .]?$"
)
_BEFORE = 80  # characters before the word that are looked at
_WHOLE_WORDS = ("auth", "pw", "psk", "cred", "credential", "salt", "encrypt")
_WEAK_WORDS = ("auth", "encrypt", "salt")

# What may stand between the name and the value, in all the languages that there are.
_BETWEEN = re.compile(
    r"""["'`\])]{0,3} (?: [ \t]\d{1,2} )?
    (?: [ \t]{0,24}
        (?: :[ \t]{0,4}&?[ \t]{0,4}(?:'\w{1,20}[ \t]{1,4})?  # the type of a variable
            [A-Za-z][\w.<>\[\]|]{0,30}[ \t]{0,8}(?==) )?
        (?: => | ={1,3} | !==? | :{1,2}= | :- | :{1,2} | \|\| | \?\? | \?: | -> | <- | ~= )
      | ["']?[ \t]{1,24}(?:value|content|defaultValue)[ \t]{0,8}=
      | [ \t]{0,24},?\s{1,80}["']?(?:value|default|content)["']?[ \t]{0,8}[:=]
      | [ \t]{0,24},[^"'\n]{0,60}\bdefault[ \t]{0,8}=
      | [ \t]{0,24},
      | [ \t]{0,24}\((?=[ \t]{0,4}(?:["'`@]|[bN]["'`]))
      | (?: [ \t] [^<>\n]{0,200} )? > (?: \s{0,80}(?:<value>|<!\[CDATA\[) )?
      | </\w{1,20}>\s{0,80}<\w{1,20}>
      | \.(?:unwrap_or|or_?else|getOrElse|default)\(
      | [ \t]{1,24}(?: 0 | is | was | to | by | with | or )(?=[ \t])
      | [ \t]{1,24}
      | (?=["'`])
    )
    (?: \s{0,4}[|>][-+]?[ \t]{0,8}\r?\n[ \t]{1,40}           # a block of YAML
      | [ \t]{0,8}\r?\n[ \t]{0,40}-[ \t]{1,8} )?             # a list of YAML
    [ \t]{0,24}
    (?: [&!][\w!]{1,30}[ \t]{1,8} )?                         # an anchor or a tag of YAML
    (?: [A-Za-z_&@][\w.:<>]{0,40}[(!]{1,2}(?=["'`]|[bN]["'`]) | \[\]byte\( )?  # a call
    (?: [(\[]{1,2}(?=[ \t]{0,4}(?:["'`]|[bNrf]["'`])) )?
    (?: [@&] | [bBrRuUfFNL]{1,2}(?=["'`]) )?""",
    re.VERBOSE,
)
_QUOTED = re.compile(r"""(["'`])((?:(?!\1)[^\n\\]|\\[^\n]){6,2000})\1""")
_BARE = re.compile(r"""(?P<quotes>["'`]{0,3})(?P<value>[^\s"'`<>(){}\[\],;|&\\]{6,2000})""")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]+")
_COMMENT = re.compile(r"#|//|^\s*[*;%]|--")


class _Named(NamedTuple):
    end: int
    is_strong: bool


def of_name(text: Text, start: int) -> Iterator[Place]:
    """Find the value behind a name that one of ``WORDS`` stands in."""
    named = _named(text, start)
    value = _value_behind(text, start, named.end) if named else None
    if not named or not value:
        return
    if named.is_strong:
        is_one = text.is_secret(value, MIN_CLEAR)
    else:
        is_one = text.is_secret(value, MIN_KEY, may_be_uuid=False) and not is_hex(value)
    if is_one:
        yield "value of a secret's name", start


def names_a_secret(text: Text) -> bool:
    """Say whether a name means a secret."""
    places = (text.lower.find(word) for word in WORDS)
    return any(start >= 0 and _named(text, start) for start in places)


def is_hex(value: str) -> bool:
    """Say whether a value is a hexadecimal number, as hashes are."""
    return _HEX.fullmatch(value) is not None


def _named(text: Text, start: int) -> _Named | None:
    """Return where the name of a secret ends, or None where there is none at this place."""
    found = _NAME.match(text.plain, start)
    if not found or any(_ABOUT.fullmatch(part.lower()) for part in _PARTS.findall(found["rest"])):
        return None
    word, before = found["word"].lower(), text.lower[max(0, start - _BEFORE) : start]
    if _OF_A_CLOUD.search(before):
        return None
    is_joined = before[-1:].isalpha() and not (
        found["word"][:1].isupper() and text.plain[start - 1].islower()
    )
    if word == "key":
        if _KEY_OF.search(before):
            return _Named(found.end(), is_strong=True)
        is_meant = not is_joined and not _NO_KEY.search(before)
        return _Named(found.end(), is_strong=False) if is_meant else None
    if word == "pass":
        is_meant = not (is_joined and _NO_PASS.search(before))
    elif word == "token":
        is_meant = not _NO_TOKEN.search(before)
    else:
        is_meant = word not in _WHOLE_WORDS or not is_joined or before.endswith("root")
    return _Named(found.end(), is_strong=word not in _WEAK_WORDS) if is_meant else None


def _value_behind(text: Text, start: int, end: int) -> str | None:
    """Return the value that stands behind a name, or None."""
    between = _BETWEEN.match(text.plain, end)
    if not between:
        return None
    quoted = _QUOTED.match(text.plain, between.end())
    if quoted:
        return quoted[2]
    bare = _BARE.match(text.plain, between.end())
    if not bare or (text.is_code and not _is_in_text(text, start, bare)):
        return None
    return bare["value"]


def _is_in_text(text: Text, start: int, bare: re.Match[str]) -> bool:
    """Say whether a value without quotes, in a program, stands in a text or in a comment."""
    if bare["quotes"]:
        return True
    if text.plain[bare.end() : bare.end() + 1] in ("(", "[", "{", ".", "<"):
        return False
    line = text.plain[text.line_before(start) : start]
    return _COMMENT.search(line) is not None or any(line.count(mark) % 2 for mark in "\"'`")
