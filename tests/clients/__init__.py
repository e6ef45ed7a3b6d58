"""Clients that people use, installed as they are and configured by `infbox-watch client`."""

import sys
from pathlib import Path

# `make clients` starts this as a program, to which pytest's settings say nothing of the tools.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
