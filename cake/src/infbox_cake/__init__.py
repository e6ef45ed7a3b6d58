"""Cake for vLLM and LMCache: compute a prompt's front while its back is loaded from disk."""
