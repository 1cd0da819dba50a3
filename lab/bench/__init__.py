"""`dev.py bench`: what the method costs, against the unpatched sampler and the authors' way."""
