"""infbox: keeps the KV cache of a source tree warm, and puts the tree in front of each question."""

__version__ = "0.1.0"
