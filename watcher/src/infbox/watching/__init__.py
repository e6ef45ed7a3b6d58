"""Following source trees by inotify, and the index of their files."""
