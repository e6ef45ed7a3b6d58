"""NVIDIA's GPUs by their PCI ids: what is known of one before any driver answers.

Sources: device and subsystem ids from pci.ids (pci-ids.ucw.cz, 2026.08.22); names and memory as
`nvidia-smi` of driver 510 and later prints them, from outputs that people published and from those
in tests/plugins/nvidia_smi; compute capability from NVIDIA, "CUDA GPU Compute Capability".

Two numbers of memory are what boards of one id may have: GDDR6 with ECC gives a sixteenth of it
away, which an owner may switch, and some ids are shared by boards of two sizes. Nothing in between
is guessed: where the two decide differently, the driver is asked. An id whose memory nobody
published is left out.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plugins.planner.errors import PlanError

NVIDIA = "10de"


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        name: as the driver tells it.
        capability: ten times its compute capability.
        min_mib: the least memory that a driver tells of it, in MiB.
        max_mib: the most, in MiB.
    """

    name: str
    capability: int
    min_mib: int
    max_mib: int


# Device id, or device id and subsystem (vendor:device) where that tells boards of one id apart;
# compute capability; least and most MiB; name. ECC that can be switched: the least is with it.
TABLE = """
# Too old for the engine; their memory changes nothing about that.
1b38  6.1  23040  24576  Tesla P40
15f7  6.0  12288  12288  Tesla P100-PCIE-12GB
15f8  6.0  16384  16384  Tesla P100-PCIE-16GB
15f9  6.0  16384  16384  Tesla P100-SXM2-16GB
1db1  7.0  16384  16384  Tesla V100-SXM2-16GB
1db3  7.0  16384  16384  Tesla V100-FHHL-16GB
1db4  7.0  16384  16384  Tesla V100-PCIE-16GB
1db5  7.0  32768  32768  Tesla V100-SXM2-32GB
1db6  7.0  32768  32768  Tesla V100-PCIE-32GB
1db8  7.0  32768  32768  Tesla V100-SXM3-32GB
1dba  7.0  32768  32768  Quadro GV100
# Turing.
1e02  7.5  24576  24576  NVIDIA TITAN RTX
1e30  7.5  23040  49152  Quadro RTX 6000/8000
1e30:10de:129e  7.5  46080  49152  Quadro RTX 8000
1e30:10de:12ba  7.5  23040  24576  Quadro RTX 6000
1e78  7.5  23040  49152  Quadro RTX 6000/8000
1e78:10de:13d8  7.5  46080  49152  Quadro RTX 8000
1e78:10de:13d9  7.5  23040  24576  Quadro RTX 6000
1eb0  7.5  15360  16384  Quadro RTX 5000
1eb8  7.5  15360  16384  Tesla T4
# Ampere.
20b0  8.0  40960  40960  NVIDIA A100-SXM4-40GB
20b1  8.0  40960  40960  NVIDIA A100-PCIE-40GB
20f1  8.0  40960  40960  NVIDIA A100-PCIE-40GB
20b2  8.0  81920  81920  NVIDIA A100-SXM4-80GB
20b5  8.0  81920  81920  NVIDIA A100 80GB PCIe
20b7  8.0  24576  24576  NVIDIA A30
20bd  8.0  40960  40960  NVIDIA A800-SXM4-40GB
20f6  8.0  40960  40960  NVIDIA A800 40GB PCIe
20f3  8.0  81920  81920  NVIDIA A800-SXM4-80GB
20f5  8.0  81920  81920  NVIDIA A800 80GB PCIe
2203  8.6  24564  24564  NVIDIA GeForce RTX 3090 Ti
2204  8.6  24576  24576  NVIDIA GeForce RTX 3090
2230  8.6  46068  49140  NVIDIA RTX A6000
2231  8.6  23028  24564  NVIDIA RTX A5000
2232  8.6  19190  20470  NVIDIA RTX A4500
2233  8.6  23028  24564  NVIDIA RTX A5500
2235  8.6  46068  49140  NVIDIA A40
2236  8.6  23028  24564  NVIDIA A10
2237  8.6  23028  24564  NVIDIA A10G
24b0  8.6  15352  16376  NVIDIA RTX A4000
2531  8.6   5754   6138  NVIDIA RTX A2000
2571  8.6  11514  12282  NVIDIA RTX A2000 12GB
25b6  8.6  15356  16380  NVIDIA A2 or A16
# Ada.
2684  8.9  24564  24564  NVIDIA GeForce RTX 4090
2685  8.9  24564  24564  NVIDIA GeForce RTX 4090 D
2702  8.9  16376  16376  NVIDIA GeForce RTX 4080 SUPER
2703  8.9  16376  16376  NVIDIA GeForce RTX 4080 SUPER
2704  8.9  16376  16376  NVIDIA GeForce RTX 4080
2705  8.9  16376  16376  NVIDIA GeForce RTX 4070 Ti SUPER
2689  8.9  16376  16376  NVIDIA GeForce RTX 4070 Ti SUPER
2805  8.9  16380  16380  NVIDIA GeForce RTX 4060 Ti
26b1  8.9  46068  49140  NVIDIA RTX 6000 Ada Generation
26b2  8.9  30712  32760  NVIDIA RTX 5000 Ada Generation
26b3  8.9  46068  49140  NVIDIA RTX 5880 Ada Generation
27b0  8.9  19195  20475  NVIDIA RTX 4000 SFF Ada Generation
27b1  8.9  23034  24570  NVIDIA RTX 4500 Ada Generation
27b2  8.9  19195  20475  NVIDIA RTX 4000 Ada Generation
28b0  8.9  15356  16380  NVIDIA RTX 2000 Ada Generation
26b5  8.9  46068  49140  NVIDIA L40
26b7  8.9  46068  49140  NVIDIA L20
26ba  8.9  46068  49140  NVIDIA L20
26b9  8.9  46068  49140  NVIDIA L40S
27b8  8.9  23034  24570  NVIDIA L4
# Hopper.
2330  9.0  81559  81559  NVIDIA H100 80GB HBM3
2331  9.0  81559  81559  NVIDIA H100 PCIe
2339  9.0  95830  95830  NVIDIA H100
2321  9.0  95830  95830  NVIDIA H100 NVL
2322  9.0  81559  81559  NVIDIA H800 PCIe
2324  9.0  81559  81559  NVIDIA H800
2329  9.0  97871  97871  NVIDIA H20
232c  9.0 143771 143771  NVIDIA H20-3e
2335  9.0 143771 143771  NVIDIA H200
233b  9.0 143771 143771  NVIDIA H200 NVL
2342  9.0  97871  97871  NVIDIA GH200 480GB
# Blackwell.
2901 10.0 183359 183359  NVIDIA B200
3182 10.3 275040 275040  NVIDIA B300 SXM6 AC
2b85 12.0  32607  32607  NVIDIA GeForce RTX 5090
2b87 12.0  32607  32607  NVIDIA GeForce RTX 5090 D
2c02 12.0  16303  16303  NVIDIA GeForce RTX 5080
2c05 12.0  16303  16303  NVIDIA GeForce RTX 5070 Ti
2d04 12.0   8151  16311  NVIDIA GeForce RTX 5060 Ti
2bb1 12.0  97887  97887  NVIDIA RTX PRO 6000 Blackwell Workstation Edition
2bb4 12.0  97887  97887  NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition
2bb5 12.0  97887  97887  NVIDIA RTX PRO 6000 Blackwell Server Edition
2bb3 12.0  48935  73415  NVIDIA RTX PRO 5000 Blackwell
2c31 12.0  32623  32623  NVIDIA RTX PRO 4500 Blackwell
2c34 12.0  24467  24467  NVIDIA RTX PRO 4000 Blackwell
"""


