"""Conditioning: where the words of a prompt are, and the role of each cond in a UNet call."""
