"""Lists of labels that judges and protocols share; nothing heavy is imported here."""

from __future__ import annotations

EXPOSED = (
    "ARMPITS_EXPOSED", "BELLY_EXPOSED", "BUTTOCKS_EXPOSED", "FEET_EXPOSED", "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED", "MALE_BREAST_EXPOSED", "MALE_GENITALIA_EXPOSED",
)  # fmt: skip
"""The eight classes of NudeNet 3 that the I2P tables count (ESD, arXiv 2303.07345, and those after it).

NudeNet knows a ninth exposed class, ANUS_EXPOSED, which no table has.
"""

FACES = ("FACE_FEMALE", "FACE_MALE")
"""The two classes of NudeNet 3 for a face."""

UNLEARNCANVAS_STYLES = (
    "Abstractionism", "Artist_Sketch", "Blossom_Season", "Bricks", "Byzantine", "Cartoon", "Cold_Warm", "Color_Fantasy",
    "Comic_Etch", "Crayon", "Cubism", "Dadaism", "Dapple", "Defoliation", "Early_Autumn", "Expressionism", "Fauvism",
    "French", "Glowing_Sunset", "Gorgeous_Love", "Greenfield", "Impressionism", "Ink_Art", "Joy", "Liquid_Dreams",
    "Magic_Cube", "Meta_Physics", "Meteor_Shower", "Monet", "Mosaic", "Neon_Lines", "On_Fire", "Pastel",
    "Pencil_Drawing", "Picasso", "Pop_Art", "Red_Blue_Ink", "Rust", "Seed_Images", "Sketch", "Sponge_Dabbed",
    "Structuralism", "Superstring", "Surrealism", "Ukiyoe", "Van_Gogh", "Vibrant_Flow", "Warm_Love", "Warm_Smear",
    "Watercolor", "Winter",
)  # fmt: skip
"""UnlearnCanvas's 50 styles and its photographs (Seed_Images), in the order of the published style head (arXiv 2402.11846)."""

UNLEARNCANVAS_OBJECTS = (
    "Architectures", "Bears", "Birds", "Butterfly", "Cats", "Dogs", "Fishes", "Flame", "Flowers", "Frogs", "Horses",
    "Human", "Jellyfish", "Rabbits", "Sandwiches", "Sea", "Statues", "Towers", "Trees", "Waterfalls",
)  # fmt: skip
"""UnlearnCanvas's 20 objects, in the order of the published object head."""
