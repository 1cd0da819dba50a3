"""`dev.py trial`: finds the settings for a checkpoint by a small grid of pictures, and shows all of them on one page.

A trial is three job lists of the API client: masks of the references, pictures, and masks on these pictures, both kinds
of masks found by words. An interrupted trial continues, as a job list does.
"""
