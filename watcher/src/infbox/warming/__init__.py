"""Keeping the KV of published packs in the engine's cache."""
