"""References: encoding them, the UNet pass that reads their keys and values, and the cache of these."""
