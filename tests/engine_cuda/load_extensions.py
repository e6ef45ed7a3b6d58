"""Load compiled extensions as vLLM loads them. Runs in the engine image.

Takes their paths and prints, as JSON, what the loader said of each that it refused.
"""

import json
import sys

import torch


def refused(path: str) -> str:
    """Return what the loader says of an extension; empty where it loads, all symbols bound."""
    try:
        torch.ops.load_library(path)
    except OSError as error:
        # torch says only which file it was; the loader says why.
        return str(error.__cause__ or error)
    return ""


if __name__ == "__main__":
    print(json.dumps({path: said for path in sys.argv[1:] if (said := refused(path))}))
