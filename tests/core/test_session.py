"""Sessions: the file, its turns, and what a turn leaves alone."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_models import draw
from torch import Tensor

from kontext_core import Cancelled, InputError, KontextError, Pipeline, edit
from kontext_core.accelerate import Acceleration, Reuse, as_acceleration, recorded
from kontext_core.errors import SessionError
from kontext_core.framing import Framing, plan_fit
from kontext_core.reading import read_picture
from kontext_core.session import FORMAT, Session, add_start, add_turn, replay
from kontext_core.session.keep import (
    changed_cells,
    keep_cells,
    keep_pixels,
    mask_weights,
    masked_cells,
    weights_of,
)
from kontext_core.writing import read_metadata

SIZE = (64, 64)
WHOLE = Framing(SIZE, (0, 0, *SIZE), SIZE, SIZE)


def picture(seed: int, height: int = 64, width: int = 64) -> Tensor:
    return draw(seed, 1, height, width, 3).mul(0.2).add(0.5).clamp(0, 1)


def latent(seed: int) -> Tensor:
    return draw(seed, 1, 16, 8, 8)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A start, two turns on it, and one on the second of these."""
    made = Session.create(tmp_path / "folder" / "a.kontext")
    made.add(picture(0), latent(0), WHOLE)
    for seed, parent in ((1, 0), (2, 0), (3, 2)):
        made.add(
            picture(seed), latent(seed), WHOLE, parent=parent, prompt=f"turn {seed}",
            seed=2**64 - seed, settings={"steps": 4}, note="mine",
        )  # fmt: skip
    return made


def test_a_session_comes_back_as_it_was_put_in(session: Session) -> None:
    again = Session(session.path)
    turns = again.turns()
    assert [(t.number, t.parent, t.prompt) for t in turns] == [
        (0, None, ""), (1, 0, "turn 1"), (2, 0, "turn 2"), (3, 2, "turn 3"),
    ]  # fmt: skip
    assert turns[1].seed == 2**64 - 1
    assert turns[1].settings == {"steps": 4}
    assert turns[1].framing == WHOLE
    assert turns[1].note == "mine"
    assert turns[1].created.endswith("+00:00")
    assert [t.number for t in again.path_to(3)] == [0, 2, 3]
    assert again.latent(3).equal(latent(3))
    assert again.picture(3).equal((picture(3) * 255).round() / 255)
    assert again.mask(3) is None
    assert again.references(3) == []
    assert again.thumbnail(3).startswith(b"\xff\xd8")


def test_half_precision_stays_half(session: Session) -> None:
    turn = session.add(picture(4), latent(4).half(), WHOLE, parent=0)
    assert session.latent(turn.number).equal(latent(4).half())


def test_masks_and_further_pictures_are_kept(session: Session) -> None:
    mask = torch.zeros(64, 64)
    mask[5:20, 7:30] = 1
    turn = session.add(
        picture(4), latent(4), WHOLE, parent=0, mask=mask, references=[picture(5, 32, 48)]
    )
    found = session.mask(turn.number)
    assert found is not None and found.equal(mask)
    [reference] = session.references(turn.number)
    assert reference.equal((picture(5, 32, 48) * 255).round() / 255)


def test_one_file_is_all_there_is(session: Session) -> None:
    assert [path.name for path in session.path.parent.iterdir()] == ["a.kontext"]


def test_the_same_key_is_the_same_turn(session: Session) -> None:
    first = session.add(picture(4), latent(4), WHOLE, parent=0, key="k")
    second = session.add(picture(5), latent(5), WHOLE, parent=0, key="k")
    assert first == second == session.find("k")
    assert session.find("other") is None
    assert len(session.turns()) == 5


def test_notes_can_be_put_otherwise(session: Session) -> None:
    session.set_note(1, "better")
    assert session.turn(1).note == "better"


def test_export_writes_pictures_with_their_words(session: Session, tmp_path: Path) -> None:
    paths = session.export(tmp_path / "out")
    assert [path.name for path in paths] == [f"turn_000{n}.png" for n in range(4)]
    assert read_picture(paths[3]).colours.equal(session.picture(3))
    assert read_metadata(paths[3])["prompt"] == "turn 3"
    assert session.export(tmp_path / "some", [2]) == [tmp_path / "some" / "turn_0002.png"]


