"""The demonstration on brain MR: its data and its report."""
