"""From what hospitals and challenges have to cases and datalists; the work behind ``scripts/data.py``."""
