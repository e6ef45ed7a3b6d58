"""A copy of a developer's tree on a host, without what must not leave the machine."""
