"""Render small services into staging, as the services' roles would. Runs on the host.

Usage: render.py IMAGE '{"SERVICE": {"port": …, "answer": …}}'
"""

import hashlib
import json
import sys
from pathlib import Path

STAGING = Path("/etc/infbox/staging")
CONFIGURATION = """\
{
  admin off
}
http://127.0.0.1:%(port)s {
  respond "%(answer)s" %(status)s
}
"""
FRAGMENT = """\
services:
  %(name)s:
    image: %(image)s
    command: [caddy, run, --config, %(config)s, --adapter, caddyfile]
    network_mode: host
    volumes: ["/etc/infbox/live/%(name)s:/etc/caddy:ro"]
    labels: {infbox.config-checksum: %(checksum)s}
    healthcheck:
      test: [CMD, bash, -c, "exec 3<>/dev/tcp/127.0.0.1/%(port)s;
        printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; grep HTTP <&3"]
      interval: 1s
      timeout: 2s
      start_period: 5s
    stop_grace_period: 1s
    restart: unless-stopped
"""
DEFAULTS = {"status": 200, "config": "/etc/caddy/Caddyfile"}


def main(image: str, services: str) -> None:
    """Write a configuration and a fragment for each service."""
    (STAGING / "compose").mkdir(parents=True, exist_ok=True)
    for name, given in json.loads(services).items():
        values = {"name": name, "image": image, **DEFAULTS, **given}
        configuration = CONFIGURATION % values
        values["checksum"] = hashlib.sha256(configuration.encode()).hexdigest()
        (STAGING / name).mkdir(exist_ok=True)
        (STAGING / name / "Caddyfile").write_text(configuration)
        (STAGING / "compose" / f"{name}.yml").write_text(FRAGMENT % values)


main(*sys.argv[1:])
