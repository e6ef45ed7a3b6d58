"""Read-only tools by which agents look at a workspace's source tree, without any protocol."""
