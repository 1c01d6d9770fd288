"""Parts of the label app: infers."""
