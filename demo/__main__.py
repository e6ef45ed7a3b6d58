"""Command line of the demo: ``python -m demo up [--workspace DIR]``, ``… ask QUESTION``."""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from infbox.client import ask as question
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from demo.scene import SHOP, Scene, save, scene
from lab import hosts
from lab.client import Answer, Client, fetch_tokenizer
from lab.deployment import (
    AUTHORITY,
    WORKSPACES,
    Endpoint,
    copy_tree,
    endpoint,
    inventory,
    play,
    ssh,
)
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError, step

HOST = os.environ.get("INFBOX_DEMO_HOST", "demo")
KEY_FILE = "/etc/infbox/secrets/api-keys/team"
ANSWER_TOKENS = 60
# The model that the engine image carries. Its window is 8,192 tokens, of which the pack may have
# 6,000: what is left is for the question and the answer. In bfloat16 many processors compute by
# themselves, and in float16 few.
PRESET = {
    "like": "cpu",
    "description": "SmolLM2 135M, which the engine image carries",
    "model": {
        "source": "image",
        "random_fallback": False,
        "repository": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "0.1.2",
        "license": "Apache-2.0",
        "weights_bytes": 269060280,
        "config": {
            "torch_dtype": "bfloat16",
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
        },
    },
    # However long it takes to start on a busy machine.
    "engine": {"dtype": "bfloat16", "max_model_len": 8192, "start_period": 1200},
    "workspace_budget": 6000,
}
README = ROOT / "README.md"
SHOWN = re.compile(
    r"(<!-- what `make demo PICTURE=docs/demo.svg` showed -->\n).*?(\n<!-- end -->)", re.DOTALL
)
console = Console(highlight=False, record=True, width=100 if not sys.stdout.isatty() else None)


def up(source: Path, picture: Path | None) -> None:
    """Deploy onto a lab host and show what it does.

    Args:
        source: the source tree to keep warm; a copy of it is used.
        picture: where to write what was shown, as SVG.
    """
    name = workspace_name(source)
    console.print(f"[bold]infbox demo[/bold]: one lab host, workspace [bold]{name}[/bold]")
    copy = copy_tree(source, name)
    shown = scene(source, copy)
    if source.resolve() == SHOP:
        # Saved by an earlier run: the model would know it before the save.
        (copy / shown.path).unlink(missing_ok=True)
    host = deploy(name)
    point = endpoint(host)
    client = Client(point, name)
    with step("Waiting until the pack is warm"):
        client.wait_until_warm()
    # What is recorded begins here: what a person came to see.
    console.export_text()
    show(client, host, copy, shown)
    if picture:
        write_picture(picture)
    explain(point, host, copy, shown.asked_after)


def workspace_name(source: Path) -> str:
    """Return a workspace's name made from its directory's."""
    name = re.sub(r"[^a-z0-9]+", "-", source.resolve().name.lower()).strip("-")
    # A checkout is often cloned under a name that says nothing.
    return "infbox" if source.resolve() == ROOT else name or "workspace"


def deploy(name: str) -> Host:
    """Create the host and run `site.yml` on it, telling how far it is."""
    with step("Creating the lab host"):
        mount = f"{STATE / 'workspaces'}:{WORKSPACES}"
        host = hosts.create(HOST, "debian13", [mount])
    variables = {
        "infbox_workspaces": [{"name": name, "path": f"{WORKSPACES}/{name}"}],
        "infbox_preset": "demo",
        "infbox_more_presets": {"demo": PRESET},
    }
    directory = inventory(host, variables)
    console.print(f"  ansible-playbook site.yml -i {directory.relative_to(ROOT)}")
    start = time.monotonic()
    with console.status("") as status:
        output = play(["site.yml", "-i", directory], f"{HOST}-site", status.update)
    recap = re.search(rf"^{HOST} .*?(ok=.*failed=\d+)", output, re.MULTILINE)
    took = time.monotonic() - start
    console.print(f"  site.yml: done in {took:.0f} s ({recap[1] if recap else ''})")
    state_file().write_text(json.dumps(asdict(host)))
    return host


def state_file() -> Path:
    """Return the file that says which host is the demo's."""
    return STATE / f"{HOST}.json"


def show(client: Client, host: Host, copy: Path, shown: Scene) -> None:
    """Ask cold and warm, save a file and ask what only that says; print answers and figures."""
    model = f"{client.model}@{client.workspace}"
    print_question(shown.question)
    rows = [("cold: nothing in any cache", told(client, "cold", shown.question, cold=True))]
    rows.append((f"warm: {model}", told(client, "warm", shown.question)))
    print_question(shown.asked_after)
    told(client, "before the save", shown.asked_after)
    since = time.time()
    save(copy, shown)
    console.print(f"\n  saved {shown.path}: [cyan]{escape(shown.added.splitlines()[-1])}[/cyan]\n")
    saved = client.wait_until_saved(since)
    after = told(client, "after the save", shown.asked_after)
    rows.append((f"after saving {shown.path}", after))
    print_figures(rows)
    console.print(
        f"Save to warm: {saved['save_to_warm_seconds']:.2f} s, of which"
        f" {saved['save_to_indexed_seconds'] * 1000:.0f} ms until it was indexed."
    )
    seen = shown.added.strip().splitlines()[-1] in client.prompt(fetch_tokenizer(host))
    console.print(
        f"The prompt after the save has the new text: {'yes' if seen else 'NO'};"
        f" the answer has it: {'yes' if shown.fact in after.text else 'no'}."
    )
    if not seen:
        raise LabError(f"The prompt after the save does not contain {shown.added!r}.")


