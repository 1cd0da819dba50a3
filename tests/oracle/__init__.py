"""The oracle: the method once more, written from docs/method.md, which the product is compared with.

Each formula is written once, as loops over pixels, tokens and views, in double precision. Nothing is taken from
attention/ or sampling/. Maps are dense (n x n, n x T); tokens outside a mask stay and get a bias of minus infinity.

    attention   softmax attention with references, weighted masks, what each query may attend to
    images      resizing and blurring of maps
    regions     attention maps, regions and the guidance rate
    program     sampling with a real UNet by these formulas; the only module that needs ComfyUI
"""
