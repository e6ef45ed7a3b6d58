"""Secrets inside files. Each is made up here from parts, so that this file holds none itself."""

from __future__ import annotations

import random
import re
import string
import sysconfig
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from detect_secrets.plugins import keyword
from hypothesis import example, given
from hypothesis import strategies as st

from infbox import secrets
from infbox.secrets import TOKENS, Eye, Finder, Library

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
LOWER = string.ascii_lowercase + string.digits
HEX = "0123456789abcdef"


def made(alphabet: str, length: int) -> str:
    """Some characters that look random, the same in each run."""
    return "".join(random.Random(length).choices(alphabet, k=length))  # noqa: S311


def encoded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


JWT = ".".join([encoded('{"alg":"HS256"}'), encoded('{"sub":"1"}'), made(ALNUM, 43)])
BY_PLUGIN = {
    "AWSKeyDetector": [
        *(start + made(UPPER, 16) for start in ("AKIA", "A3TX", "ABIA", "ACCA", "ASIA")),
        *(f"aws_{word} = '{made(ALNUM, 40)}'" for word in ("secret_key", "pwd", "pw", "token")),
    ],
    "AzureStorageKeyDetector": ["AccountKey=" + made(ALNUM, 86) + "=="],
    "DiscordBotTokenDetector": [f"M{made(ALNUM, 23)}.{made(ALNUM, 6)}.{made(ALNUM, 27)}"],
    "GitHubTokenDetector": [f"gh{letter}_{made(ALNUM, 36)}" for letter in "pousr"],
    "GitLabTokenDetector": [
        *(f"{start}-{made(ALNUM, 20)}" for start in ("glpat", "gldt", "glft", "glsoat", "glrt")),
        *("glimt-" + made(ALNUM, 25), "glcbt-4f_" + made(ALNUM, 20), "glptt-" + made(HEX, 40)),
        *("GR1348941" + made(ALNUM, 20), "gloas-" + made(HEX, 64), "glagent-" + made(ALNUM, 50)),
    ],
    "JwtTokenDetector": [JWT],
    "MailchimpDetector": [made(HEX, 32) + "-us12"],
    "NpmDetector": ["//a.example/:_authToken=" + "npm_" + made(ALNUM, 36)],
    "OpenAIDetector": ["sk-" + made(ALNUM, 20) + "T3Blbk" + "FJ" + made(ALNUM, 20)],
    "PypiTokenDetector": ["pypi-AgE" + "IcHlwaS5vcmc" + made(ALNUM, 80)],
    "SendGridDetector": [f"SG.{made(ALNUM, 22)}.{made(ALNUM, 43)}"],
    "SlackDetector": [
        *(f"xox{letter}-" + "123456-654321-" + made(LOWER, 24) for letter in "abposr"),
        f"https://hooks.slack.com/services/T{made(UPPER, 8)}/B{made(UPPER, 8)}/{made(ALNUM, 24)}",
    ],
    "SquareOAuthDetector": ["sq0csp-" + made(ALNUM, 43)],
    "StripeDetector": ["sk_live_" + made(ALNUM, 24), "rk_live_" + made(ALNUM, 24)],
    "TelegramBotTokenDetector": ["987654321:A" + made(ALNUM, 34)],
    "TwilioKeyDetector": ["SK" + made(HEX, 32), "AC" + made(HEX, 32)],
}
OWN = [
    *("github_pat_" + made(ALNUM, 82), "AIza" + made(ALNUM, 35), "GOCSPX-" + made(ALNUM, 28)),
    *("sk-ant-api03-" + made(ALNUM, 95), "hf_" + made(ALNUM, 34), "npm_" + made(ALNUM, 36)),
    *("hvs." + made(ALNUM, 24), "AGE-SECRET-KEY-1" + made(UPPER, 58)),
]
ALL = [text for texts in BY_PLUGIN.values() for text in texts] + OWN
KINDS = ["", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED "]


def private_key(kind: str, end: str = "\n") -> str:
    lines = [made(ALNUM, 64), made(ALNUM, 63), made(ALNUM, 44)]
    return end.join([f"-----BEGIN {kind}PRIVATE" + " KEY-----", *lines])


def kind_in(text: str, path: str = "a.py") -> str | None:
    found = Finder().find(text.encode(errors="replace"), path)
    return found.kind if found else None


def test_the_library_is_the_version_that_the_rules_were_made_for() -> None:
    assert version("detect-secrets") == secrets.LIBRARY


def test_each_plugin_has_a_sample_here() -> None:
    assert {name for _, name in TOKENS} == BY_PLUGIN.keys()


@pytest.mark.parametrize(("plugin", "text"), [(p, t) for p, ts in BY_PLUGIN.items() for t in ts])
def test_a_token_of_each_plugin_is_found(plugin: str, text: str) -> None:
    module = next(module for module, name in TOKENS if name == plugin)
    assert kind_in(f'call("{text}")\n') == secrets._plugin(module, plugin).secret_type


@pytest.mark.parametrize("text", OWN)
def test_a_token_that_the_library_does_not_know_is_found(text: str) -> None:
    assert kind_in(f'call("{text}")\n')


@given(text=st.sampled_from(ALL), before=st.text(), after=st.text())
@example(text=ALL[0], before="x" * 100_000, after="x" * 100_000)
def test_a_token_is_found_in_any_surroundings(text: str, before: str, after: str) -> None:
    assert kind_in(f'{before} "{text}" {after}')


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\\n", '\\n" +\n    "'])
def test_a_private_key_is_found(kind: str, end: str) -> None:
    assert kind_in(private_key(kind, end)) == "Private Key"


def test_a_private_key_of_putty_is_found() -> None:
    head = "PuTTY-User-Key-File-3" + ": ssh-ed25519\nEncryption: none\nPublic-Lines: 2\n"
    assert kind_in(head + made(ALNUM, 64)) == "Private Key"


@pytest.mark.parametrize("body", ["", "…\n", "0123456789ABCDEF…\n", "x" * 64 + "\n"])
def test_code_and_words_about_private_keys_are_kept(body: str) -> None:
    assert kind_in("-----BEGIN RSA PRIVATE" + f" KEY-----\n{body}-----END") is None


VALUES = [made(ALNUM, 24), made(HEX, 32), "Xk9#mP2vL5n!q", made(ALNUM, 30) + "/+=="]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a.py", 'db_password = "{}"'),
        ("a.py", "connect(host, password='{}')"),
        ("a.js", "const apiKey = '{}';"),
        ("a.json", '{{"name": "x", "password": "words", "client_secret": "{}"}}'),
        ("a.yml", "admin_password: {}"),
        ("a.ini", "secret_key={}  # of the test server"),
        ("a.sh", "export API_KEY={}"),
        ("Dockerfile", "ENV DB_PASSWORD={}"),
        ("a.go", 'password := "{}"'),
        ("a.rb", "password: '{}'"),
        ("a.py", 'if "{}" == password:'),
    ],
)
def test_a_password_that_is_hard_to_guess_is_found(path: str, line: str, value: str) -> None:
    assert kind_in(line.format(value), path) == "Secret Keyword"


