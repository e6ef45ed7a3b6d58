"""What infbox adds to vLLM and LMCache: a connector that outlives clients who hang up, and Cake."""
