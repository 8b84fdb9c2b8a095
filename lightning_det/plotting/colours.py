"""Colours of classes."""

import colorsys

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

GREY: Colour = (150, 150, 150)
WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)

PALETTE: tuple[Colour, ...] = (
    *((0, 200, 255), (255, 120, 0), (225, 255, 0), (180, 0, 255), (135, 255, 225), (225, 15, 75), (15, 210, 135)),
    *((165, 90, 165), (255, 180, 255), (0, 120, 255), (0, 150, 0), (255, 0, 195), (225, 195, 90), (165, 150, 255)),
    *((240, 120, 165), (0, 255, 0), (150, 120, 0), (0, 150, 195), (255, 120, 255), (165, 165, 0)),
)
"""Colours of the first classes: bright, and far from each other and from `GREY` in Oklab (Ottosson, 2020).

Each was chosen to be as far as possible from those before it. For the first eight, the distance is also that of an eye
that cannot tell red from green (protanopia and deuteranopia as simulated by Machado et al., 2009).
"""


def class_colour(label: int) -> Colour:
    """Returns the colour of a class; hues after `PALETTE` follow the golden ratio, so neighbouring classes differ."""
    if label < len(PALETTE):
        return PALETTE[label]
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, (0.85, 0.55)[label % 2], (1.0, 0.8)[label // 2 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(colour: Colour) -> Colour:
    """Returns black or white, whichever can be read on a colour."""
    red, green, blue = colour
    return WHITE if 0.3 * red + 0.59 * green + 0.11 * blue < 120 else BLACK