@pytest.mark.parametrize("value", VALUES[:3])
def test_a_password_in_an_address_is_found(value: str) -> None:
    value = re.sub("[#!]", "-", value)
    assert kind_in(f"postgres://app:{value}@db/app") == "Basic Auth Credentials"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a.py", "password = 'password123'"),
        ("a.py", "secret = get_secret('production/db2')"),
        ("a.py", "api_key = os.environ['API_KEY_2']"),
        ("a.go", "apiKey = strings.TrimSpace(pair[1])"),
        ("a.yml", "password: '{{ vault_db_password_2 }}'"),
        ("a.yml", "key_management_ecdsa_p256_key_file: ecdsa-p256.priv.pem"),
        ("a.yml", "password_provider_uri: ldap://ldap.internal:389"),
        ("a.yml", "client_secret: your-client-secret-4f5a8b9c"),
        ("a.sh", "API_KEY=${API_KEY_V2:-}"),
        ("a.sh", 'PASSWORD="$(cat /run/secrets/db1)"'),
        ("a.py", 'AWS_KEY = "AKIA' + 'IOSFODNN7EXAMPLE"'),
        ("a.yml", "url: https://hooks.slack.com/services/T00000000/B00000000/" + "X" * 24),
        ("a.py", "url = 'https://user:password1@host/'"),
        ("a.md", "`https://jo%40email.com:a%20secret@host:1234/`"),
        ("a.txt", "21225780:" + "Everymajordevelopmentinthehistoryof"),
        ("a.tcl", "set rna {CACCTTCCCAGGTAACAAACC" + "AACCAACTTTCGATCTCTTG}"),
        ("a.json", '{"secret_id": "3f2b8c1e-5d4a-4b6f-9e7d-1a2b3c4d5e6f"}'),
        ("requirements.txt", "secretstorage==3.3.3 \\\n    --hash=sha256:" + made(HEX, 64)),
        ("a.txt", "commit " + made(HEX, 40)),
    ],
)
def test_ordinary_lines_are_kept(path: str, line: str) -> None:
    assert kind_in(line, path) is None


WORDS = ["def", "return x1", "0x1f", "sha256:" + made(HEX, 64), made(ALNUM, 24), "ünï", "\t", "://"]


@given(st.lists(st.sampled_from(WORDS)), st.sampled_from(["\n", " ", '"', "/"]))
def test_text_without_a_word_for_secrets_is_kept(words: list[str], between: str) -> None:
    assert kind_in(between.join(words)) is None


