#!/usr/bin/env bash
# Turns this server into an infbox endpoint: installs what Ansible needs, then runs site.yml here.
# Everything it does can be done again; an interrupted run is mended by the next one.
set -euo pipefail

readonly SUPPORTED="Debian 12 or 13, Ubuntu 22.04 or 24.04"
# What the smallest preset needs; site.yml looks again, with the preset that this host gets.
readonly LEAST_MEMORY_GB=7
readonly LEAST_DISK_GB=12
readonly ANSIBLE_DISK_GB=1

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REQUIREMENTS=$CHECKOUT/requirements/ansible.txt
VENV=/opt/infbox/ansible
INVENTORY=/etc/infbox/inventory
LOG=/var/log/infbox-bootstrap.log
OS_RELEASE=/etc/os-release
SYSTEMD=/run/systemd/system

CHECK=false
WORKSPACES=()
WORKSPACES_GIVEN=true
PASSED_ON=()
REFUSALS=()
# Set by look_at_system.
PYTHON=python3
PACKAGES=(python3-apt python3-venv)
# Set by look_at_packages.
MISSING=()

usage() {
    cat <<END
Usage: ./bootstrap.sh [--check] [--workspace NAME=PATH]... [ARGUMENT OF ansible-playbook]...

Turns this server ($SUPPORTED) into a private coding model. Run it as root; it asks nothing.

  --check                 change nothing: say what would be done, and where Ansible is
                          already here, what site.yml would change
  --workspace NAME=PATH   a source tree to keep warm; clients ask for MODEL@NAME.
                          Without any: this checkout, as infbox
  --help                  this text

All else goes to ansible-playbook, such as -e infbox_preset=cpu. What should last belongs in
$INVENTORY/hosts.yml, which is written once and then yours.
END
}

read_arguments() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --check | -C) CHECK=true ;;
            --workspace) WORKSPACES+=("${2:-}") && shift ;;
            --workspace=*) WORKSPACES+=("${1#*=}") ;;
            *) PASSED_ON+=("$1") ;;
        esac
        shift || break
    done
    if ((${#WORKSPACES[@]} == 0)); then
        WORKSPACES_GIVEN=false
        WORKSPACES=("infbox=$CHECKOUT")
    fi
}

# --- Looking: all that is wrong is said at once, before the first change --------------------------

refuse() { REFUSALS+=("$1"); }

look_at_user() {
    ((EUID == 0)) || refuse "This needs root. Run: sudo $0"
}

look_at_systemd() {
    [[ -d $SYSTEMD ]] ||
        refuse "This host does not run systemd, which starts our services. Use a host that boots with it."
}

look_at_system() {
    local system name
    # shellcheck source=/dev/null # It is the host's own.
    read -r system name < <(
        . "$OS_RELEASE" && echo "${ID:-}:${VERSION_ID:-} ${PRETTY_NAME:-an unknown system}"
    )
    case $system in
        debian:12 | debian:13 | ubuntu:24.04) ;;
        # Its own Python is 3.10, too old for Ansible; a later one is in its archive.
        ubuntu:22.04) PYTHON=python3.11 && PACKAGES=(python3-apt python3.11 python3.11-venv) ;;
        *) refuse "This host runs $name. Use one with $SUPPORTED." ;;
    esac
}

look_at_architecture() {
    local architecture
    architecture=$(uname -m)
    [[ $architecture == x86_64 ]] ||
        refuse "This host's architecture is $architecture. Use one with x86_64."
}

memory_bytes() { awk '/^MemTotal:/ {printf "%.0f", $2 * 1024}' /proc/meminfo; }

look_at_memory() {
    local bytes
    bytes=$(memory_bytes)
    ((bytes >= LEAST_MEMORY_GB * 10 ** 9)) ||
        refuse "This host has $(gb "$bytes") GB of memory, the smallest preset needs $LEAST_MEMORY_GB GB. Add memory."
}

free_bytes() { df --output=avail -B1 "$1" | tail -n 1; }

# held_bytes FOLDER...: what an earlier run put there already need not be found a second time.
held_bytes() { { du -csx -B1 "$@" 2>/dev/null || true; } | tail -n 1 | cut -f 1; }

