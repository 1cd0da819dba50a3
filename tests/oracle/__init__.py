"""The oracle: an independent implementation of docs/method.md that the product is compared with.

Each formula is written once, as loops over pixels, tokens and views, in double precision. Nothing is imported from
attention/ or sampling/. Maps are dense (n x n, n x T); tokens outside a mask are included, with a bias of minus
infinity.

    attention   softmax attention with references, weighted masks, concepts that each query may attend to
    images      resizing and blurring of maps
    regions     attention maps, regions and the guidance rate
    program     sampling with a real UNet and these formulas; the only module that needs ComfyUI
"""