def print_question(text: str) -> None:
    """Print a question."""
    console.print()
    console.print(Text(text, style="bold"))


def told(client: Client, when: str, text: str, *, cold: bool = False) -> Answer:
    """Ask, and print the answer as it comes with the time to its first token."""
    console.print(f"  [dim]{when}:[/dim] ", end="")
    answer = client.ask(
        text,
        cold=cold,
        tokens=ANSWER_TOKENS,
        tell=lambda piece: console.print(piece.replace("\n", " "), end="", markup=False),
    )
    console.print(f" [dim]({answer.first_token:.2f} s)[/dim]")
    return answer


def print_figures(rows: Sequence[tuple[str, Answer]]) -> None:
    """Print the figures of answers as a table."""
    table = Table(title="What the answers cost", title_justify="left")
    for heading in ("", "time to first token", "prompt tokens", "of them cached"):
        table.add_column(heading, justify="left" if not heading else "right")
    for what, answer in rows:
        share = answer.cached_tokens / answer.prompt_tokens
        cached = f"{answer.cached_tokens:,} ({share:.0%})"
        table.add_row(what, f"{answer.first_token:.2f} s", f"{answer.prompt_tokens:,}", cached)
    console.print()
    console.print(table)


def write_picture(file: Path) -> None:
    """Write what was shown since the recording began, as SVG and as README's text.

    Fonts that a viewer would fetch from elsewhere are left out.
    """
    lines = [line.rstrip() for line in console.export_text(clear=False).splitlines()]
    page = README.read_text()
    shown = "\n".join(lines).strip("\n")
    README.write_text(SHOWN.sub(lambda found: f"{found[1]}```text\n{shown}\n```{found[2]}", page))
    picture = console.export_svg(title="make demo", clear=False)
    file.write_text(re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL) + "\n")


def explain(point: Endpoint, host: Host, copy: Path, asked: str) -> None:
    """Say how to go on from here: the page, its login and one command first."""
    shell, fetch = write_helpers(point, host)
    page = point.url.removesuffix("v1")
    console.print(
        f"""
The model is SmolLM2 135M: it finds what stands in its prompt, and knows little else.

[bold]Look[/bold]    {page}   login: team, password: {shell} cat {KEY_FILE}
[bold]Ask[/bold]     make ask Q="{asked}"
[bold]Edit[/bold]    a file below {relative(copy)} and ask again

Shell   {shell}
API     {fetch} /v1/models
Logs    {shell} docker logs -f infbox-vllm-1
Remove  make demo-down
""",
        soft_wrap=True,
    )


def write_helpers(point: Endpoint, host: Host) -> tuple[Path, Path]:
    """Write two small programs that know the host: a shell there, and curl with its key.

    The key is fetched when it is needed, and is no argument of anything.

    Returns:
        Their paths, relative to the checkout.
    """
    shell, fetch = STATE / f"{HOST}-ssh", STATE / f"{HOST}-curl"
    options = ["-i", host.identity_file, "-o", f"UserKnownHostsFile={host.known_hosts}"]
    login = shlex.join(["ssh", *options, f"{host.user}@{host.address}"])
    server = point.url.removesuffix("/v1")
    shell.write_text(f'#!/bin/sh\nexec {login} "$@"\n')
    fetch.write_text(
        "#!/usr/bin/env bash\n"
        f"key=$({login} cat {KEY_FILE})\npath=$1; shift\n"
        f"exec curl --cacert {shlex.quote(str(point.authority))} --silent --show-error \\\n"
        '  --header @<(printf "Authorization: Bearer %s" "$key") \\\n'
        '  --header "Content-Type: application/json" \\\n'
        f'  "{server}$path" "$@"\n'
    )
    for program in (shell, fetch):
        program.chmod(0o755)
    return relative(shell), relative(fetch)


def relative(path: Path) -> Path:
    """Return a path below the checkout as a person would type it there."""
    return path.relative_to(ROOT)


def ask(arguments: Sequence[str]) -> int:
    """Run ``infbox ask`` against the demo's host, or the server that the arguments name."""
    if any(word.startswith("--server") for word in arguments):
        return question.main(["ask", *arguments])
    try:
        host = Host(**json.loads(state_file().read_text()))
    except FileNotFoundError:
        raise LabError(
            "no demo is there to be asked: run `make demo`, or name a server:"
            ' make ask Q="…" ARGS="--server https://SERVER --ca root.crt"'
        ) from None
    authority = STATE / f"{host.instance}.crt"
    authority.write_text(ssh(host, f"cat {AUTHORITY}") + "\n")
    os.environ[question.KEY_VARIABLE] = ssh(host, f"cat {KEY_FILE}")
    server = ["--server", f"https://{host.address}", "--ca", str(authority)]
    return question.main(["ask", *server, *arguments])


def main() -> int:
    """Run the demo; errors are one message and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show_up = commands.add_parser("up", help="deploy onto a lab host and show what it does")
    show_up.add_argument("--workspace", type=Path, default=SHOP, help="source tree to keep warm")
    show_up.add_argument("--picture", type=Path, help="write what is shown as SVG, and into README")
    commands.add_parser("ask", help="ask the demo's host; takes what `infbox ask` takes")
    given = sys.argv[1:]
    arguments = parser.parse_args(given[:1] if given[:1] == ["ask"] else given)
    try:
        if arguments.command == "ask":
            return ask(given[1:])
        if not arguments.workspace.is_dir():
            print(f"demo: there is no folder {arguments.workspace}", file=sys.stderr)
            return 2
        up(arguments.workspace, arguments.picture)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
