"""The paper's claims as figures: `dev.py evaluate`."""
