"""Names and addresses of the lab."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".lab"

# One Engine may serve several checkouts at once: each names its hosts after its own path.
CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]

NETWORK = "infbox-lab"
SUBNET = "10.213.77.0/24"
REGISTRY_NAME = "infbox-lab-registry"
REGISTRY_ADDRESS = "10.213.77.2"
REGISTRY_PORT = 5000
# The Engine trusts a registry on loopback without TLS, so images are pushed here …
REGISTRY_PUSH = "127.0.0.1:5077"
# … and lab hosts pull the same images from there, by the variable a private mirror uses.
REGISTRY_PULL = f"{REGISTRY_ADDRESS}:{REGISTRY_PORT}"

IMAGES_FILE = STATE / "images.json"
# What Ansible's modules compile to, for hosts that are made where this variable says so: tests
# run thousands of modules. Whoever measures a run wants a host that compiles as any other does.
KEPT_MODULES = STATE / "modules"
KEEP_MODULES = "LAB_KEEP_MODULES"
SSH_KEY = STATE / "ssh" / "id_ed25519"
LABEL = "infbox.lab"


def container_name(host: str) -> str:
    """Return the container that is lab host `host` of this checkout."""
    return f"infbox-lab-{CHECKOUT}-{host}"
