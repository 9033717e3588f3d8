"""Pictures are compared while the camera stands there: in the background, and by a closing shot."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_gphoto2 import FakeWidget, fake_gp
from test_scene_checks import RIG, STEADY, found, rewritten

from srraw_tools import scene_watch
from srraw_tools.camera import GphotoCamera
from srraw_tools.capture import capture_sequence
from srraw_tools.checks import Expected
from srraw_tools.errors import UserError
from srraw_tools.live_focal import LiveFocal
from srraw_tools.raw import read_raw
from srraw_tools.rig import find_rig
from srraw_tools.scene_checks import check_scene, view_of
from srraw_tools.scene_watch import SceneWatch
from srraw_tools.sequence import read_sequence
from srraw_tools.shot_facts import facts_of
from srraw_tools.simulate.shoot import simulate_sequence

FOCALS = (24.0, 35.0, 50.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One scene by a camera that stands firm, and by one that slipped: the same seed, another hand."""
    out = tmp_path_factory.mktemp("scenes")
    slipping = replace(STEADY, shift_px=40)
    for name, optics in (("firm", STEADY), ("slipped", slipping)):
        simulate_sequence(out, name=name, seed=5, focal_mm=FOCALS, size=(352, 528), optics=optics)
    return out


def watched(folder, order=None):
    """The findings of a sequence whose shots come one after the other."""
    sequence, watch = read_sequence(folder), SceneWatch(RIG)
    for number in order or range(len(sequence.shots)):
        shot = sequence.shots[number]
        watch.add(folder / shot.file, shot)
    found = watch.result()
    watch.close()
    return found


def test_it_finds_what_the_checks_of_the_whole_sequence_find(scenes):
    for name in ("firm", "slipped"):
        sequence = read_sequence(scenes / name)
        views = [view_of(shot, read_raw(sequence.folder / shot.file)) for shot in sequence.shots]
        assert watched(scenes / name) == tuple(check_scene(views, RIG))
        assert watched(scenes / name, [2, 0, 1]) == tuple(check_scene(views, RIG))
    assert watched(scenes / "firm") == ()
    assert "shift" in {finding.check for finding in watched(scenes / "slipped")}


def test_each_neighbour_is_registered_once(scenes, monkeypatch):
    calls, link = [], scene_watch.linked
    monkeypatch.setattr(scene_watch, "linked", lambda low, high: calls.append(low) or link(low, high))
    watched(scenes / "firm")
    assert len(calls) == 2
    calls.clear()
    watched(scenes / "firm", [0, 1, 2, 2])  # the last one once more: only its own link is found anew
    assert len(calls) == 3


def test_a_file_that_cannot_be_read_is_a_finding(scenes, tmp_path):
    shot = read_sequence(scenes / "firm").shots[0]
    watch = SceneWatch(RIG)
    watch.add(tmp_path / "none.dng", shot)
    (finding,) = watch.result()
    assert "none.dng" in finding.what


def closing_shot(scenes, tmp_path, change=None):
    """A sequence with a closing shot, as capture makes it."""
    files = {f"{focal:g}.jpg": scenes / "firm" / f"0000{3 - n}.dng" for n, focal in enumerate(FOCALS)}
    again = tmp_path / "again.dng"
    again.write_bytes(files["24.jpg"].read_bytes().replace(b"2019:06:16", b"2019:06:17"))  # a day later
    gp = fake_gp([["24.jpg"], ["35.jpg"], ["50.jpg"], ["again.jpg"]], {**files, "again.jpg": again})
    rig, folder = replace(find_rig("virtual"), settle_s=0.01, ring="person"), tmp_path / "s"
    events = list(
        capture_sequence(
            GphotoCamera(gp),
            folder,
            rig,
            focal_mm=FOCALS,
            expected=Expected(f_number=20),
            turn_ring=lambda focal: None,
            shoot_again=lambda findings: False,
            closing_shot=True,
        )
    )
    return folder, events


def test_a_closing_shot_is_the_first_focal_length_again_and_no_shot_of_a_pair(scenes, tmp_path):
    folder, events = closing_shot(scenes, tmp_path)
    assert events[-1].done == events[-1].planned == 4
    assert [event.closing for event in events if event.kind == "shot"] == [False, False, False, True]
    sequence = read_sequence(folder)
    assert sequence.complete
    assert (sequence.closing.file, sequence.closing.focal_mm) == ("closing.dng", 24)
    assert len(sequence.shots) == 3
    assert found(folder) == set()
    record = json.loads((folder / "sequence.json").read_text())
    assert record["closing"]["sha256"] == sequence.closing.sha256


