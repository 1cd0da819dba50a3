"""How captions name the style of a drawing."""

from __future__ import annotations

from numpy.random import Generator

from .finishes import Style

# Words for the figures in a drawing, by their number. Their order says nothing about how they look.
FIGURES = {1: ("a person", "a woman", "a man", "a girl", "a boy"), 2: ("twins",)}
# A drawing whose caption does not name a style is in flat colour.
OPENINGS: dict[Style, tuple[str, ...]] = {
    "flat": ("{}", "a cartoon of {}", "a drawing of {}", "portrait of {}", "a flat drawing of {}"),
    "ink": ("an ink drawing of {}", "an ink sketch of {}", "ink portrait of {}", "a pen and ink drawing of {}"),
    "watercolour": (
        "a watercolour of {}",
        "a watercolour painting of {}",
        "watercolour portrait of {}",
        "a watercolor painting of {}",
    ),
}
ENDINGS: dict[Style, tuple[str, ...]] = {
    "flat": ("flat drawing", "cartoon", "flat colours"),
    "ink": ("ink drawing", "pen and ink", "ink sketch"),
    "watercolour": ("watercolour", "watercolour painting", "watercolor painting"),
}
_AT_END = 0.35  # share of the captions that name the style at the end


def style_words(style: Style, figures: int, rng: Generator) -> tuple[str, str]:
    """The opening of a caption and its ending, of which one names the style; the ending may be empty."""
    figure = str(rng.choice(FIGURES[figures]))
    if rng.random() < _AT_END:
        return figure, f", {rng.choice(ENDINGS[style])}"
    return str(rng.choice(OPENINGS[style])).format(figure), ""