def read_table(table: str) -> dict[str, Gpu]:
    """Return the GPUs of a table like the one above, by id."""
    found = {}
    for line in table.splitlines():
        if line and not line.startswith("#"):
            number, capability, minimum, most, name = line.split(maxsplit=4)
            found[number] = Gpu(name, int(capability.replace(".", "")), int(minimum), int(most))
    return found


GPUS = read_table(TABLE)


def gpu_of(device: Mapping[str, str]) -> Gpu | None:
    """Return the kind of a GPU on the bus, or None where its ids tell no kind.

    Args:
        device: device and subsystem, as `infbox_host_info` has them: "2230" and "10de:1459".
    """
    number = device.get("device", "").lower()
    return GPUS.get(f"{number}:{device.get('subsystem', '').lower()}") or GPUS.get(number)


def named_gpus(text: Any) -> dict[str, Any]:
    """Return GPUs such as "4 x NVIDIA H200" as `infbox_gpus` has them.

    Their memory is the least that boards of this name have.

    Raises:
        PlanError: the text has another form, or the table has no GPU of this name.
    """
    read = re.fullmatch(r"([1-9][0-9]?) x (.+)", str(text))
    if not read:
        raise PlanError(f"{text!r} is no number of GPUs. Write it as 4 x NVIDIA H200.")
    boards = [gpu for gpu in GPUS.values() if gpu.name == read[2]]
    if not boards:
        near = difflib.get_close_matches(read[2], {gpu.name for gpu in GPUS.values()}, n=1)
        fix = f"Did you mean {near[0]}?" if near else "Add it to plugins/planner/gpus.py."
        raise PlanError(f"There is no GPU {read[2]} in plugins/planner/gpus.py. {fix}")
    gpu = min(boards, key=lambda board: board.min_mib)
    return {
        "name": gpu.name,
        "memory_mib": gpu.min_mib,
        "count": int(read[1]),
        "compute_capability": f"{gpu.capability // 10}.{gpu.capability % 10}",
    }


def unknown_gpus(devices: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the GPUs on the bus that ids tell nothing of, as words: address and id."""
    return [
        f"{device['address']} (PCI id {NVIDIA}:{device['device'] or '?'})"
        for device in devices
        if not gpu_of(device)
    ]
