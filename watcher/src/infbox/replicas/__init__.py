"""Which of several hosts answers a question."""
