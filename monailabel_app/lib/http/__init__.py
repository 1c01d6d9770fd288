"""Parts of the label app: what is spoken over HTTP."""