def test_a_closing_shot_shows_a_tripod_that_crept_and_light_that_drifted(scenes, tmp_path):
    folder, _ = closing_shot(scenes, tmp_path)
    firm = (folder / "closing.dng").read_bytes()
    moved(folder, 24)
    assert ("shift", "closing.dng") in found(folder)
    (folder / "closing.dng").write_bytes(firm)
    rewritten_closing(folder, lambda values: 512 + (values - 512) * 0.8)
    assert found(folder) == {("drift_ev", "closing.dng")}


def moved(folder, px):
    rewritten_closing(folder, lambda values: np.roll(values, px, axis=1))


def rewritten_closing(folder, change):
    record = json.loads((folder / "sequence.json").read_text())
    record["shots"].append(record.pop("closing"))  # for a moment, that its hash is written
    (folder / "sequence.json").write_text(json.dumps(record))
    rewritten(folder, "closing.dng", change)
    record = json.loads((folder / "sequence.json").read_text())
    record["closing"] = record["shots"].pop()
    (folder / "sequence.json").write_text(json.dumps(record))


def test_a_sequence_that_waits_for_its_closing_shot_is_not_complete(scenes, tmp_path):
    folder, _ = closing_shot(scenes, tmp_path)
    record = json.loads((folder / "sequence.json").read_text())
    record["closing"], record["complete"] = None, False
    (folder / "sequence.json").write_text(json.dumps(record))
    assert ("file", None) in found(folder)
    with pytest.raises(UserError, match="begun with a closing shot"):
        next(
            capture_sequence(
                GphotoCamera(fake_gp([], {})),
                folder,
                find_rig("virtual"),
                focal_mm=FOCALS,
                expected=Expected(),
                turn_ring=lambda focal: None,
                shoot_again=lambda findings: False,
                resume=True,
            )
        )


def test_the_facts_of_a_shot_are_those_of_its_pixels(scenes):
    raw = read_raw(scenes / "firm" / "00001.dng")
    facts = facts_of(raw)
    assert all(sum(shares) == pytest.approx(1) for shares in facts.histogram)
    white = replace(raw, mosaic=np.full_like(raw.mosaic, raw.white_level))
    assert facts_of(white).clipped == (1, 1, 1)
    assert all(shares[-1] == 1 for shares in facts_of(white).histogram)
    assert facts_of(white).sharpness == 0
    soft = raw.mosaic.astype(np.float64)
    soft = (soft + np.roll(soft, 2, 0) + np.roll(soft, 2, 1) + np.roll(soft, (2, 2), (0, 1))) / 4
    assert facts_of(replace(raw, mosaic=soft.astype(np.uint16))).sharpness < 0.7 * facts.sharpness
    darker = 512 + (raw.mosaic.astype(np.float64) - 512) / 2
    half = facts_of(replace(raw, mosaic=np.rint(darker).astype(np.uint16)))
    assert half.sharpness == pytest.approx(facts.sharpness, rel=0.01)  # of any exposure


@pytest.fixture
def ring(monkeypatch):
    """A camera that tells its focal length, its clock, and what reads it."""
    gp = fake_gp([], {})
    gp.config["focallength"] = FakeWidget("24", [])
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("srraw_tools.live_focal.time.monotonic", lambda: clock.now)
    live = LiveFocal(GphotoCamera(gp), find_rig("nikon-24-200"))

    def turn(focal, seconds=0.0):
        gp.config["focallength"].value = focal
        live.read()
        clock.now += seconds
        return live.read()

    return live, turn


def test_a_ring_is_waited_for_until_it_rests_there(ring):
    live, turn = ring
    turn("24 mm")
    live.compare(24.0)
    assert turn("33") == 33
    assert not live.stands_at(35)
    turn("35", 0.5)
    assert not live.stands_at(35)  # a hand is still on it
    turn("35", 2.0)
    assert live.stands_at(35)
    assert not live.stands_at(50)


def test_a_number_that_contradicts_a_shot_is_not_believed(ring):
    live, turn = ring
    turn("24", 9)
    assert not live.stands_at(24)  # no shot has confirmed it yet
    live.compare(24.0)
    assert live.stands_at(24)
    live.compare(70.0)  # it does not follow the ring
    assert not live.stands_at(24)
    for nonsense in ("", "0", "4000", "Auto"):
        assert turn(nonsense) is None
