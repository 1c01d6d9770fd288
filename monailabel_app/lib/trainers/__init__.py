"""Parts of the label app: trainers."""
