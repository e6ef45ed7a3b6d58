"""The page of figures: every promise beside what was measured: `python -m bench.figures`."""
