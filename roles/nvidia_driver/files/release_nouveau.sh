#!/bin/sh
# Unload nouveau, so that NVIDIA's driver can have the GPUs without a reboot.
#   release_nouveau.sh [SYSFS]
# Where a program uses nouveau it stays loaded, the consoles are given back, and the status is not 0.
set -u
sys=${1:-/sys}
bound=

# A console on a frame buffer keeps the driver of that frame buffer.
if [ -d "$sys/module/nouveau" ]; then
  for console in "$sys"/class/vtconsole/vtcon*; do
    if grep -q 'frame buffer' "$console/name" 2> /dev/null && [ "$(cat "$console/bind")" = 1 ]; then
      echo 0 > "$console/bind" && bound="$bound $console/bind"
    fi
  done
  # The boot splash draws on it, too.
  if command -v plymouth > /dev/null; then
    plymouth quit
  fi
fi

if modprobe --remove nouveau; then
  exit 0
fi
for bind in $bound; do
  echo 1 > "$bind"
done
exit 1
