"""What is checked of the prompts when a run begins, before the UNet is called."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import SamplingError
from ..findings import Findings
from .parts import prompt_of
from .prompt import TAG, PromptTokens
from .words import concept_without_words

if TYPE_CHECKING:
    from ..method import Method


def check_text_widths(width: int, conds: dict[str, Any]) -> None:
    """Make sure that the prompts were encoded for this kind of model.

    Args:
        width: of the text that the model reads.
        conds: the guider's lists by name.

    Raises:
        SamplingError: one was not.
    """
    for name, listed in conds.items():
        for cond in listed or ():
            given = width if cond.get("cross_attn") is None else cond["cross_attn"].shape[-1]
            if given != width:
                tagged = isinstance(cond.get(TAG), PromptTokens)
                raise SamplingError(
                    f"{'clip: ' if tagged else ''}the sampler's {name} prompt was encoded {given} wide and this model"
                    f" reads {width}: connect the CLIP of the same checkpoint to the node that encodes it",
                    "Prompt" if tagged else "Apply",
                )


def check_prompt(method: Method, positive: list[dict[str, Any]], findings: Findings) -> None:
    """Make sure that each concept is in the prompt, before the UNet is called.

    Raises:
        SamplingError: names the input, what was given and what to do.
    """
    prompts = [prompt for prompt in map(prompt_of, positive) if prompt is not None]
    if not prompts and method.needs_words:
        raise SamplingError(
            "the sampler's positive prompt does not come from MagicFace Prompt, so the concepts' words cannot be found"
            " in it; encode it with MagicFace Prompt (or pass it through the conditioning input of that node; in"
            " Conditioning (Concat) and (Average), what goes to conditioning_to)",
            "Apply",
        )
    positions = [method.positions(prompt) for prompt in prompts]
    for index, concept in enumerate(method.concepts):
        if not method.is_active(concept) or (concept.region is not None and concept.region.exact):
            continue
        if not any(found[index] for found in positions):
            raise concept_without_words(method, concept, prompts)
        if any(prompt.is_doubtful(concept.concept_tokens) for prompt in prompts):
            findings.add(
                "one of the positive prompts has other words where its text in MagicFace Prompt has"
                f" {concept.concept!r}, which has no region there."
            )
    if any(prompt.unknown for prompt in prompts):
        findings.add(
            "a part was joined to the positive prompt, as by Conditioning (Concat), whose words are not known. Encode"
            " it with MagicFace Prompt if it names a concept.",
            logging.INFO,
        )
    for cond in positive:
        tag, text = cond.get(TAG), cond.get("cross_attn")
        if tag is not None and text is not None and text.shape[1] < len(tag.tokens):
            raise SamplingError(
                f"the positive conditioning has {text.shape[1]} tokens where its text has {len(tag.tokens)}: a node"
                " after MagicFace Prompt shortened it; remove that node",
                "Prompt",
            )