def test_a_password_behind_a_harmless_one_is_found() -> None:
    line = f"{{'password': 'words', 'db_password': 'password12', 'api_key': '{VALUES[0]}'}}"
    assert kind_in(line) == "Secret Keyword"


def test_a_file_that_would_take_long_to_judge_is_refused() -> None:
    assert kind_in("secret_" * 500 + "1a1a1a1a2b3c\n") == secrets.TOO_MANY
    assert kind_in("secret_key(pair[1], a1b2c3d4e5f6)\n" * 600) == secrets.TOO_MANY


def test_a_line_that_a_person_has_looked_at_is_kept() -> None:
    mark = "# pragma: allowlist" + " secret"
    assert kind_in(f"password = '{VALUES[0]}'  {mark}\n") is None
    assert kind_in(f"password = '{VALUES[0]}'\n{mark}\n")


def test_what_is_found_names_the_line_and_not_the_text() -> None:
    found = Finder().find(f"a\nb\ntoken('{ALL[0]}')\n".encode(), "a.py")
    assert found == ("AWS Access Key", 3)


def test_the_library_is_loaded_at_the_first_place_to_judge() -> None:
    finder = Finder()
    finder.find(b"secret = words\npassword = 'password123'\nhttp://a:b@c\n", "a.py")
    assert finder._library is None
    finder.find(f"password = '{VALUES[0]}'".encode(), "a.py")
    assert finder._library is not None


# The library, asked about each line, finds nothing where the eye sees nothing to ask about.

EXPRESSIONS = [
    (module, name, expression)
    for module, name in TOKENS
    for expression in secrets._plugin(module, name).denylist
]


def sees_token(line: str) -> bool:
    data = line.encode()
    return any(Eye().tokens(data, data.lower()))


@given(st.data())
@pytest.mark.parametrize(("module", "name", "expression"), EXPRESSIONS)
def test_the_eye_sees_whatever_an_expression_of_a_plugin_can_match(
    module: str, name: str, expression: re.Pattern[str], data: st.DataObject
) -> None:
    ascii_only = st.characters(codec="ascii", exclude_characters="\n\r")
    text = data.draw(st.from_regex(expression, fullmatch=True, alphabet=ascii_only))
    if name == "TelegramBotTokenDetector":
        text = re.sub(":.", ":A", text)  # what Telegram gives out begins so
    assert sees_token(f"x {text} y")


FORMS = ["{w} = '{v}'", '"{w}": "{v}"', "{w}: {v}", "{w}={v}", "if '{v}' == {w}:", "{w}('{v}');"]
FILES = ["a.py", "a.yml", "a.go", "a.c", "a.cpp", "a.sh", "a.json", "a.ini"]
KEYWORDS = [re.sub(r"_\?", "_", word) for word in keyword.DENYLIST]
KEYWORDS += [re.sub(r"_\?", "", word) for word in keyword.DENYLIST]


@given(
    word=st.sampled_from(KEYWORDS),
    form=st.sampled_from(FORMS),
    path=st.sampled_from(FILES),
    value=st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=8)
    | st.text(ALNUM + "!@#%^&*+=/:._-~`é", min_size=10),
    upper=st.booleans(),
)
def test_the_eye_sees_whatever_is_taken_for_a_password(
    word: str, form: str, path: str, value: str, upper: bool
) -> None:
    word = word.upper() if upper and word.isascii() else word
    assert_no_password_is_overlooked(form.format(w=word, v=value), path)


@pytest.mark.parametrize("word", KEYWORDS)
def test_the_eye_knows_each_word_of_the_library(word: str) -> None:
    for form in FORMS:
        for path in FILES:
            assert_no_password_is_overlooked(form.format(w=f"our_{word}_2", v=VALUES[0]), path)
    assert LIBRARY.password(f'{word} = "{VALUES[0]}"', "a.py")


def assert_no_password_is_overlooked(line: str, path: str) -> None:
    data = line.encode()
    if LIBRARY.password(line, path):
        assert any(Eye().passwords(data, data.lower())), line


LIBRARY = Library()


def standard_sources() -> Iterator[tuple[str, str]]:
    """One in twelve of the standard library's own sources, its tests included."""
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    assert found
    for path in found[::12]:
        yield path.name, path.read_text(encoding="utf-8", errors="replace")


def test_nothing_in_the_standard_library_is_overlooked() -> None:
    eye: Any = Eye()
    plugins = [secrets._plugin(module, name) for module, name in TOKENS]
    words = re.compile("key|pass|pwd|secret|contrase|://", re.IGNORECASE)
    for path, text in standard_sources():
        data = text.encode()
        seen = [*eye.tokens(data, data.lower())]
        assert seen or not any(value for p in plugins for value in p.analyze_string(text))
        for line in filter(words.search, text.splitlines()):
            assert_no_password_is_overlooked(line, path)
