"""vLLM's own end-to-end tests, run against a deployed host: directly, and through infbox."""
