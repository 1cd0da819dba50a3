"""`dev.py bench`: what the method costs, compared with the unpatched sampler and the authors' way."""
