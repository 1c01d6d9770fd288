"""Parts of the label app: scoring."""
