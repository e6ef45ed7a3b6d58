"""What others take for the same: `python -m bench.peers`."""
