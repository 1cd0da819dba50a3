"""What is known of each kind of model. UNets of SD 1.x, SD 2.x and SDXL are the only family.

`unet` knows their blocks and attention, `clip` their text encoders.
"""
