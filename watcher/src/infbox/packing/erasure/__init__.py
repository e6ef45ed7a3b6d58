"""Taking out of packs, and of the KV cache, what must not be shown any more."""
