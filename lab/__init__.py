"""The laboratory: benchmark, evaluation, training, parity and soak runs. It imports devtools, never the other way."""

MB = 2**20  # bytes
