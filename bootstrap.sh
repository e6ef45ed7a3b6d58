#!/usr/bin/env bash
# Turns this server into an infbox endpoint: installs Ansible, then runs site.yml on this host.
# It can be run again at any time; a run completes an interrupted earlier one.
set -euo pipefail

readonly SUPPORTED="Debian 12 or 13, Ubuntu 22.04, 24.04 or 26.04"
# The needs of the smallest preset; site.yml checks those of the preset that this host gets.
readonly MIN_MEMORY_GB=7
readonly MIN_DISK_GB=12
readonly ANSIBLE_DISK_GB=1
readonly REBOOT_DELAY=15 # seconds
# How long to wait for another apt, or for cloud-init of a first boot.
readonly WAIT_LIMIT=600 # seconds

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SCRIPT=$CHECKOUT/bootstrap.sh
REQUIREMENTS=$CHECKOUT/requirements/ansible.txt
VENV=/opt/infbox/ansible
INVENTORY=/etc/infbox/inventory
LOG=/var/log/infbox-bootstrap.log
OS_RELEASE=/etc/os-release
SYSTEMD=/run/systemd/system
PCI=/sys/bus/pci/devices
LOCK=/run/infbox-bootstrap.lock
CLOUD_INIT=/run/cloud-init
CGROUP=/proc/self/cgroup
MOTD=/run/motd.d/infbox-bootstrap
# The role nvidia_driver writes the reason for a reboot into it; a boot removes it.
MARKER=/run/infbox/reboot-needed
# The unit that continues after that reboot, and its arguments; both are removed when it starts.
UNIT=infbox-bootstrap-resume.service
UNITS=/etc/systemd/system
RUNTIME_UNITS=/run/systemd/system
RESUME=/etc/infbox/bootstrap-resume

CHECK=false
REBOOT=true
RESUMED=false
WORKSPACES=()
WORKSPACES_GIVEN=true
PASSED_ON=()
REFUSALS=()
# Set by check_system. The system's own Python: a `python3` in PATH may be conda's.
PYTHON=/usr/bin/python3
PACKAGES=(python3-apt python3-venv)
# Set by check_packages.
MISSING=()

usage() {
    cat <<END
Usage: ./bootstrap.sh [--check] [--no-reboot] [--workspace NAME=PATH]...
                      [ARGUMENT OF ansible-playbook]...

Turns this server ($SUPPORTED) into a private coding model. Run it as root; it asks no questions.

  --check                 change nothing: print what would be done, and if Ansible is
                          already installed, what site.yml would change
  --no-reboot             if the NVIDIA driver needs a reboot, stop and say so
  --workspace NAME=PATH   a source tree to keep warm; clients use the model MODEL@NAME.
                          Default: this checkout, as infbox
  --help                  print this text

Other arguments go to ansible-playbook, such as -e infbox_preset=cpu. Permanent settings belong in
$INVENTORY/hosts.yml, which this script writes once and never changes.

On a server with NVIDIA GPUs, the driver is installed first. If it works only after a reboot, because
another driver uses the GPUs, this script reboots the server once and continues by itself with the
same arguments: journalctl -fu ${UNIT%.service}
END
}

read_arguments() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --check | -C) CHECK=true ;;
            --no-reboot) REBOOT=false ;;
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

# --- Checks: all problems are reported at once, before the first change ---------------------------

refuse() { REFUSALS+=("$1"); }

check_user() {
    ((EUID == 0)) || refuse "This script needs root. Run: sudo $SCRIPT"
}

