"""New pictures and edits of whole ones: from text, background, look, character, style."""

from __future__ import annotations

import random
from dataclasses import replace

from .describing import background_phrase, background_words, kind_words, place_phrase, thing_phrase
from .names import CREATURES, GLYPHS, LOOKS, PLACES, SHAPES, STYLES, TEXTURES
from .sample import Ask, Retry, Sample
from .scene import clear_grounds, random_scene
from .thing import Scene, Thing
from .wording import Phrase, article
from .words import LOOK_WORDS, STYLE_WORDS, TEXTURE_WORDS

# What a character is called when its kind goes unsaid.
_NAMES = (
    "character", "character", "character", "character", "character", "creature", "figure", "hero",
    "mascot", "guy", "friend", "buddy", "protagonist",
)  # fmt: skip


def named_ground(
    rng: random.Random, colours: set[str], *, gradient: float = 0.25, textures: float = 0.3
) -> tuple[str, str, str]:
    """Top, bottom and texture of a background that suits things of these colours."""
    free = clear_grounds(colours)
    top = bottom = rng.choice(free)
    if rng.random() < gradient:
        bottom = rng.choice([name for name in free if name != top])
    return top, bottom, rng.choice(TEXTURES[1:]) if rng.random() < textures else "plain"


def text_to_image(ask: Ask) -> Sample:
    """One to three things on a named background, now and then in a named look or style."""
    rng = ask.rng
    count = rng.choices((1, 2, 3), (0.4, 0.45, 0.15))[0]
    drawn = rng.random()
    style = rng.choice(STYLES[1:]) if drawn < 0.14 else "plain"
    look = rng.choice(LOOKS[1:]) if 0.14 <= drawn < 0.22 else "plain"
    scene = random_scene(rng, count, held_out=ask.held)
    scene = replace(scene, style=style, look=look)
    texts, meaning = [], {}
    for thing, number in zip(scene.things, ("", "2", "3"), strict=False):
        what = thing_phrase(rng, thing, number)
        meaning |= what.meaning
        text = what.text
        # Now and then the place is left to the model.
        if rng.random() >= 0.05:
            where = place_phrase(rng, thing.place, number)
            meaning |= where.meaning
            text += " " + where.text
        texts.append(text)
    things = texts[0] if count == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
    on = background_phrase(rng, scene.top, scene.bottom, scene.texture)
    if style != "plain":
        on = Phrase(f"{on.text} {rng.choice(STYLE_WORDS[style])}", {**on.meaning, "style": style})
    if look != "plain":
        on = Phrase(f"{on.text} {rng.choice(LOOK_WORDS[look])}", {**on.meaning, "look": look})
    return ask.sample(
        "text_to_image",
        "scene",
        (),
        scene,
        ordered=count > 1,
        things=Phrase(things, meaning),
        on=on,
    )


def background(ask: Ask) -> Sample:
    """Another colour, texture or gradient behind everything."""
    rng = ask.rng
    scene = ask.scene()
    if scene.style == "neon" and ask.given is None:
        raise Retry
    used = {thing.colour for thing in scene.things} | {scene.top, scene.bottom}
    drawn = rng.random()
    if drawn < 0.15:
        # Only the texture.
        texture = rng.choice([name for name in TEXTURES if name != scene.texture])
        words = Phrase(rng.choice(TEXTURE_WORDS[texture][0]), {"texture": texture})
        target = replace(scene, texture=texture)
        on = Phrase(f"on {article(words.text)} background", words.meaning)
    elif drawn < 0.65:
        top = rng.choice(clear_grounds(used))
        # A textured picture could keep its texture or lose it, so the words say which.
        named = scene.texture != "plain"
        texture = rng.choice(TEXTURES[1:]) if rng.random() < 0.35 else "plain"
        target = replace(scene, top=top, bottom=top, texture=texture)
        words = background_words(rng, top, texture, named=named)
        on = background_phrase(rng, top, top, texture, named=named)
    else:
        if scene.texture != "plain":
            if ask.given is not None:
                raise Retry
            scene = replace(scene, texture="plain")
        top, bottom = rng.sample(clear_grounds(used), 2)
        return ask.sample(
            "background", "gradient", (scene,), replace(scene, top=top, bottom=bottom),
            ordered=True, top=Phrase(top, {"top": top}), bottom=Phrase(bottom, {"bottom": bottom}),
        )  # fmt: skip
    return ask.sample(
        "background", "background", (scene,), target,
        new=words, a_new=Phrase(article(words.text), words.meaning), on=on,
    )  # fmt: skip


