"""Two persons in one picture, each with references of their own: `dev.py evaluate --persons`."""
