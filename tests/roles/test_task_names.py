"""The names of plays and tasks, which Ansible prints while it runs, and the messages beside them.

Each name is a verb of VERBS and the object it acts on. Neither names nor messages use words that
the project has replaced by the field's own.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.plugins.plugin_files import ROOT

FILES = ("site.yml", "playbooks/*.yml", "playbooks/tasks/*.yml", "roles/*/tasks/*.yml",
         "molecule/*/*.yml", "tests/engine/*.yml")  # fmt: skip
NESTED = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks")
MESSAGES = ("fail_msg", "success_msg", "msg")
VERBS = re.findall(
    r"\S+",
    """
    Add Apply Assemble Assert Authorize Back Bind Blacklist Build Change Check Choose
    Collect Compare Compute Configure Converge Copy Create Deploy Diagnose Disable Download
    Enable Ensure Exclude Fail Fetch Find Follow Gather Generate Handle Hold Identify
    Include Install Link List Load Manage Mark Mount Open Pack Pin Plan Pre-pull Prepare
    Preview Print Probe Provision Pull Query Read Reboot Record Refuse Release Reload Remove
    Render Repackage Repair Report Request Resolve Restart Restore Restrict Roll Rotate Run
    Save Send Set Skip Start Stop Swap Test Undo Uninstall Unload Unpack Update Upgrade Use
    Validate Verify Wait Warn Write
    """,
)
# What replaces each stands beside it.
REPLACED = {
    r"cards?": "GPU",
    r"folders?": "directory",
    r"mend(s|ed)?": "fix",
    r"rooms?": "disk space, memory",
    r"gates?": "health checks",
    r"peers?(?! hosts?)": "peer hosts",
    r"parts?": "service, shard",
    r"(is|are|not|it) (well|ill)": "healthy, unhealthy",
    r"go(es)? back": "roll back",
    r"held": "queued",
    r"heats?": "edit frequency",
    r"outlook": "context",
    r"without a way out|no way out": "air-gapped",
    r"authorit(y|ies)(?!/)": "CA certificate, key service",
    r"licence": "license",
    r"handed over": "forwarded",
    r"ask(s|ed)? again": "retry",
}
# Of a name alone: a pronoun needs its noun.
PRONOUNS = (
    r"\b(it|they|them|ours?|us|who|whom|what|there|something|somebody|nobody"
    r"|ask(s|ed)?|looks?)\b"
)


def names(node: yaml.Node | None) -> Iterator[str]:
    """Yield the names of plays, blocks and tasks, as they are written."""
    if not isinstance(node, yaml.SequenceNode):
        return
    for entry in (entry for entry in node.value if isinstance(entry, yaml.MappingNode)):
        for key, value in entry.value:
            if key.value == "name" and len(entry.value) > 1:
                yield value.value
            elif key.value in NESTED:
                yield from names(value)


def messages(node: yaml.Node | None) -> Iterator[str]:
    """Yield the texts of asserts, failures and prints, without what a template puts into them."""
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from messages(entry)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value in MESSAGES and isinstance(value, yaml.ScalarNode):
                yield re.sub(r"\{\{.*?\}\}|\{%.*?%\}", quoted, value.value, flags=re.DOTALL)
            yield from messages(value)


def quoted(template: re.Match[str]) -> str:
    """Return the words that a template may print: those in quotes."""
    return " ".join(re.findall(r"'([^']*)'", template[0]))


def replaced(text: str) -> list[str]:
    """Return what is to be said in place of words of a text."""
    return [
        f"say {better} in place of {found[0]!r}"
        for word, better in REPLACED.items()
        if (found := re.search(rf"\b({word})\b", text, re.IGNORECASE))
    ]


def faults(name: str) -> list[str]:
    """Return what is wrong with the name of a play or a task."""
    words = re.sub(r"\{\{.*?\}\}", "VALUE", name).split()
    wrong = replaced(" ".join(words))
    if len(words) < 3:
        wrong.append("name its object: fewer than three words")
    if words[0].rstrip(",") not in VERBS:
        wrong.append(f"{words[0]!r} is none of VERBS")
    if pronoun := re.search(PRONOUNS, " ".join(words), re.IGNORECASE):
        wrong.append(f"say what {pronoun[0]!r} stands for")
    return wrong


def roots() -> Iterator[tuple[Path, yaml.Node | None]]:
    """Yield each file of tasks or plays, read."""
    for path in sorted(path for pattern in FILES for path in ROOT.glob(pattern)):
        if path.name != "molecule.yml":
            yield path.relative_to(ROOT), yaml.compose(path.read_text(), Loader=yaml.CSafeLoader)


def test_each_name_says_what_is_done_and_to_what() -> None:
    named = [(path, name) for path, root in roots() for name in names(root)]
    assert len(named) > 900
    assert not [f"{path}: {name}: {wrong}" for path, name in named for wrong in faults(name)]


def test_no_two_tasks_of_a_file_of_a_role_have_one_name() -> None:
    for path, root in roots():
        each = list(names(root)) if path.parts[0] == "roles" else []
        assert sorted(each) == sorted(set(each)), path


def test_messages_use_the_words_of_the_field() -> None:
    said = [(path, text) for path, root in roots() for text in messages(root)]
    assert len(said) > 200
    assert not [f"{path}: {text}: {wrong}" for path, text in said for wrong in replaced(text)]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Preflight", "name its object: fewer than three words"),
        ("Install packages", "name its object: fewer than three words"),
        ("Look at the containers", "'Look' is none of VERBS"),
        ("Make ready for it", "'Make' is none of VERBS"),
        ("Ensure they are loaded", "say what 'they' stands for"),
        ("Run the gate's requests", "say health checks in place of 'gate'"),
        ("Verify health checks on peers", "say peer hosts in place of 'peers'"),
        ("Gather the names of all cards", "say GPU in place of 'cards'"),
        (
            "Install the authorities of the host",
            "say CA certificate, key service in place of 'authorities'",
        ),
    ],
)
def test_a_name_that_says_too_little_is_found(name: str, wrong: str) -> None:
    assert wrong in faults(name)


@pytest.mark.parametrize(
    "name", ["Verify health checks on peer hosts", "Pull {{ image.what }} for later"]
)
def test_a_name_that_says_enough_is_let_through(name: str) -> None:
    assert faults(name) == []
