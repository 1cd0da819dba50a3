"""Regions: where they come from, how blocks ask for them, and the history of them that the preview shows."""
