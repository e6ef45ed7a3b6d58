"""Responses that are kept for a while, so that a client can name one in place of its history."""