# The lock is kept until the end, also by ansible-playbook if only this script was ended.
check_other_runs() {
    [[ -w ${LOCK%/*} ]] || return 0
    exec 9>"$LOCK"
    flock --nonblock 9 ||
        refuse "Another run of bootstrap.sh is in progress. Wait until it ends; if it continues after a reboot, follow it: journalctl -fu ${UNIT%.service}"
}

check_systemd() {
    [[ -d $SYSTEMD ]] ||
        refuse "This host does not run systemd, which starts infbox's services. Use a host that boots with systemd."
}

check_system() {
    local system name
    # shellcheck source=/dev/null # It is the host's own.
    read -r system name < <(
        . "$OS_RELEASE" && echo "${ID:-}:${VERSION_ID:-} ${PRETTY_NAME:-an unknown system}"
    )
    case $system in
        debian:12 | debian:13 | ubuntu:24.04 | ubuntu:26.04) ;;
        # Its default Python is 3.10, too old for Ansible; its archive has a later one.
        ubuntu:22.04) PYTHON=/usr/bin/python3.11 && PACKAGES=(python3-apt python3.11 python3.11-venv) ;;
        *) refuse "This host runs $name. Use one with $SUPPORTED." ;;
    esac
}

check_architecture() {
    local architecture
    architecture=$(uname -m)
    [[ $architecture == x86_64 ]] ||
        refuse "This host's architecture is $architecture. Use one with x86_64."
}

memory_bytes() { awk '/^MemTotal:/ {printf "%.0f", $2 * 1024}' /proc/meminfo; }

check_memory() {
    local bytes
    bytes=$(memory_bytes)
    ((bytes >= MIN_MEMORY_GB * 10 ** 9)) ||
        refuse "This host has $(gb "$bytes") GB of memory, and the smallest preset needs $MIN_MEMORY_GB GB. Add memory."
}

free_bytes() { df --output=avail -B1 "$1" | tail -n 1; }

# used_bytes DIRECTORY...: the space that an earlier run has used already, which is not needed again.
used_bytes() { { du -csx -B1 "$@" 2>/dev/null || true; } | tail -n 1 | cut -f 1; }

# check_disk PARENT GB DIRECTORY...: whether PARENT has space for the content of the directories.
check_disk() {
    local parent=$1 needed=$2 bytes
    shift 2
    bytes=$(free_bytes "$parent")
    ((bytes >= needed * 10 ** 9)) || bytes=$((bytes + $(used_bytes "$@")))
    ((bytes >= needed * 10 ** 9)) ||
        refuse "$parent has $(gb "$bytes") GB of disk space, and $* need at least $needed GB. Free disk space, or mount a larger disk."
}

gb() { awk -v bytes="$1" 'BEGIN {printf "%.1f", bytes / 1e9}'; }

check_workspaces() {
    local workspace
    for workspace in "${WORKSPACES[@]}"; do
        if [[ ! $workspace =~ ^[a-z0-9][a-z0-9-]*=/ ]]; then
            refuse "--workspace $workspace is not NAME=PATH. Use lower-case letters, digits and hyphens for the name, and an absolute path."
        elif [[ ! -d ${workspace#*=} ]]; then
            refuse "The path of workspace ${workspace%%=*} is not a directory: ${workspace#*=}. Put the source tree there, or correct the path."
        elif $WORKSPACES_GIVEN && [[ -e $INVENTORY/hosts.yml ]] &&
            ! grep -qF -- "$(workspace_line "$workspace")" "$INVENTORY/hosts.yml"; then
            refuse "$INVENTORY/hosts.yml exists and is not changed, but lacks this line: $(workspace_line "$workspace"). Add it to infbox_workspaces there, and leave --workspace out."
        fi
    done
}

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]
}

# A first boot may still grow the disk, write the package sources and run apt. If cloud-init itself
# runs this script, it waits for this script.
first_boot_is_over() {
    [[ ! -e $CLOUD_INIT/enabled || -e $CLOUD_INIT/result.json ]] || grep -qs 'cloud-\(final\|config\)' "$CGROUP"
}

wait_for_first_boot() {
    local deadline=$((SECONDS + WAIT_LIMIT))
    first_boot_is_over || say "Waiting for cloud-init to finish"
    until first_boot_is_over || ((SECONDS > deadline)); do sleep 2; done
}

# Queries the package sources, with package lists of its own so that the host's lists do not change.
check_packages() {
    local package
    for package in "${PACKAGES[@]}"; do
        is_installed "$package" || MISSING+=("$package")
    done
    ((${#MISSING[@]})) || return 0
    local options=(-o "Dir::State::Lists=$SCRATCH/lists" -o "Dir::Cache=$SCRATCH/cache"
        -o APT::Update::Error-Mode=any -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    mkdir -p "$SCRATCH/lists/partial" "$SCRATCH/cache/archives/partial"
    say "Checking the package sources"
    if ! apt-get "${options[@]}" -qq update >"$SCRATCH/apt" 2>&1; then
        refuse "The package sources do not respond: $(tail -n 1 "$SCRATCH/apt"). Fix the network, or /etc/apt/sources.list.d."
    elif ! apt-get "${options[@]}" -qq --simulate install "${MISSING[@]}" >"$SCRATCH/apt" 2>&1; then
        refuse "The package sources cannot provide ${MISSING[*]}: $(tail -n 1 "$SCRATCH/apt"). Add the distribution's own archive, on Ubuntu including universe."
    fi
}

run_checks() {
    check_user
    check_other_runs
    check_systemd
    check_system
    check_architecture
    check_memory
    check_disk /var/lib "$MIN_DISK_GB" /var/lib/infbox /var/lib/docker /var/lib/containerd
    check_disk /opt "$ANSIBLE_DISK_GB" /opt/infbox
    check_workspaces
    # On a refused system the packages may have other names, so they are not checked.
    ((${#REFUSALS[@]})) || { wait_for_first_boot && check_packages; }
    ((${#REFUSALS[@]} == 0)) && return
    echo "This host was not changed, because of these problems:" >&2
    printf -- '- %s\n' "${REFUSALS[@]}" >&2
    exit 1
}

# --- Changes --------------------------------------------------------------------------------------

say() { printf '==> %s\n' "$*"; }

# step TEXT COMMAND...: runs a slow command, with its output in the log and a dot every 2 s.
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

# The user's environment must not change what is installed, nor cause questions.
clean_environment() {
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l NEEDRESTART_SUSPEND=1
    unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV VIRTUAL_ENV
}

# apt can wait for another process's lock on packages, but never for one on the package lists.
update_lists() {
    local deadline=$((SECONDS + WAIT_LIMIT))
    until "$@" -o APT::Update::Error-Mode=any update 2>"$SCRATCH/update"; do
        if ((SECONDS > deadline)) || ! grep -q 'Could not get lock' "$SCRATCH/update"; then
            cat "$SCRATCH/update" && return 1
        fi
        sleep 3
    done
}

install_packages() {
    local apt=(apt-get -o "DPkg::Lock::Timeout=$WAIT_LIMIT")
    update_lists "${apt[@]}" && "${apt[@]}" install --yes --no-install-recommends "${MISSING[@]}"
}

# What Ansible's environment is built from: it is rebuilt when this changes.
fingerprint() { { sha256sum <"$REQUIREMENTS" && echo "$PYTHON"; } | tr '\n' ' '; }

ansible_is_ready() { [[ $(cat "$VENV/made-from" 2>/dev/null) == "$(fingerprint)" ]]; }

# The file is written last, so that an interrupted build is repeated.
make_environment() {
    "$PYTHON" "$CHECKOUT/tools/make_environment.py" "$VENV" "$REQUIREMENTS" &&
        fingerprint >"$VENV/made-from"
}

workspace_line() {
    local path=${1#*=}
    path=${path//\\/\\\\}
    printf -- '- {name: %s, path: "%s"}' "${1%%=*}" "${path//\"/\\\"}"
}

inventory() {
    cat <<END
# Written by bootstrap.sh, which never changes it again: edit it, then run bootstrap.sh again.
# All settings: $CHECKOUT/group_vars/all/settings.yml
inference:
  hosts:
    localhost:
      ansible_connection: local
  vars:
    # Source trees to keep warm. Clients use the model coder@NAME.
    infbox_workspaces:
END
    local workspace
    for workspace in "${WORKSPACES[@]}"; do
        printf '      %s\n' "$(workspace_line "$workspace")"
    done
}

# write_inventory DIRECTORY: only root may read the file, since it may contain secrets.
write_inventory() {
    mkdir -p "$1"
    (umask 077 && inventory >"$1/hosts.yml.new")
    mv "$1/hosts.yml.new" "$1/hosts.yml"
}

# play INVENTORY PLAYBOOK ARGUMENT...
play() {
    # Ansible requires UTF-8, and a fresh server may have no other locale. Modules need the system's
    # Python, which has apt's bindings.
    LC_ALL=C.UTF-8 ANSIBLE_CONFIG=$CHECKOUT/ansible.cfg ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3 \
        "$VENV/bin/ansible-playbook" -i "$1" "$CHECKOUT/$2" "${@:3}"
}

# --- The NVIDIA driver, and its reboot ------------------------------------------------------------

# The PCI vendor NVIDIA, and the class of display controllers.
has_nvidia_gpu() {
    local device
    for device in "$PCI"/*; do
        [[ $(cat "$device/vendor" 2>/dev/null) != 0x10de || $(cat "$device/class") != 0x03* ]] || return 0
    done
    return 1
}

driver_responds() { timeout 60 nvidia-smi -L >/dev/null 2>&1; }

reboot_reason() { sed 's/[. ]*$//' "$MARKER"; }

# Prints why this run cannot continue by itself after a reboot; nothing if it can.
why_not_resume() {
    local argument
    $REBOOT || echo "--no-reboot was given"
    ! $RESUMED || echo "the server rebooted once already"
    for argument in "$CHECKOUT" "${PASSED_ON[@]}"; do
        argument=${argument##*[@=]}
        case $argument in
            -K | -k | -J | --ask-*) echo "$argument asks a question" ;;
            /tmp/* | /run/* | /dev/* | /proc/*) echo "a reboot may remove $argument" ;;
        esac
    done
}

# The variables that decide where packages come from and what Ansible does; the others belong to the
# login session.
kept_environment() {
    local name
    for name in $(compgen -e); do
        case ${name^^} in
            HOME | PIP_* | ANSIBLE_* | HF_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | CURL_CA_BUNDLE | *_PROXY)
                printf 'export %s=%q\n' "$name" "${!name}"
                ;;
        esac
    done
}

# The arguments may contain secrets: they are in a file that only root can read, not in a unit or a command line.
resume_script() {
    echo "# Written by bootstrap.sh, to continue after a reboot. It is removed when it runs."
    printf 'cd %q\n' "$PWD"
    kept_environment
    printf '. %q\nresume' "$SCRIPT"
    printf ' %q' "$@"
    echo
}

# Not of type oneshot: the boot does not wait for it.
resume_unit() {
    cat <<END
[Unit]
Description=infbox: continue bootstrap.sh after the reboot for the NVIDIA driver
Wants=network-online.target
After=network-online.target docker.service
ConditionPathExists=$RESUME
RequiresMountsFor="${CHECKOUT//%/%%}"

[Service]
Type=exec
ExecStart=/bin/bash $RESUME

[Install]
WantedBy=multi-user.target
END
}

install_resume() {
    mkdir -p "${RESUME%/*}"
    (umask 077 && resume_script "$@" >"$RESUME")
    resume_unit >"$UNITS/$UNIT"
    RESUME_INSTALLED=true
    systemctl --quiet enable "$UNIT"
}

remove_resume() {
    rm -f "$RESUME" "$UNITS/$UNIT" "$UNITS/multi-user.target.wants/$UNIT"
    RESUME_INSTALLED=false
}

# reboot_and_resume ARGUMENT...: the arguments of this script.
reboot_and_resume() {
    local obstacles
    obstacles=$(why_not_resume)
    if [[ -n $obstacles ]]; then
        echo "A reboot is needed: $(reboot_reason). This run does not reboot: ${obstacles//$'\n'/; }." >&2
        echo "Reboot this server, then run the same command again." >&2
        return 1
    fi
    install_resume "$@"
    cat <<END
==> A reboot is needed: $(reboot_reason)
    This server reboots in $REBOOT_DELAY seconds, and continues by itself with the same arguments.
    To follow it, log in again and run: journalctl -fu ${UNIT%.service}
    To cancel it, press Ctrl-C now; after the reboot: systemctl stop ${UNIT%.service}
END
    sync
    sleep "$REBOOT_DELAY"
    RESUME_INSTALLED=false
    systemctl reboot
    exit 0
}

# If the driver needs no reboot, site.yml has nothing left to do for it.
install_driver() {
    mkdir -p "${MARKER%/*}"
    rm -f "$MARKER"
    say "Installing the NVIDIA driver"
    play "$INVENTORY" playbooks/driver.yml -e "nvidia_driver_reboot_marker=$MARKER" "${PASSED_ON[@]}"
}

# Sets the login message, until the next boot.
set_login_message() {
    mkdir -p "${MOTD%/*}"
    echo "infbox: $1" >"$MOTD"
}

# Runs after the reboot, started by the unit. The next boot finds neither unit nor arguments, whatever the
# result of this run; until then `systemctl status` shows the result.
resume() {
    RESUMED=true
    mkdir -p "$RUNTIME_UNITS"
    mv "$UNITS/$UNIT" "$RUNTIME_UNITS/"
    remove_resume
    set_login_message "bootstrap.sh continues after the reboot. Follow it: journalctl -fu ${UNIT%.service}"
    (umask 077 && : >>"$LOG")
    exec > >(trap '' TERM && exec tee -a "$LOG") 2>&1
    TEE=$!
    main "$@"
}

report_end() {
    if (($1)); then
        set_login_message "bootstrap.sh failed after the reboot. See $LOG, fix the problem, then run $SCRIPT again."
    else
        set_login_message "bootstrap.sh succeeded after the reboot. See the end of $LOG."
    fi
    # The last lines must reach the journal too.
    exec >&- 2>&-
    local _
    for _ in {1..50}; do
        kill -0 "$TEE" 2>/dev/null || break
        sleep 0.1
    done
}

print_plan() {
    say "The host meets the requirements. Nothing was changed; a run would:"
    ((${#MISSING[@]} == 0)) || echo "- install ${MISSING[*]}"
    ansible_is_ready || echo "- create Ansible's environment $VENV from requirements/ansible.txt"
    if [[ ! -e $INVENTORY/hosts.yml ]]; then
        echo "- write $INVENTORY/hosts.yml:"
        inventory | sed 's/^/    /'
    fi
    if has_nvidia_gpu; then
        echo "- run playbooks/driver.yml, which installs the NVIDIA driver"
        driver_responds || echo "- reboot once, if the driver needs it, and continue by itself: nvidia-smi does not respond yet"
    fi
    echo "- run site.yml with $INVENTORY"
    ansible_is_ready || return 0
    local inventory=$INVENTORY
    if [[ ! -e $inventory/hosts.yml ]]; then
        inventory=$SCRATCH/inventory
        write_inventory "$inventory"
    fi
    say "What site.yml would change"
    play "$inventory" site.yml --check --diff "${PASSED_ON[@]}"
}

# deploy ARGUMENT...: the arguments of this script.
deploy() {
    clean_environment
    ((${#MISSING[@]} == 0)) || step "Installing ${MISSING[*]}" install_packages
    ansible_is_ready || step "Creating Ansible's environment in $VENV" make_environment
    if [[ ! -e $INVENTORY/hosts.yml ]]; then
        say "Writing $INVENTORY/hosts.yml"
        write_inventory "$INVENTORY"
    fi
    if has_nvidia_gpu; then
        install_driver || failed playbooks/driver.yml
        [[ ! -e $MARKER ]] || reboot_and_resume "$@"
    fi
    say "Running site.yml on this host"
    play "$INVENTORY" site.yml "${PASSED_ON[@]}" || failed site.yml
    say "Settings are in $INVENTORY/hosts.yml. After you change them, run $SCRIPT again."
}

failed() {
    echo "$1 failed. Fix the problem reported above, then run the same command again." >&2
    return 1
}

RESUME_INSTALLED=false
clean_up() {
    stop_ticker
    rm -rf "$SCRATCH"
    # The reboot was cancelled.
    ! $RESUME_INSTALLED || remove_resume
    ! $RESUMED || report_end "$1"
}

main() {
    read_arguments "$@"
    SCRATCH=$(mktemp -d)
    # apt downloads as a user of its own, which must have access to the directory.
    chmod 0755 "$SCRATCH"
    trap 'clean_up $?' EXIT
    run_checks
    if $CHECK; then print_plan; else deploy "$@"; fi
}

# The tests call the functions one by one.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    main "$@"
fi
