"""`dev.py gpu`: what the method costs on a GPU, in parts with a time limit each, and what is worth changing."""
