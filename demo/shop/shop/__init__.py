"""The order service of a small bookshop."""
