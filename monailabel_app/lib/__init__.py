"""Parts of the label app: lib."""
