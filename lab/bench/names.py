"""The names of the ways of sampling that are compared, in tables and figures."""

COUNTS = (1, 2, 3, 5)  # of references; a way's name is its count
BATCH = 4
UNPATCHED, AUTHORS, ROWS = "unpatched", "authors, 3", "UNet rows of 3"
CACHED, CACHED_ON_DEVICE = "3, cached", "3, cached on the device"
UNSEGMENTED, PLACED = "3, no regions", "3, placed"
UNPATCHED_BATCH, BATCHED = f"unpatched, batch {BATCH}", f"3, batch {BATCH}"
