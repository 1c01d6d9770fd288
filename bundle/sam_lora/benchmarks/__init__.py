"""What the sections of scripts/benchmark.py measure."""
