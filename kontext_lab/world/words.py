"""Single words and short phrases of the world's language, as data: synonyms, places, politeness."""

from __future__ import annotations

# (preposition, the rest); "to" takes the preposition's place where something is moved.
PLACE_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    **{
        f"{row} {column}": (
            ("at", f"the {row} {column}"), ("at", f"the {row} {column}"),
            ("in", f"the {row} {column}"), ("on", f"the {row} {column}"),
            ("in", f"the {row} {column} corner"), ("in", f"the {row} {column} corner"),
            ("in", f"the {other} {column} corner"), ("at", f"the {other} {column}"),
            ("in", f"the corner at the {row} {column}"),
        )
        for row, other in (("top", "upper"), ("bottom", "lower"))
        for column in ("left", "right")
    },
    "top": (
        ("at", "the top"), ("at", "the top"), ("at", "the top"), ("at", "the top edge"),
        ("at", "the top centre"), ("in", "the top middle"), ("at", "the upper edge"),
        ("at", "the top of the picture"),
    ),
    "bottom": (
        ("at", "the bottom"), ("at", "the bottom"), ("at", "the bottom"), ("at", "the bottom edge"),
        ("at", "the bottom centre"), ("in", "the bottom middle"), ("at", "the lower edge"),
        ("at", "the bottom of the picture"),
    ),
    "left": (
        ("at", "the left"), ("on", "the left"), ("on", "the left"), ("on", "the left side"),
        ("at", "the left edge"), ("on", "the left hand side"), ("in", "the middle left"),
    ),
    "right": (
        ("at", "the right"), ("on", "the right"), ("on", "the right"), ("on", "the right side"),
        ("at", "the right edge"), ("on", "the right hand side"), ("in", "the middle right"),
    ),
    "middle": (
        ("in", "the middle"), ("in", "the middle"), ("in", "the centre"), ("at", "the centre"),
        ("in", "the middle of the picture"), ("in", "the very middle"),
        ("in", "the centre of the picture"),
    ),
}  # fmt: skip

# Drawn instead of the plain name now and then.
KIND_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "disk", "ball", "dot"),
    "square": ("block",),
    "diamond": ("rhombus",),
    "cat": ("kitty", "kitten"),
    "bunny": ("rabbit", "hare"),
    "bear": ("teddy bear", "teddy"),
    "robot": ("bot", "android"),
}

SIZE_WORDS = {
    "small": ("small", "small", "small", "tiny", "little"),
    "medium": ("medium", "medium-sized", "normal-sized"),
    "big": ("big", "big", "big", "large", "huge"),
}

# (before "background", after it)
TEXTURE_WORDS = {
    "plain": (("plain", "solid", "smooth"), ("without a pattern",)),
    "striped": (("striped", "striped", "stripy"), ("with stripes",)),
    "checked": (("checked", "checked", "checkered", "chequered"), ("with checks",)),
}

LOOK_WORDS = {
    "night": ("at night", "in the dark of night", "by moonlight", "during the night"),
    "grey": (
        "in black and white",
        "in shades of grey",
        "as a black and white picture",
        "in greyscale",
    ),
    "inverted": ("with inverted colours", "as a negative", "in negative colours"),
    "sunset": ("at sunset", "in warm evening light", "at dusk", "in the light of the setting sun"),
}

STYLE_WORDS = {
    "outline": ("as an outline drawing", "in outline style", "drawn in outlines only",
                "as line art", "with contour lines only"),
    "neon": ("in neon style", "as a neon sign", "as glowing neon", "made of neon lights"),
    "sticker": ("as a sticker", "in sticker style", "as stickers with a white border"),
}  # fmt: skip

