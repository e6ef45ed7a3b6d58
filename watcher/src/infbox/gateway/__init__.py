"""The gateway: puts a workspace's pack in front of a question."""
