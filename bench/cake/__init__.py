"""What Cake is worth: `python -m bench.cake`."""
