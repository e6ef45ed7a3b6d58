"""Conversations: what the engine has seen of one is never sent differently again.

A conversation is known by its own messages (``chain``). It keeps the pack that it began with
(``records``), is told at a user message what changed since (``notes``), and moves to the present
pack by a rule (``moving``). ``service`` puts this together; ``docs/conversations.md`` shows it.
"""
