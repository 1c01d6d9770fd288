"""Parts of the label app: where images and labels are."""
