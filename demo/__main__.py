"""Command line of the demo: ``python -m demo up [--workspace DIR]``."""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lab import hosts
from lab.client import Answer, Client, fetch_tokenizer
from lab.deployment import WORKSPACES, Endpoint, copy_tree, endpoint, inventory, play, ssh
from lab.hosts import Host
from lab.settings import ROOT, STATE
from lab.shell import LabError, step

HOST = "demo"
console = Console()


def up(source: Path) -> None:
    """Deploy onto a lab host and show what it does.

    Args:
        source: the source tree to keep warm; a copy of it is used.
    """
    name = workspace_name(source)
    console.print(f"[bold]infbox demo[/bold]: one lab host, workspace [bold]{name}[/bold]")
    copy = copy_tree(source, name)
    host = deploy(name)
    point = endpoint(host)
    client = Client(point, name)
    with step("Waiting until the pack is warm"):
        client.wait_until_warm()
    show(client, host, copy)
    explain(point, host, name, copy)


def workspace_name(source: Path) -> str:
    """Return a workspace's name made from its folder's."""
    name = re.sub(r"[^a-z0-9]+", "-", source.resolve().name.lower()).strip("-")
    # A checkout is often cloned under a name that says nothing.
    return "infbox" if source.resolve() == ROOT else name or "workspace"


def deploy(name: str) -> Host:
    """Create the host and run `site.yml` on it, telling how far it is."""
    with step("Creating the lab host"):
        mount = f"{STATE / 'workspaces'}:{WORKSPACES}"
        host = hosts.create(HOST, "debian13", [mount])
    workspaces = [{"name": name, "path": f"{WORKSPACES}/{name}"}]
    folder = inventory(host, {"infbox_workspaces": workspaces})
    console.print(f"  ansible-playbook site.yml -i {folder.relative_to(ROOT)}")
    start = time.monotonic()
    with console.status("") as status:
        output = play(["site.yml", "-i", folder], "demo-site", status.update)
    recap = re.search(rf"^{HOST} .*?(ok=.*failed=\d+)", output, re.MULTILINE)
    took = time.monotonic() - start
    console.print(f"  site.yml: done in {took:.0f} s ({recap[1] if recap else ''})")
    return host


def show(client: Client, host: Host, copy: Path) -> None:
    """Ask cold and warm, save a file, ask again; print the figures as a table."""
    cold, warm = client.ask(cold=True), client.ask()
    marker = f"saved_by_the_demo_{time.time_ns()}"
    since = time.time()
    changed = change_a_file(copy, marker)
    saved = client.wait_until_saved(since)
    after = client.ask()
    seen = marker in client.prompt(fetch_tokenizer(host))

    table = Table(title="A question about the source tree", title_justify="left")
    for heading in ("", "first token", "prompt tokens", "of them cached"):
        table.add_column(heading, justify="left" if not heading else "right")
    add(table, "cold: nothing in any cache", cold)
    add(table, f"warm: {client.model}@{client.workspace}", warm)
    add(table, f"after saving {changed}", after)
    console.print()
    console.print(table)
    console.print(
        f"Save to warm: {saved['save_to_warm_seconds']:.2f} s, of which"
        f" {saved['save_to_indexed_seconds'] * 1000:.0f} ms until it was indexed."
    )
    console.print(f"The next answer had the new text in its prompt: {'yes' if seen else 'NO'}.")
    if not seen:
        raise LabError(f"The prompt after the save does not contain {marker}.")


def add(table: Table, what: str, answer: Answer) -> None:
    """Add an answer's figures as a row."""
    share = answer.cached_tokens / answer.prompt_tokens
    cached = f"{answer.cached_tokens:,} ({share:.0%})"
    table.add_row(what, f"{answer.first_token:.2f} s", f"{answer.prompt_tokens:,}", cached)


def change_a_file(copy: Path, marker: str) -> str:
    """Save a change to a file of the copy, and return the file's name."""
    listed = subprocess.run(
        [Path(sys.executable).with_name("infbox-watch"), "scan", copy],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    sources = [name for name in listed if name.endswith((".py", ".js", ".ts", ".go", ".rs", ".c"))]
    name = (sources or listed)[0]
    comment = "//" if name.endswith((".js", ".ts", ".go", ".rs", ".c")) else "#"
    with (copy / name).open("a") as file:
        file.write(f"\n{comment} {marker}\n")
    return name


def explain(point: Endpoint, host: Host, name: str, copy: Path) -> None:
    """Say how to go on from here."""
    random = "random" in ssh(host, "ls /var/lib/infbox/models")
    login = (
        f"ssh -i {host.identity_file} -o UserKnownHostsFile={host.known_hosts}"
        f" {host.user}@{host.address}"
    )
    curl = f'curl --cacert {point.authority} -H "Authorization: Bearer $KEY"'
    if random:
        console.print(
            "\n[yellow]The model hub is out of reach, so the model has random weights: everything"
            " is real but its words, which mean nothing.[/yellow]"
        )
    else:
        console.print("\nThe model is Qwen/Qwen2.5-Coder-0.5B-Instruct.")
    console.print(
        f"""
[bold]Talk to it[/bold]
  export KEY=$({login} cat /etc/infbox/secrets/api-keys/team)
  {curl} {point.url}/models
  SSL_CERT_FILE={point.authority} python -c '
  from openai import OpenAI; import os
  client = OpenAI(base_url="{point.url}", api_key=os.environ["KEY"])
  print(client.chat.completions.create(model="coder@{name}", max_tokens=20,
        messages=[{{"role": "user", "content": "Where do I begin?"}}]).choices[0].message.content)'

[bold]Look at it[/bold]
  edit a file below {copy} and ask again
  {curl} {point.url}/workspaces/{name}/status
  {login} journalctl -u infbox-watcher -f
  {login} docker logs -f infbox-vllm-1

[bold]Remove every trace[/bold]
  make demo-down
""",
        soft_wrap=True,
        highlight=False,
    )


def main() -> int:
    """Run the demo; errors are one message and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show_up = commands.add_parser("up", help="deploy onto a lab host and show what it does")
    show_up.add_argument("--workspace", type=Path, default=ROOT, help="source tree to keep warm")
    arguments = parser.parse_args()
    if not arguments.workspace.is_dir():
        print(f"demo: there is no folder {arguments.workspace}", file=sys.stderr)
        return 2
    try:
        up(arguments.workspace)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