def test_a_name_that_is_taken_is_refused(session: Session) -> None:
    with pytest.raises(SessionError, match="is there already"):
        Session.create(session.path)
    assert len(session.turns()) == 4


@pytest.mark.parametrize("number", [4, -1, 2**40])
def test_a_turn_that_is_not_there(session: Session, number: int) -> None:
    for call in (session.turn, session.picture, session.latent, session.path_to):
        with pytest.raises(InputError, match=f"no turn {number}; 0 to 3 are there"):
            call(number)
    with pytest.raises(InputError, match="no turn"):
        session.add(picture(1), latent(1), WHOLE, parent=number)
    assert len(session.turns()) == 4


def test_a_batch_is_no_turn(session: Session) -> None:
    with pytest.raises(InputError, match="one by one"):
        session.add(picture(1).repeat(2, 1, 1, 1), latent(1), WHOLE)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("no session " * 100)


def image(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path, "PNG")


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE turn (number INTEGER)")
        base.commit()


def tables_gone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as base:
        base.execute("DROP TABLE turn")
        base.commit()


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"PRAGMA user_version = {FORMAT + 1}")
        base.commit()


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty, "no session"),
        (text, "no session"),
        (image, "no session"),
        (foreign, "no session"),
        (tables_gone, "damaged"),
        (newer, f"format {FORMAT + 1}"),
        (cut, "damaged"),
        (Path.unlink, "there is no session at"),
    ],
)
def test_what_is_no_session_says_so(
    session: Session, damage: Callable[[Path], object], message: str
) -> None:
    damage(session.path)
    with pytest.raises(SessionError, match=message):
        Session(session.path).turns()
    if session.path.exists():
        # It is not made into one, either.
        with pytest.raises(SessionError):
            session.add(picture(1), latent(1), WHOLE)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("latent", b"nothing"),
        ("latent", "text"),
        ("picture", b"nothing"),
        ("picture", 7),
        ("settings", "{"),
        ("framing", "[]"),
        ("framing", '{"picture": [1, 2]}'),
        ("seed", "x"),
        ("parent", 3),
    ],
)
def test_a_damaged_turn_says_which(session: Session, column: str, value: object) -> None:
    with closing(sqlite3.connect(session.path)) as base:
        base.execute(f"UPDATE turn SET {column} = ? WHERE number = 2", (value,))
        base.commit()
    with pytest.raises(SessionError, match="is damaged"):
        session.path_to(3)
        session.picture(2)
        session.latent(2)


def test_single_flipped_bytes_never_escape_as_other_errors(session: Session) -> None:
    """Everything a reader does, with each of 60 places damaged."""
    whole = session.path.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        data = bytearray(whole)
        data[place] ^= 0xFF
        session.path.write_bytes(bytes(data))
        try:
            for turn in Session(session.path).turns():
                session.picture(turn.number)
                session.latent(turn.number)
                session.path_to(turn.number)
        except KontextError:
            continue