# look_at_disk PARENT GB FOLDER...: room below PARENT for what FOLDERs will hold.
look_at_disk() {
    local parent=$1 needed=$2 bytes
    shift 2
    bytes=$(free_bytes "$parent")
    ((bytes >= needed * 10 ** 9)) || bytes=$((bytes + $(held_bytes "$@")))
    ((bytes >= needed * 10 ** 9)) ||
        refuse "$parent has room for $(gb "$bytes") GB, at least $needed GB are needed in $*. Free some, or mount a larger disk."
}

gb() { awk -v bytes="$1" 'BEGIN {printf "%.1f", bytes / 1e9}'; }

look_at_workspaces() {
    local workspace
    for workspace in "${WORKSPACES[@]}"; do
        if [[ ! $workspace =~ ^[a-z0-9][a-z0-9-]*=/ ]]; then
            refuse "--workspace $workspace is not NAME=PATH. Use lower-case letters, digits and hyphens for the name, and an absolute path."
        elif [[ ! -d ${workspace#*=} ]]; then
            refuse "The path of workspace ${workspace%%=*} is not a folder: ${workspace#*=}. Put the source tree there, or correct the path."
        elif $WORKSPACES_GIVEN && [[ -e $INVENTORY/hosts.yml ]] &&
            ! grep -qF -- "$(workspace_line "$workspace")" "$INVENTORY/hosts.yml"; then
            refuse "$INVENTORY/hosts.yml is yours and is kept, and has no such line: $(workspace_line "$workspace"). Add it to infbox_workspaces there, and leave --workspace out."
        fi
    done
}

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]
}

# Asks the package sources, with lists of its own so that those of the host stay as they are.
look_at_packages() {
    local package
    for package in "${PACKAGES[@]}"; do
        is_installed "$package" || MISSING+=("$package")
    done
    ((${#MISSING[@]})) || return 0
    local options=(-o "Dir::State::Lists=$SCRATCH/lists" -o "Dir::Cache=$SCRATCH/cache"
        -o APT::Update::Error-Mode=any -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    mkdir -p "$SCRATCH/lists/partial" "$SCRATCH/cache/archives/partial"
    say "Asking the package sources"
    if ! apt-get "${options[@]}" -qq update >"$SCRATCH/apt" 2>&1; then
        refuse "The package sources do not answer: $(tail -n 1 "$SCRATCH/apt"). Mend the network, or /etc/apt/sources.list.d."
    elif ! apt-get "${options[@]}" -qq --simulate install "${MISSING[@]}" >"$SCRATCH/apt" 2>&1; then
        refuse "The package sources cannot give ${MISSING[*]}: $(tail -n 1 "$SCRATCH/apt"). Add the distribution's own archive, on Ubuntu with universe."
    fi
}

look() {
    look_at_user
    look_at_systemd
    look_at_system
    look_at_architecture
    look_at_memory
    look_at_disk /var/lib "$LEAST_DISK_GB" /var/lib/infbox /var/lib/docker
    look_at_disk /opt "$ANSIBLE_DISK_GB" /opt/infbox
    look_at_workspaces
    # A system that will not do has other packages; there is no need to ask for them.
    ((${#REFUSALS[@]})) || look_at_packages
    ((${#REFUSALS[@]} == 0)) && return
    echo "This host is left as it is, since this cannot work:" >&2
    printf -- '- %s\n' "${REFUSALS[@]}" >&2
    exit 1
}

# --- Doing ----------------------------------------------------------------------------------------

say() { printf '==> %s\n' "$*"; }

# step TEXT COMMAND...: runs what takes long, with its output in the log and a dot for every 2 s.
step() {
    local text=$1 start=$SECONDS status=0
    shift
    printf '==> %s ' "$text"
    while sleep 2; do printf '.'; done &
    TICKER=$!
    (umask 077 && : >>"$LOG")
    "$@" >>"$LOG" 2>&1 || status=$?
    stop_ticker
    if ((status)); then
        printf ' failed; the end of %s:\n' "$LOG"
        tail -n 15 "$LOG" >&2
        return 1
    fi
    printf ' %d s\n' $((SECONDS - start))
}

TICKER=
stop_ticker() {
    [[ -z $TICKER ]] || kill "$TICKER" 2>/dev/null || true
    TICKER=
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    # On its first boot a server may be updating itself.
    local apt=(apt-get -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "${MISSING[@]}"
}

# What Ansible's environment is made of: it is made anew when this changes.
fingerprint() { { sha256sum <"$REQUIREMENTS" && echo "$PYTHON"; } | tr '\n' ' '; }

ansible_is_ready() { [[ $(cat "$VENV/made-from" 2>/dev/null) == "$(fingerprint)" ]]; }

# The mark is set last, so that what was interrupted is made anew.
make_environment() {
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV" &&
        "$VENV/bin/pip" install --disable-pip-version-check --require-hashes -r "$REQUIREMENTS" &&
        fingerprint >"$VENV/made-from"
}

workspace_line() {
    local path=${1#*=}
    path=${path//\\/\\\\}
    printf -- '- {name: %s, path: "%s"}' "${1%%=*}" "${path//\"/\\\"}"
}

inventory() {
    cat <<END
# Made by bootstrap.sh, which never writes it again: edit it, then run bootstrap.sh once more.
# All settings: $CHECKOUT/group_vars/all/settings.yml
inference:
  hosts:
    localhost:
      ansible_connection: local
  vars:
    # Source trees to keep warm. Clients ask for coder@NAME.
    infbox_workspaces:
END
    local workspace
    for workspace in "${WORKSPACES[@]}"; do
        printf '      %s\n' "$(workspace_line "$workspace")"
    done
}

# write_inventory FOLDER: nobody but root may read it, since a user may put secrets there.
write_inventory() {
    mkdir -p "$1"
    (umask 077 && inventory >"$1/hosts.yml.new")
    mv "$1/hosts.yml.new" "$1/hosts.yml"
}

play() {
    # Ansible insists on UTF-8, and a fresh server may have no other locale.
    LC_ALL=C.UTF-8 ANSIBLE_CONFIG=$CHECKOUT/ansible.cfg \
        "$VENV/bin/ansible-playbook" -i "$1" "$CHECKOUT/site.yml" "${@:2}"
}

show() {
    say "The host is fit for it. Nothing is changed; a run would:"
    ((${#MISSING[@]} == 0)) || echo "- install ${MISSING[*]}"
    ansible_is_ready || echo "- make Ansible's environment $VENV from requirements/ansible.txt"
    if [[ ! -e $INVENTORY/hosts.yml ]]; then
        echo "- write $INVENTORY/hosts.yml:"
        inventory | sed 's/^/    /'
    fi
    echo "- run site.yml with $INVENTORY"
    ansible_is_ready || return 0
    local inventory=$INVENTORY
    if [[ ! -e $inventory/hosts.yml ]]; then
        inventory=$SCRATCH/inventory
        write_inventory "$inventory"
    fi
    say "What site.yml would change"
    play "$inventory" --check --diff "${PASSED_ON[@]}"
}

bring_up() {
    ((${#MISSING[@]} == 0)) || step "Installing ${MISSING[*]}" install_packages
    ansible_is_ready || step "Making Ansible's environment in $VENV" make_environment
    if [[ ! -e $INVENTORY/hosts.yml ]]; then
        say "Writing $INVENTORY/hosts.yml"
        write_inventory "$INVENTORY"
    fi
    say "Running site.yml on this host"
    if ! play "$INVENTORY" "${PASSED_ON[@]}"; then
        echo "site.yml failed. Mend what it says above, then run the same command again." >&2
        return 1
    fi
    say "Settings are in $INVENTORY/hosts.yml. After a change there, run $0 again."
}

main() {
    read_arguments "$@"
    SCRATCH=$(mktemp -d)
    # apt fetches as a user of its own, who must be able to get there.
    chmod 0755 "$SCRATCH"
    trap 'stop_ticker; rm -rf "$SCRATCH"' EXIT
    look
    if $CHECK; then show; else bring_up; fi
}

# The tests call the functions one by one.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
fi
