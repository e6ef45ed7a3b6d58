"""The demo: from a bare machine to a warm, code-aware endpoint, with the figures shown."""