def test_half_a_turn_is_undone_on_opening(session: Session) -> None:
    """A writer that stops within its transaction, its journal left behind."""
    size = session.path.stat().st_size
    program = (
        "import os, sqlite3, sys\n"
        "base = sqlite3.connect(sys.argv[1])\n"
        "base.execute('PRAGMA cache_spill = 1'); base.execute('PRAGMA cache_size = 1')\n"
        "base.execute('BEGIN IMMEDIATE')\n"
        "base.execute('DELETE FROM turn')\n"
        'base.execute("CREATE TABLE junk (data BLOB)")\n'
        "for _ in range(50): base.execute('INSERT INTO junk VALUES (randomblob(9000))')\n"
        "os._exit(9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(session.path)], check=False)
    assert ended.returncode == 9
    journal = session.path.with_name("a.kontext-journal")
    assert journal.exists() and session.path.stat().st_size > size
    assert len(Session(session.path).turns()) == 4
    assert session.picture(3).equal((picture(3) * 255).round() / 255)
    assert not journal.exists()


def test_a_busy_file_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kontext_core.session.database.PATIENCE", 0.05)
    with closing(sqlite3.connect(session.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionError, match="in use by another process"):
            session.add(picture(1), latent(1), WHOLE)
        other.rollback()
    session.add(picture(1), latent(1), WHOLE)


@pytest.fixture
def begun(tmp_path: Path, small_pipeline: Pipeline) -> Session:
    made = Session.create(tmp_path / "b.kontext")
    add_start(made, small_pipeline, picture(1, 79, 111))
    return made


def test_a_turn_starts_from_the_latent_before(begun: Session, small_pipeline: Pipeline) -> None:
    """Painted without keeping anything, it is what `edit` gives for that latent."""
    from kontext_core import Reference

    turn = add_turn(begun, small_pipeline, "a", parent=0, seed=3, steps=2, keep="nothing")
    start = Reference(begun.latent(0), framing=begun.turn(0).framing)
    expected = edit(small_pipeline, "a", [start], seed=3, steps=2)
    assert begun.picture(turn.number).equal((expected * 255).round() / 255)
    assert begun.picture(turn.number).shape == (1, 79, 111, 3)
    again = add_turn(begun, small_pipeline, "b", parent=1, seed=4, steps=2, keep="nothing")
    second = Reference(begun.latent(1), framing=begun.turn(0).framing)
    expected = edit(small_pipeline, "b", [second], seed=4, steps=2)
    assert begun.picture(again.number).equal((expected * 255).round() / 255)


def test_outside_a_mask_every_bit_stays_over_turns(
    begun: Session, small_pipeline: Pipeline
) -> None:
    mask = torch.zeros(79, 111)
    mask[13:40, 21:70] = 1
    for parent in range(3):
        add_turn(
            begun, small_pipeline, "a", parent=parent, seed=parent, steps=2, mask=mask,
            images=[picture(9)],
        )  # fmt: skip
    first, last = begun.picture(0)[0], begun.picture(3)[0]
    assert last[mask == 0].equal(first[mask == 0])
    assert not last[mask == 1].equal(first[mask == 1])


def test_a_replay_differs_by_its_seed_alone(begun: Session, small_pipeline: Pipeline) -> None:
    mask = torch.zeros(79, 111)
    mask[:, :50] = 1
    turn = add_turn(
        begun, small_pipeline, "a", parent=0, seed=1, steps=2, mask=mask, images=[picture(9)]
    )
    other = replay(begun, small_pipeline, turn.number, seed=2)
    assert (other.parent, other.prompt, other.settings) == (0, "a", turn.settings)
    assert not begun.picture(1).equal(begun.picture(2))
    same = replay(begun, small_pipeline, turn.number, seed=1)
    # The further picture has 8 bits now: float32 differences of a few levels at most.
    assert (begun.picture(same.number) - begun.picture(1)).abs().max() < 0.02
    with pytest.raises(InputError, match="is a start"):
        replay(begun, small_pipeline, 0, seed=1)


def test_a_replay_saves_work_as_its_turn_did(begun: Session, small_pipeline: Pipeline) -> None:
    """By a preset's name, or by settings, which come back out of the file's JSON."""
    mine = Acceleration(Reuse(0.0, 2, 0), bits=8)
    for given, kept in (("fast+8bit", "fast+8bit"), (mine, recorded(mine))):
        turn = add_turn(begun, small_pipeline, "a", parent=0, seed=1, steps=4, accelerate=given)
        read = begun.turn(turn.number).settings["accelerate"]
        assert read == kept
        assert as_acceleration(read) == as_acceleration(given)
        same = replay(begun, small_pipeline, turn.number, seed=1)
        assert begun.picture(same.number).equal(begun.picture(turn.number))
    plain = add_turn(begun, small_pipeline, "a", parent=0, seed=1, steps=4)
    assert "accelerate" not in plain.settings
    assert not begun.picture(plain.number).equal(begun.picture(turn.number))


def test_a_turn_that_fails_or_is_stopped_adds_nothing(
    begun: Session, small_pipeline: Pipeline
) -> None:
    with pytest.raises(Cancelled):
        add_turn(begun, small_pipeline, "a", parent=0, steps=2, should_stop=lambda: True)
    for changes, message in (
        ({"prompt": " "}, "is empty"),
        ({"parent": 9}, "no turn 9"),
        ({"keep": "all"}, "unknown keep"),
        ({"denoise": 0.5}, "takes no denoise"),
        ({"mask": torch.ones(10, 40)}, "another shape"),
    ):
        values = {"prompt": "a", "parent": 0, "steps": 2, **changes}
        with pytest.raises(InputError, match=message):
            add_turn(begun, small_pipeline, **values)
    assert len(begun.turns()) == 1


def test_another_models_latents_are_refused(session: Session, small_pipeline: Pipeline) -> None:
    other = Framing(SIZE, (0, 0, *SIZE), (1024, 1024), (1024, 1024))
    turn = session.add(picture(7), draw(7, 1, 16, 128, 128), other)
    with pytest.raises(InputError, match="begun with a model"):
        add_turn(session, small_pipeline, "a", parent=turn.number)


def test_changed_cells_are_found_with_what_belongs_to_them() -> None:
    before = latent(1)
    after = before.clone()
    scale = 0.3611
    after[:, :, 4, 4] += 0.3 / scale
    after[:, :, 4, 5] += 0.15 / scale
    after[:, :, 0, 0] += 0.15 / scale
    found = changed_cells(before, after)
    assert found.nonzero().tolist() == [[4, 4], [4, 5]]
    kept = keep_cells(after, before, found)
    assert kept[..., 0, 0].equal(before[..., 0, 0])
    assert kept[..., 4, 4].equal(after[..., 4, 4])
    assert changed_cells(before, before).sum() == 0


def test_weights_cover_their_cells_and_end_half_a_cell_beyond() -> None:
    cells = torch.zeros(8, 8)
    cells[2:4, 3] = 1
    weights = weights_of(cells, WHOLE)
    # But for the corners, where three neighbours of four are unchanged.
    assert weights[20:28, 24:32].eq(1).all() and weights[16:32, 24:32].gt(0.6).all()
    assert weights[:12].eq(0).all() and weights[36:].eq(0).all()
    assert weights[:, :20].eq(0).all() and weights[:, 36:].eq(0).all()
    assert 0 < weights[20, 22] < 1


def test_weights_follow_a_picture_of_another_size() -> None:
    framing = plan_fit(111, 79, [(96, 64)], "trained size")
    cells = torch.zeros(8, 12)
    cells[:, 6:] = 1
    weights = weights_of(cells, framing)
    assert weights.shape == (79, 111)
    # The middle of the grid is the middle of the picture.
    assert weights[:, 62:].eq(1).all() and weights[:, :49].eq(0).all()


def test_kept_pixels_are_the_bits_before() -> None:
    before, result = picture(1), picture(2)
    weights = torch.zeros(64, 64)
    weights[10:20, 10:20] = 0.5
    made = keep_pixels(result, before, weights)
    assert made[0][weights == 0].equal(before[0][weights == 0])
    middle = (before + result)[0, 15, 15] / 2
    torch.testing.assert_close(made[0, 15, 15], middle)


def test_masks_of_another_size_and_shape() -> None:
    mask = torch.zeros(32, 32)
    mask[4:8, 4:9] = 1
    cells = masked_cells(mask, WHOLE, (8, 8))
    assert cells.nonzero().tolist() == [[1, 1], [1, 2]]
    assert mask_weights(mask, WHOLE).shape == (64, 64)
    with pytest.raises(InputError, match="another shape"):
        masked_cells(torch.ones(10, 40), WHOLE, (8, 8))


def test_the_command_lists_and_exports(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kontext_core.__main__ import main

    assert main(["session", str(session.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "start" in lines[0]
    assert "from 2, seed 18446744073709551613: 'turn 3' (mine)" in lines[3]
    assert main(["session", str(session.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[3]["parent"] == 2
    folder = tmp_path / "out"
    assert main(["session", str(session.path), "--export", str(folder), "--turn", "2"]) == 0
    assert [path.name for path in folder.iterdir()] == ["turn_0002.png"]
    assert main(["session", str(tmp_path / "none.kontext")]) == 1
    assert "there is no session at" in capsys.readouterr().err
