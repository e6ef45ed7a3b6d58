"""The models of a host that serves: listed, read again, cleared, and all that the engine has."""

import pytest

from lab.deployment import play
from lab.shell import LabError
from tests.system.conftest import Site

pytestmark = pytest.mark.lab

MODELS = "/var/lib/infbox/models"
UNUSED = f"{MODELS}/someone--else-000000000000"
ASK_THE_HUB = """
from huggingface_hub import errors, model_info
try: model_info('Qwen/Qwen2.5-Coder-0.5B-Instruct')
except errors.OfflineModeIsEnabled: print('offline')
"""


def test_the_engine_has_a_verified_model_and_never_asks_the_hub(site: Site) -> None:
    mount = site.ssh(
        "docker inspect infbox-vllm-1 --format "
        "'{{range .Mounts}}{{.Source}} {{.RW}}{{println}}{{end}}' | grep models"
    )
    folder, writable = mount.split()
    assert writable == "false"
    assert '"verified"' in site.ssh(f"cat {folder}/infbox-model.json")
    assert site.ssh(f'docker exec infbox-vllm-1 python3 -c "{ASK_THE_HUB}"') == "offline"


def test_what_no_release_uses_goes_and_the_rest_is_whole(site: Site) -> None:
    served = site.ssh(f"ls -d {MODELS}/*").split()
    site.ssh(f"cp -a {served[0]} {UNUSED}")
    output = play(
        ["playbooks/models.yml", "-i", site.inventory, "-e", "infbox_models_verify=true",
         "-e", "infbox_models_prune=true"], "system-models",
    )  # fmt: skip
    assert f"removed: {UNUSED.rpartition('/')[2]}" in output
    assert "used by   /etc/infbox/releases/1/compose/vllm.yml" in output
    assert site.ssh(f"ls -d {MODELS}/*").split() == served


def test_a_preset_that_there_is_not_is_refused_by_name(site: Site) -> None:
    with pytest.raises(LabError, match="There is no preset dev25"):
        play(
            ["playbooks/models.yml", "-i", site.inventory, "-e", "infbox_models_presets=dev25"],
            "system-models-refusal",
        )
