"""The development tools behind dev.py: set-up, a real ComfyUI server and its client, the demo, the checks."""
