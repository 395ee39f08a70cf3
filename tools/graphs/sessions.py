"""Templates of several turns."""

from __future__ import annotations

from .parts import (
    EMBEDDED,
    GREEN,
    OCHRE,
    PICTURES,
    PURPLE,
    Column,
    Graph,
    Node,
    loaders,
    picture,
    result,
)


def turn(key: str, before: str, prompt: str, seed: int, title: str) -> Node:
    links = {"session": f"{before}.0", "model": "model.0", "clip": "clip.0", "vae": "vae.0"}
    # Timeline, and below it the picture of a run in progress.
    return Node(
        key, "KontextSessionTurn", {**links, "prompt": prompt, "seed": seed}, title, more=166
    )


TEN = "\n".join(
    (
        "make the background blue",
        "make the circle purple",
        "make the heart green",
        "make the background white",
        "make the circle red",
        "make the heart blue",
        "make the background yellow",
        "make the circle green",
        "make the heart purple",
        "make the background black",
    )
)


SESSIONS: dict[str, Graph] = {
    "session_of_turns": Graph(
        "## Turn by turn, nothing lost\n\nOne wire goes from turn to turn. Each starts from the latent "
        "before it, and what its instruction is not about keeps its pixels. All turns are kept in "
        "`output/kontext_sessions/shapes.kontext`: running again repeats nothing.\n\n- **Another way**: "
        "*Session Pick* reopens a turn, here number 1; choose another in its timeline.\n- **Another "
        "seed** in a turn is another turn beside it: a replay. *turn before* in *Session Pick* gives "
        "what a turn was made from, and its prompt.\n- A new picture? Give it a new **name**."
        + EMBEDDED
        + PICTURES,
        (
            loaders(),
            Column(
                "Start",
                GREEN,
                310,
                (
                    picture("image", "kontext_shapes.png", "Picture"),
                    Node(
                        "start",
                        "KontextSessionStart",
                        {"image": "image.0", "vae": "vae.0", "name": "shapes"},
                        more=140,
                    ),
                ),
            ),
            Column(
                "Turns 1 and 2",
                OCHRE,
                330,
                (
                    turn("one", "start", "make the background blue", 2, "Turn 1"),
                    turn("two", "one", "make the circle purple", 3, "Turn 2"),
                ),
            ),
            Column(
                "Turn 3, and another way",
                PURPLE,
                330,
                (
                    turn("three", "two", "make it night", 3, "Turn 3"),
                    Node(
                        "pick", "KontextSessionPick", {"session": "three.0", "number": 1}, more=140
                    ),
                ),
            ),
            Column(
                "Another way",
                PURPLE,
                330,
                (
                    turn("other", "pick", "make the circle red", 4, "From turn 1"),
                    Node("preview", "PreviewImage", {"images": "other.1"}, "Another way", more=140),
                ),
            ),
            result(
                Node(
                    "save",
                    "SaveImage",
                    {"images": "three.1", "filename_prefix": "kontext/session_of_turns"},
                    "After turn 3",
                    more=300,
                )
            ),
        ),
    ),
    "ten_turns": Graph(
        "## Ten turns in one node\n\nEvery line of the prompt is a turn: an instruction for what the line "
        "before made. All ten are kept in `output/kontext_sessions/ten turns.kontext`.\n\n- Add a line and "
        "press **Run**: only that one is painted.\n- *Session Pick* reopens any turn of the timeline, to go "
        "on from it another way.\n- A new picture? Give it a new **name**." + EMBEDDED + PICTURES,
        (
            loaders(),
            Column(
                "Start",
                GREEN,
                310,
                (
                    picture("image", "kontext_shapes.png", "Picture"),
                    Node(
                        "start",
                        "KontextSessionStart",
                        {"image": "image.0", "vae": "vae.0", "name": "ten turns"},
                        more=140,
                    ),
                ),
            ),
            Column(
                "Ten turns",
                OCHRE,
                400,
                (
                    Node(
                        "turns",
                        "KontextSessionTurn",
                        {
                            "session": "start.0",
                            "model": "model.0",
                            "clip": "clip.0",
                            "vae": "vae.0",
                            "prompt": TEN,
                            "seed": 1,
                            "steps": 12,
                            "lines": "a turn for each line",
                        },
                        "Ten turns",
                        more=440,
                    ),
                ),
            ),
            Column(
                "Look",
                PURPLE,
                340,
                (
                    Node(
                        "pick", "KontextSessionPick", {"session": "turns.0", "number": 5}, more=140
                    ),
                    Node("preview", "PreviewImage", {"images": "pick.1"}, "Turn 5", more=240),
                ),
            ),
            result(
                Node(
                    "save",
                    "SaveImage",
                    {"images": "turns.1", "filename_prefix": "kontext/ten_turns"},
                    "After ten turns",
                    more=300,
                )
            ),
        ),
    ),
}
