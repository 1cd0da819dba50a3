"""The method of MagicFace (arXiv 2408.07433) in pure torch: nothing here knows ComfyUI.

Letters used throughout, as in docs/method.md#notation:

    b        images in a batch              h, d     heads, head size; c = h * d channels
    n        query tokens of the target     hh, ww   a block's token grid, n = hh * ww
    m        key tokens of a reference      H2, W2   the r = 2 grid, half the latent's height and width
    T        text tokens of one prompt      r        a block's ratio, latent size / token grid
    N        concepts                       sigma    noise level

Suffixes name the space that a size is measured in: ``_px`` picture pixels, ``_lat`` latent pixels, ``_tok`` tokens.
"""