# How a sentence names image 1 and image 2; "image 1" itself is the most common.
IMAGES: tuple[tuple[str, str], ...] = (
    ("picture 1", "picture 2"), ("photo 1", "photo 2"), ("reference 1", "reference 2"),
    ("input 1", "input 2"), ("the first image", "the second image"),
    ("the first picture", "the second picture"), ("the first photo", "the second photo"),
    ("the first reference", "the second reference"), ("the first one", "the second one"),
    ("image one", "image two"), ("picture one", "picture two"), ("photo one", "photo two"),
    ("input one", "input two"), ("the first input", "the second input"),
    ("image #1", "image #2"), ("the 1st image", "the 2nd image"), ("img 1", "img 2"),
    ("image number 1", "image number 2"), ("picture number one", "picture number two"),
)  # fmt: skip

# Same meaning, swapped in at random.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "colour": ("color",), "colours": ("colors",), "recolour": ("recolor",),
    "coloured": ("colored",), "colourless": ("colorless",), "grey": ("gray",),
    "greyscale": ("grayscale",), "centre": ("center",), "background": ("backdrop",),
    "picture": ("image", "photo"), "bigger": ("larger",), "purple": ("violet",),
    "things": ("objects", "items"), "whole": ("entire", "complete"),
}  # fmt: skip

# Sentences that start with one of these are requests, and may be asked politely.
VERBS = frozenset(
    """make paint turn change switch convert recolour repaint redo use choose pick take give dye
    tint spray coat stain apply add set fill cover have get show draw put modify edit replace
    exchange substitute transform morph place swap trade reshape redraw remake remove delete insert
    include create bring extend complete erase drop cut clear wipe throw rub hide leave eliminate
    strip undo move shift push slide drag carry send transfer relocate reposition enlarge grow
    expand magnify increase scale raise resize stretch shrink reduce minimise minimize decrease
    lower squeeze write print type rewrite correct update fix empty clean redraw darken drain
    desaturate wash invert reverse flip bathe shine light keep copy imitate match combine mix merge
    paste lift generate sketch design compose build produce imagine repeat reuse blend start
    fade let render illustrate depict adjust alter arrange ensure plop overlay upgrade zap dump
    toss ditch kill stop nudge teleport pull align try position borrow grab steal recreate join
    rework kick rename""".split()
)

PREFIXES: tuple[str, ...] = (
    "please", "please", "can you", "could you", "would you please", "could you please", "now",
    "I want you to", "I'd like you to", "I would like you to", "let's", "we need to", "try to",
    "go ahead and", "kindly", "just", "you should", "help me", "your task is to", "next,",
    "can we", "hey, can you", "hello, please", "in this picture,", "here,", "ok,", "well,", "quickly",
)  # fmt: skip

NEUTRAL_PREFIXES: tuple[str, ...] = (
    "please:", "now:", "ok,", "hi,", "hello,", "here is what I want:", "so,", "well,", "next:",
    "my idea:", "a small wish:", "the task:", "what I want:", "hey,",
)  # fmt: skip

SUFFIXES: tuple[str, ...] = (
    "please", ", please", ", thanks", ", thank you", "if you can", "if possible", "for me",
    "this time", "now", "!", ".", ".", ", that is all", ", ok?",
)  # fmt: skip

SUFFIXES_EDIT: tuple[str, ...] = (
    "and keep the rest", "and leave everything else alone", ", nothing else",
    ", keep everything else the same", "and change nothing else", "without touching the rest",
    ", the rest stays as it is", ". don't change anything else", "but leave the others as they are",
)  # fmt: skip

DETERMINERS = frozenset("the a an this that my your our its another one".split())

