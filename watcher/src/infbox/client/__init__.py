"""The commands of people who use a server: they run on its host or on a laptop."""
