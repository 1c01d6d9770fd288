"""Demonstrations: `make demo` on brain MR, and the window of scripts/demo.py."""