def look(ask: Ask) -> Sample:
    """The whole picture at night, at sunset, in grey or inverted."""
    scene = ask.scene()
    if scene.look != "plain":
        if ask.given is not None:
            raise Retry
        scene = replace(scene, look="plain")
    new = ask.rng.choice(LOOKS[1:])
    return ask.sample("look", new, (scene,), replace(scene, look=new), said={"look": new})


def _who(rng: random.Random, thing: Thing, size: str) -> Phrase:
    """'this character', 'the same cat', 'a big version of this cat'."""
    meaning = {}
    if rng.random() < 0.6:
        noun = rng.choice(_NAMES)
    else:
        noun = kind_words(rng, thing.kind)
        meaning["kind"] = thing.kind
    text = rng.choice(("this {}", "this {}", "the same {}", "the {}", "the {} of this picture",
                       "the {} from the picture", "that {}")).format(noun)  # fmt: skip
    if size != thing.size:
        meaning["size"] = size
        words = ("big", "large", "bigger") if size == "big" else ("medium-sized", "smaller")
        text = f"a {rng.choice(words)} version of {text}"
    return Phrase(text, meaning)


def character(ask: Ask) -> Sample:
    """The same character in a new picture, maybe beside a described thing."""
    rng = ask.rng
    scene = random_scene(
        rng, 1, held_out=ask.held, jitter=ask.jitter, kinds=CREATURES, unnamed=ask.unnamed
    )
    old = scene.things[0]
    if rng.random() < 0.2 and old.size == "medium":
        # Something else in the picture, which stays behind.
        other = ask.thing(
            (old,), backgrounds=(scene.top, scene.bottom), jitter=ask.jitter, unnamed=ask.unnamed
        )
        scene = replace(scene, things=(old, other))
    size = old.size
    if rng.random() < 0.25:
        size = "big" if old.size == "medium" else "medium"
    beside = rng.random() < 0.3 and size == "medium"
    place = rng.choice([name for name in PLACES if name != old.place])
    thing = Thing(old.kind, old.colour, size, place)
    company = ask.thing((thing,)) if beside else None
    things = (thing,) if company is None else (thing, company)
    top, bottom, texture = named_ground(rng, {t.colour for t in things} | {scene.top, scene.bottom})
    on = background_phrase(rng, top, bottom, texture)
    if company is not None:
        what, where = thing_phrase(rng, company, "2"), place_phrase(rng, company.place, "2")
        link = rng.choice(("next to", "together with", "along with", "with"))
        on = Phrase(
            f"{on.text} {link} {what.text} {where.text}",
            {**on.meaning, **what.meaning, **where.meaning},
        )
    return ask.sample(
        "character", "character", (scene,), Scene(things, top, bottom, texture), ordered=beside,
        who=_who(rng, old, size), place=place_phrase(rng, place), on=on,
    )  # fmt: skip


def style(ask: Ask) -> Sample:
    """A described thing, drawn in the style of a picture of other things."""
    rng = ask.rng
    name = rng.choice(STYLES[1:])
    shown = random_scene(rng, rng.choice((1, 1, 2)), jitter=ask.jitter, unnamed=ask.unnamed)
    thing = ask.thing(held_out=ask.held, kinds=_kinds_but(rng, shown))
    top, bottom, texture = named_ground(rng, {thing.colour})
    return ask.sample(
        "style", "style", (replace(shown, style=name),),
        Scene((thing,), top, bottom, texture, style=name),
        thing=thing_phrase(rng, thing), place=place_phrase(rng, thing.place),
        on=background_phrase(rng, top, bottom, texture),
    )  # fmt: skip


def _kinds_but(rng: random.Random, scene: Scene) -> tuple[str, ...]:
    """A group of kinds without those of a scene."""
    group = rng.choices((SHAPES, CREATURES, GLYPHS), (6, 3, 2))[0]
    there = {thing.kind for thing in scene.things}
    return tuple(kind for kind in group if kind not in there)