# Common words of such requests that the frames may lack. Those that no frame uses are strewn in
# rarely, so that none stays as it was initialised.
COMMON: tuple[str, ...] = tuple(
    """able about above across actually adjust after again align all almost along alter although
    always amount any anything appearance arrange aside attach back bad base beautiful because
    before behind below beneath beside best better between big bit blank blend blob block body bold
    border both bottle bright brighten brown brush button canvas case centred change character
    characters clean close closer colourful composition content contents contrast copy corner
    correct crop current cute cyan dark darker default depict detail different directly disc display
    distance do does done down drawing duplicate each edge edges element empty end ensure entire
    erased even every exact exactly face far fewer figure figures final fine first flat flip fresh
    front full further game gentle get getting gets give given glow go going gold good graphic
    ground group half hand handle happen happy hard head help her high him his hold how huge icon
    idea illustration in inner instruct insert inside instead into item keep kind know large later
    layer left less letter letters level like line lines little location logo long look looks lot
    make many mark maybe me mean middle mirror missing modify more most much near nearby necessary
    need never nice number numbers object objects off only onto opposite option order original other
    others our out outer output outside overlay own paint painting part parts pattern people perhaps
    photo photograph place placed plain point position possible possibly preserve probably quite
    rather ready real really recreate red region remaining render resize result rid right rotate
    round row same say scene second seem shade shadow shape shapes side sign silver similar simple
    simply single slightly slot small some someone something somewhere soon sort space spot square
    stay still strong stuff style subject suit sure surface surrounding swap symbol tall than their
    them then these they thick thin third those three through tiny together tone top touch towards
    try two type under underneath unless until untouched up upper us using usual variant version
    very view visible want was way were wet what when where whether which while who whole whose wide
    will wish with within word words work would write wrong yet you your zone yellowish reddish
    bluish greenish magenta teal navy lime beige dog animal creature pet toy person creatures digit
    digits numeral capital text writing character's figure's shape's thing's pair double triple
    adding added becoming became being been being bright brighter brilliant broad called came come
    coming covered deep deleted dim dimmed dawn daylight dipped ditch does drawn dropping dump
    erasing exactly except expand exchanged feel filled fixed found got gone grown heading here
    hidden hop illustrate increased inserted instantly invisible jacket join jumping kick kill
    knock lay laid leaving lit lose lovely loses making marking master may might mind monochromatic
    moon moonlit moved moving must nighttime noir nobody none nope normal nothing noticed nudge okay
    older once ones opposites outfit outlined outlines over-all overall overlaying painted pale
    paler pastel patterned photographic pixelated pixels plop polka pop pretty pull puts putting
    recoloured recolored redrawn reduced refill rename repeated replaced replacement replacing
    rework reworked rid scene's scenery sepia setup shaded shading shaped shift shifted shiny
    showing shown shrunk silhouette since sit sitting sized slim sky slide someone's speckled spell
    spelled spells spotless square-shaped stand standing stood stop subject's substituted sunny
    sunrise swapped switched taken takes taking tall teleport text's themed there's thicker time
    tinted tomorrow toss total totally traded traditional transformed transition transitions
    transparent trim true turned turning twice twilight twin typed upgrade use uses vintage visible
    wants warmth wearing what's where's winter won't wonder worked wow yeah yes zap zero zoom hi hey
    boring bolder daytime evenly gradually softly toward top-left top-right bottom-left
    bottom-right lower-left upper-right center-left inch corner's halfway inverse inversion
    complementary flipped negated negatives tones shades bold bolded pure vivid darkened blackened
    lamp lights sunlight sunlit nightfall midnight starry gloomy cosy amber glowing hours ambience
    atmosphere mood vibe feeling feels filter effect effects grain polka-dot stripe check checker
    checkerboard chequerboard grid tile tiled tiles texture textured surface pinstripes speckles
    blob dots dotty spotty lined barred smooth uniform patternless clear
    artwork sketchy cartoon comic rendering rendered portrait hero mascot guy buddy fella
    protagonist friend critter same identical matching equally likewise whichever whatever
    belonging belongs borrowed borrow apply applied applying using used taken sourced grabbed grab
    steal merging merged blending blended mixing mixed combining combined composite collage
    montage placed placing standing positioned position situated located location residing
    selected selecting selection highlighted highlight outlined circled boxed bounded bounding
    enclosed region contents inside outside fill
    every everybody whose which who's it's that's isn't doesn't does not cannot can't wouldn't
    decreased dropped encloses having heave inverts repainted rewritten somebody suits surrounded
    times whereas or mosaic pixel soft blurred blurry dotted spotted spots noise noisy grainy mottled cloudy
    i'm i've i'll we'll you'll let's there'll they are am as at by if my no nor so us too
    """.split()
)
