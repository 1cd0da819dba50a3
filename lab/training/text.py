"""The text encoders with gradients: ComfyUI's layers without its in-place operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.sdxl_clip import SDXLTokenizer
from torch import Tensor

HIDDEN_LAYER = -2  # SDXL's


class Tokens:
    """Converts captions to token numbers, with the real tokeniser."""

    def __init__(self) -> None:
        self._tokenizer = SDXLTokenizer()

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """(n, 77) int64 for each encoder, "l" and "g".

        Raises:
            ValueError: a caption is longer than one chunk of 77.
        """
        rows: dict[str, list[list[int]]] = {"l": [], "g": []}
        for caption in captions:
            for key, chunks in self._tokenizer.tokenize_with_weights(caption).items():
                if len(chunks) > 1:
                    raise ValueError(f"longer than one chunk of tokens: {caption!r}")
                rows[key].append([token for token, _ in chunks[0]])
        return {key: torch.tensor(ids) for key, ids in rows.items()}

    def word(self, word: str) -> int:
        """The token number of a word.

        Raises:
            ValueError: it has several tokens.
        """
        start, *tokens, end = self._tokenizer.clip_l.tokenizer(word)["input_ids"]
        if len(tokens) != 1:
            raise ValueError(f"{word!r} is {len(tokens)} tokens between {start} and {end}, not 1")
        return int(tokens[0])


def encode(encoders: Any, ids: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Encode captions without weights as `CLIPTextEncode` does, but with gradients.

    Args:
        encoders: ComfyUI's SDXLClipModel.
        ids: see `Tokens`.

    Returns:
        (n, 77, width of both encoders) context, (n, width of clip_g) pooled output.
    """
    context_l, _ = _encode(encoders.clip_l.transformer, ids["l"])
    context_g, pooled = _encode(encoders.clip_g.transformer, ids["g"])
    return torch.cat([context_l, context_g], dim=-1), pooled


def _encode(transformer: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    model = transformer.text_model
    x = model.embeddings(ids)
    length = ids.shape[1]
    mask = torch.full((length, length), -torch.finfo(x.dtype).max, device=x.device).triu_(1)
    layers = model.encoder.layers
    for number, layer in enumerate(layers):
        x = x + layer.self_attn(layer.layer_norm1(x), mask, optimized_attention)
        x = x + layer.mlp(layer.layer_norm2(x))
        if number == len(layers) + HIDDEN_LAYER:
            hidden = x
    ends = (ids == model.eos_token_id).int().argmax(dim=1)
    last = model.final_layer_norm(x)[torch.arange(len(ids)), ends]
    return hidden, transformer.text_projection(last)
