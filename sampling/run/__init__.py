"""One sampling run: its evaluations, its UNet calls, and the attention inside them."""
