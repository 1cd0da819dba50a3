"""Drawing regions, attention and labels into pictures."""
