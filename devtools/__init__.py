"""What `dev.py` is made of: set-up, a real ComfyUI server, its client, the demo and the checks."""
