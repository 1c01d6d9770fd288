"""Parts of the label app: strategies."""
