"""`dev.py train`: trains the small model and the judge."""
