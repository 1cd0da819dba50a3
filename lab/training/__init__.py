"""How the trained model and the judge were made: `dev.py train`."""
