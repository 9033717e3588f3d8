"""Simulated sequences: true geometry, honest sampling, believable numbers, the same bytes every time."""

import filecmp
import json
import math
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from srraw_tools import geometry
from srraw_tools.cli import main
from srraw_tools.errors import UserError
from srraw_tools.raw import luminance, read_raw
from srraw_tools.sequence import choose_pairs, find_sequences, read_sequence
from srraw_tools.simulate import lens, objects, render, shoot
from srraw_tools.simulate.lens import Imaging
from srraw_tools.simulate.objects import Material
from srraw_tools.simulate.physics import Optics, Sensor
from srraw_tools.simulate.plan import OPTICS_RANGES, SENSOR_RANGES, Plan
from srraw_tools.simulate.raster import fill_leaves, fill_polygons, join, leaf_outlines
from srraw_tools.simulate.scene import Plane, Scene, build_scene
from srraw_tools.simulate.sensor import aperture_kernel, colour_data, digitise
from srraw_tools.simulate.shoot import point_map, read_truth, simulate_sequence, simulate_sequences

SIZE = (176, 264)
BENT = Optics(distortion=-0.04, vignetting_ev=0.5)
CLEAN = Sensor(shot_noise=False, read_noise_e=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One sequence with the default options."""
    out = tmp_path_factory.mktemp("sequences")
    simulate_sequence(out, name="00001", seed=7, size=SIZE)
    return out / "00001"


def scene_of(shapes, distance_m=math.inf):
    """A scene of some shapes on a grey ground, without leaves or shade."""
    ground = ([np.array([[-9, -9], [9, -9], [9, 9], [-9, 9.0]])], int(objects.label_of(-6, 0, 0)))
    plane = Plane(distance_m, ((0.0, join([ground, *shapes])),), join([]))
    bare = Material(*np.zeros((len(Material._fields), 1)))
    return Scene((plane,), (1.0, 1.0), np.zeros((1, 2, 2), np.uint16), bare, np.ones(1), (), np.empty((0, 4)))


def disc(centre, radius):
    around = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    return np.asarray(centre) + radius * np.stack([np.cos(around), np.sin(around)], axis=1)


def centroids(light, cfa="RGGB"):
    """Centres (n, 2) of the bright dots that lie whole inside a mosaic of grey light."""
    balance = dict(zip("RGB", colour_data(CLEAN)[0], strict=True))
    gains = np.array([balance[c] for c in cfa]).reshape(2, 2)
    grey = light * np.tile(gains, (light.shape[0] // 2, light.shape[1] // 2))
    grey = grey - np.median(grey)
    grown = cv2.dilate((grey > 0.02 * grey.max()).astype(np.uint8), np.ones((3, 3)))
    _, dots, boxes, _ = cv2.connectedComponentsWithStats(grown)
    height, width = light.shape
    found = []
    for dot, (x, y, w, h, _) in enumerate(boxes[1:], 1):
        if x > 0 and y > 0 and x + w < width and y + h < height:
            rows, columns = np.nonzero(dots == dot)
            weight = grey[rows, columns]
            found.append([weight @ columns / weight.sum(), weight @ rows / weight.sum()])
    return np.array(found)


# ---- the shots and what is said about them


def test_a_sequence_is_whole_and_described(folder):
    sequence = read_sequence(folder)
    assert sequence.complete
    assert sequence.planned_mm == (24, 35, 50, 70, 100, 150, 240)
    assert [shot.file for shot in sequence.shots] == [f"{k:05d}.dng" for k in range(1, 8)]
    assert [shot.focal_mm for shot in sequence.shots] == [240, 150, 100, 70, 50, 35, 24]
    assert {(shot.exposure_s, shot.iso, shot.f_number) for shot in sequence.shots} == {(0.02, 100, 20)}
    times = [shot.taken_at for shot in sequence.shots]
    assert times == sorted(times, reverse=True)  # shot from short to long
    assert find_sequences([folder.parent]) == [folder]
    raw = read_raw(folder / "00003.dng")
    assert (raw.size, raw.cfa, raw.black_level, raw.white_level) == (SIZE, "RGGB", (512,) * 4, 16383)
    assert raw.notes == ()


def test_the_truth_lists_every_shot_and_pair(folder):
    truth = read_truth(folder)
    sequence = read_sequence(folder)
    for shot, told in zip(sequence.shots, truth["shots"], strict=True):
        assert shot.file == told["file"]
        assert {"focal_true", "rotation_deg", "shift_px", "k1"} <= set(told)
        assert abs(told["focal_true"] / shot.focal_mm - 1) <= 0.015
        assert told["focal_true"] != shot.focal_mm
    expected = [(z, lo.file, hi.file) for z in (2, 4, 8) for lo, hi in choose_pairs(sequence, z)]
    assert [(p["zoom"], p["low"], p["high"]) for p in truth["pairs"]] == expected
    assert {2, 4, 8} == {p["zoom"] for p in truth["pairs"]}
    points = geometry.frame_corners(SIZE)
    for pair in truth["pairs"]:
        exact = point_map(truth, pair["low"], pair["high"], points)
        np.testing.assert_allclose(geometry.apply(pair["low_to_high"], points), exact, atol=1e-8)


def test_exposure_uses_the_range_without_much_clipping(folder):
    for number in (1, 4, 7):
        raw = read_raw(folder / f"{number:05d}.dng")
        assert np.mean(raw.mosaic >= raw.white_level) < 0.02
        signal = raw.mosaic.astype(float) - 512
        assert 0.01 < np.median(signal) / 15871 < 0.5
        assert np.mean(signal < 50) < 0.1


# ---- geometry


def test_images_agree_with_the_truth(tmp_path):
    """The long shot, warped by the truth onto the short one, is not displaced against it."""
    simulate_sequence(tmp_path, name="a", seed=5, size=(352, 528), focal_mm=(50, 100), sensor=CLEAN)
    truth = read_truth(tmp_path / "a")
    (pair,) = truth["pairs"]
    low, high = (luminance(read_raw(tmp_path / "a" / pair[end])) for end in ("low", "high"))
    crop = geometry.even_crop_of_view(pair["low_to_high"], low.shape, high.shape)
    x, y, width, height = crop
    to_high = np.array(pair["low_to_high"]) @ geometry.crop_to_frame(crop)
    averaged = cv2.GaussianBlur(high, (0, 0), 1.0)
    warped = cv2.warpPerspective(averaged, to_high, (width, height), flags=cv2.INTER_LINEAR | 16)
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(low[y : y + height, x : x + width], warped, window)
    assert np.hypot(*shift) < 0.1


@pytest.mark.parametrize("optics", [Optics(), BENT], ids=["straight", "distorted"])
def test_dots_lie_where_the_truth_says(tmp_path, optics):
    """Centroids of isolated dots, found in two shots, against point_map to a tenth of a pixel."""
    plan = Plan("dots", seed=3, focal_mm=(70, 140), size=SIZE, optics=optics, sensor=CLEAN)
    simulate_sequence(
        tmp_path, name="dots", seed=3, focal_mm=(70, 140), size=SIZE, optics=optics, sensor=CLEAN
    )
    truth = read_truth(tmp_path / "dots")
    long, short = shoot._stage_of(plan).shots
    # Dots of 12 pixels radius in the long shot have 6 in the short one.
    grid = np.stack(np.meshgrid(np.linspace(-0.1, 0.1, 5), np.linspace(-0.06, 0.06, 4)), -1).reshape(-1, 2)
    radius = 12 / long.focal_px
    scene = scene_of([([disc(centre, radius)], int(objects.label_of(0, 0, 0))) for centre in grid])
    plain = replace(optics, vignetting_ev=0.0)
    seen = [
        centroids(render.render_light(scene, None, plain, CLEAN, replace(shot, corner_ev=0.0)))
        for shot in (short, long)
    ]
    expected = point_map(truth, "00002.dng", "00001.dng", seen[0])
    matched = np.linalg.norm(expected[:, None] - seen[1][None], axis=-1).min(axis=0)
    assert len(matched) > 15
    assert matched.max() < 0.1


def test_dots_of_a_photograph_lie_where_the_truth_says(tmp_path):
    photo = np.full((900, 1350), 10, np.uint8)
    for y in range(50, 900, 50):
        for x in range(50, 1350, 50):
            cv2.circle(photo, (x, y), 5, 230, -1, cv2.LINE_AA)
    cv2.imwrite(str(tmp_path / "dots.png"), photo)
    options = {"scene": tmp_path / "dots.png", "focal_mm": (50.0, 100.0), "size": SIZE, "sensor": CLEAN}
    simulate_sequence(tmp_path, name="a", seed=1, **options)
    truth = read_truth(tmp_path / "a")
    low, high = (
        centroids((read_raw(tmp_path / "a" / name).mosaic - 512.0) / 15871)
        for name in ("00002.dng", "00001.dng")
    )
    distance = np.linalg.norm(point_map(truth, "00002.dng", "00001.dng", low)[:, None] - high[None], axis=-1)
    assert len(high) > 15
    assert distance.min(axis=0).max() < 0.1


@settings(max_examples=50, deadline=None)
@given(
    focal=st.floats(24, 240),
    rotation=st.floats(-2, 2),
    k1=st.floats(-0.1, 0.1),
    x=st.floats(-20, 1076),
    y=st.floats(-20, 724),
    distance=st.sampled_from([math.inf, 30.0, 5.0]),
)
def test_the_lens_map_and_its_inverse_agree(focal, rotation, k1, x, y, distance):
    shot = Imaging((704, 1056), focal, rotation, (11.0, -7.0), k1, pupil_m=0.1)
    scene = lens.pixels_to_scene(shot, np.array([[x, y]]), distance)
    np.testing.assert_allclose(lens.scene_to_pixels(shot, scene, distance), [[x, y]], atol=1e-6)
    step = 1e-6
    numeric = [
        (lens.scene_to_pixels(shot, scene + d, distance) - lens.scene_to_pixels(shot, scene - d, distance))[0]
        / (2 * step)
        for d in (np.array([step, 0]), np.array([0, step]))
    ]
    np.testing.assert_allclose(
        lens.jacobian(shot, scene, distance)[0], np.stack(numeric, 1), rtol=1e-4, atol=1e-3
    )


def test_parallax_is_that_of_the_paper():
    """Objects 5 m apart shift by one pixel of 4240 x 2832 at 56.4 m, less beyond."""
    ends = [Imaging((2832, 4240), 24, pupil_m=0.0), Imaging((2832, 4240), 24, pupil_m=lens.PUPIL_TRAVEL_M)]
    corner = np.array([[4239.0, 2831.0]])

    def shift_px(near, far):
        seen = [
            lens.scene_to_pixels(ends[1], lens.pixels_to_scene(ends[0], corner, d), d) for d in (near, far)
        ]
        return np.linalg.norm(seen[0] - seen[1])

    assert shift_px(56.4, 61.4) == pytest.approx(1, abs=0.02)
    assert shift_px(20, 25) > 5
    assert shift_px(100, 105) < 0.5


def test_nearer_planes_move_and_blur():
    shape = ([disc((0.1, 0.05), 0.003)], int(objects.label_of(0, 0, 0)))
    near = Plane(5.0, ((0.0, join([shape])),), join([]))
    scene = scene_of([])
    scene = replace(scene, planes=(*scene.planes, near))
    shot = Imaging((264, 264), 100.0, pupil_m=0.2)
    light = render.render_light(scene, None, Optics(), CLEAN, shot)
    expected = lens.scene_to_pixels(shot, np.array([[0.1, 0.05]]), 5.0)
    np.testing.assert_allclose(centroids(light), expected, atol=0.05)
    blurred = render.render_light(scene, None, Optics(depth_of_field=True, f_number=2.8), CLEAN, shot)
    assert blurred.max() < 0.95 * light.max()
    assert blurred.sum() == pytest.approx(light.sum(), rel=0.01)


# ---- sampling


def test_the_long_shot_holds_detail_that_the_short_one_lacks(folder):
    """A target that is an enlargement teaches nothing: compare energy beyond the short shot's Nyquist."""
    truth = read_truth(folder)
    pairs = [pair for pair in truth["pairs"] if pair["zoom"] == 4]
    assert len(pairs) == 3
    for pair in pairs:
        low, high = (luminance(read_raw(folder / pair[end])) for end in ("low", "high"))
        enlarged = cv2.warpPerspective(
            low, np.array(pair["low_to_high"]), high.shape[::-1], flags=cv2.INTER_CUBIC
        )
        frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.fftfreq(SIZE[1]))
        window = np.outer(np.hanning(SIZE[0]), np.hanning(SIZE[1]))
        beyond = (frequency > 0.5 / 4) & (frequency < 0.3)
        energy = [
            np.sum(np.abs(np.fft.fft2((view - view.mean()) * window))[beyond] ** 2)
            for view in (enlarged, high)
        ]
        assert energy[0] < 0.05 * energy[1]


def test_shapes_cover_exactly_their_area():
    rng = np.random.default_rng(0)
    labels = np.zeros((400, 500), np.uint16)
    star = rng.uniform(20, 380, (7, 2))
    fill_polygons(labels, join([([star], 1)]))
    fine = np.zeros((4000, 5000), np.uint16)
    fill_polygons(fine, join([([star * 10 + 4.5], 1)]))
    assert labels.sum() == pytest.approx(fine.sum() / 100, rel=0.01)
    yy, xx = np.mgrid[:400, :500]
    inside = np.zeros(labels.shape, bool)  # even-odd, by a ray to the left of every sample
    for a, b in zip(star, np.roll(star, -1, axis=0), strict=True):
        crosses = (a[1] <= yy) != (b[1] <= yy)
        inside ^= crosses & (xx >= a[0] + (yy - a[1]) * (b[0] - a[0]) / (b[1] - a[1]))
    np.testing.assert_array_equal(labels == 1, inside)


def test_shapes_that_touch_leave_no_gap_and_share_no_sample():
    labels = np.zeros((60, 60), np.uint16)
    a, b, c, d = np.array([[3.3, 4.1], [50.2, 7.7], [55.5, 49.9], [8.8, 57.1]])
    fill_polygons(labels, join([([np.array([a, b, c])], 1)]))
    first = labels == 1
    fill_polygons(labels, join([([np.array([a, c, d])], 2)]))
    assert not np.any(first & (labels == 2))
    whole = np.zeros_like(labels)
    fill_polygons(whole, join([([np.array([a, b, c, d])], 1)]))
    np.testing.assert_array_equal(labels > 0, whole > 0)


@settings(max_examples=30, deadline=None)
@given(angle=st.floats(0, math.pi), length=st.floats(3, 60), aspect=st.floats(0.1, 1), k=st.integers(0, 9))
def test_leaves_are_the_curves_they_claim_to_be(angle, length, aspect, k):
    cos, sin = math.cos(angle), math.sin(angle)
    to_leaf = np.array([[[cos / length, sin / length], [-sin, cos]]])
    to_leaf[0, 1] /= length * aspect
    centre = np.array([[70 + k / 10, 71.7]])
    labels = np.zeros((144, 144), np.uint16)
    fill_leaves(labels, centre, to_leaf, np.array([1], np.uint16), np.array([2], np.uint16))
    yy, xx = np.mgrid[:144, :144]
    u, v = np.einsum("ij,jyx->iyx", to_leaf[0], np.stack([xx - centre[0, 0], yy - centre[0, 1]]))
    margin = 1 - u**2 - np.abs(v)
    clear = np.abs(margin) > 1e-6
    np.testing.assert_array_equal((labels > 0)[clear], (margin > 0)[clear])
    halves = clear & (labels > 0) & (np.abs(v) > 1e-6)
    np.testing.assert_array_equal(labels[halves], np.where(v < 0, 1, 2)[halves])
    outline = np.zeros_like(labels)
    one, two = np.array([1], np.uint16), np.array([2], np.uint16)
    fill_polygons(outline, leaf_outlines(centre, to_leaf, one, two))
    assert np.mean(outline != labels) < 0.01


def test_a_shot_does_not_depend_on_its_bands(monkeypatch):
    scene = build_scene(
        np.random.default_rng(2), shortest_mm=24, longest_mm=240, size=SIZE, sensor_width_mm=36.0
    )
    shot = Imaging(SIZE, 50.0, 0.7, (5.0, -3.0), -0.03)
    whole = render.render_light(scene, None, Optics(), Sensor(cfa="GBRG"), shot)
    monkeypatch.setattr(render, "BAND_SAMPLES", 16 * SIZE[1] * 30)
    bands = render.render_light(scene, None, Optics(), Sensor(cfa="GBRG"), shot)
    np.testing.assert_allclose(bands, whole, rtol=1e-5)


def test_leaves_too_small_to_draw_still_count_on_average(monkeypatch):
    scene = build_scene(
        np.random.default_rng(4), shortest_mm=24, longest_mm=240, size=SIZE, sensor_width_mm=36.0
    )
    shot = Imaging(SIZE, 24.0)
    averaged = render.render_light(scene, None, Optics(), CLEAN, shot)
    monkeypatch.setattr(render, "FINEST_PX", 0.02)
    drawn = render.render_light(scene, None, Optics(), CLEAN, shot)
    middle = np.s_[44:132, 66:198]
    assert not np.allclose(averaged[middle], drawn[middle], rtol=0.01)
    assert averaged[middle].mean() == pytest.approx(drawn[middle].mean(), rel=0.02)


def test_a_grating_beyond_nyquist_aliases():
    """Bars of 0.7 pixels come out as false, coarser bars: samples are not low-pass filtered."""
    shot = Imaging((132, 132), 100.0)
    pitch = 1.4 / shot.focal_px
    x = np.arange(-80, 80) * pitch
    bars = [np.array([[a, -1], [a + pitch / 2, -1], [a + pitch / 2, 1], [a, 1]]) for a in x]
    scene = scene_of([(bars, int(objects.label_of(0, 0, 0)))])
    light = render.render_light(scene, None, Optics(blur_px=0.0), CLEAN, shot)
    green = light[0::2, 1::2].mean(axis=0)
    assert green.std() / green.mean() > 0.05


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("fill", "split"), [(1.0, 0.0), (0.5, 0.0), (0.9, 0.7)])
def test_the_aperture_has_the_width_of_its_parts(sigma, fill, split):
    kernel = aperture_kernel(8, sigma, Sensor(fill_factor=fill, aa_filter_px=split))
    place = (np.arange(len(kernel)) - (len(kernel) - 1) / 2) / 8
    assert kernel.sum() == pytest.approx(1)
    assert kernel @ place == pytest.approx(0, abs=1e-9)
    variance = sigma**2 + fill**2 / 12 + split**2 / 4
    # A sample has a width as well: 1/8 of a pixel, which adds or hides a variance of about 1/64/12.
    assert kernel @ place**2 == pytest.approx(variance, abs=2 / 64 / 12)


# ---- sensor


@pytest.mark.parametrize("iso", [100, 1600])
def test_noise_is_that_of_photons_and_readout(iso):
    sensor = Sensor(iso=iso)
    light = np.full((400, 400), 0.3, np.float32)
    values = digitise(light, sensor, np.random.default_rng(0)).astype(float)
    at_white = 60000 * 100 / iso
    per_electron = (16383 - 512) / at_white
    assert values.mean() == pytest.approx(512 + 0.3 * 15871, rel=0.002)
    expected = per_electron**2 * (0.3 * at_white + 3**2) + 1 / 12
    assert values.var() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("crosstalk", [0.0, 0.12])
@pytest.mark.parametrize("cfa", ["RGGB", "GRBG", "GBRG", "BGGR"])
def test_colours_come_back_through_the_files_own_matrix(tmp_path, cfa, crosstalk):
    """A patch of known colour, read back with the DNG's balance and matrix, has its colour."""
    sensor = replace(CLEAN, cfa=cfa, crosstalk=crosstalk)
    colour = (-1.5, 0.6, -0.9)
    square = np.array([[-9, -9], [9, -9], [9, 9], [-9, 9.0]])
    scene = scene_of([([square], int(objects.label_of(*colour)))])
    light = render.render_light(scene, None, Optics(), sensor, Imaging((64, 64), 50.0))
    mosaic = digitise(light, sensor, np.random.default_rng(0))
    balance, matrix = colour_data(sensor)
    linear = (mosaic - 512.0) / 15871
    sites = {c: [] for c in "RGB"}
    for k, c in enumerate(cfa):
        sites[c].append(linear[k // 2 :: 2, k % 2 :: 2][4:-4, 4:-4].mean())
    rgb = matrix @ (np.array([np.mean(sites[c]) for c in "RGB"]) * balance)
    meant = objects.palette()[int(objects.label_of(*colour))]
    np.testing.assert_allclose(rgb / rgb[1], meant / meant[1], rtol=0.01)


# ---- the command


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(tmp_path):
    plans = [Plan(f"{k:05d}", seed=1, index=k, focal_mm=(50, 100), size=(64, 96)) for k in (1, 2)]
    for jobs in (1, 2):
        assert len(list(simulate_sequences(tmp_path / str(jobs), plans, jobs=jobs))) == 4
    for name in ("00001", "00002"):
        files = sorted(path.name for path in (tmp_path / "1" / name).iterdir())
        assert len(files) == 4
        _, differ, lacking = filecmp.cmpfiles(
            tmp_path / "1" / name, tmp_path / "2" / name, files, shallow=False
        )
        assert not differ
        assert not lacking
    first, second = (tmp_path / "1" / name / "00001.dng" for name in ("00001", "00002"))
    assert first.read_bytes() != second.read_bytes()
    assert not list((tmp_path / "1").glob(".*"))


def test_what_is_there_stays_and_more_can_be_added(tmp_path):
    def srraw(*arguments):
        options = ["simulate", "--out", str(tmp_path), "--size", "96x64", "--focal", "50,100"]
        return CliRunner().invoke(main, [*options, *arguments])

    planned = srraw("--count", "2", "--dry-run")
    assert "2 shots of 96x64" in planned.output
    assert not list(tmp_path.iterdir())
    assert srraw("--count", "1").exit_code == 0
    before = (tmp_path / "00001" / "00001.dng").stat().st_mtime_ns
    added = srraw("--count", "2", "--json")
    assert added.exit_code == 0
    assert [json.loads(line)["sequence"] for line in added.stdout.splitlines()] == ["00002"]
    assert (tmp_path / "00001" / "00001.dng").stat().st_mtime_ns == before
    other = srraw("--count", "1", "--seed", "8")
    assert other.exit_code == 2
    assert "never overwritten" in other.output
    assert (tmp_path / "00001" / "00001.dng").stat().st_mtime_ns == before


def test_senseless_requests_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for arguments in (
        ["--size", "1057x704"],
        ["--size", "large"],
        ["--focal", "24,24"],
        ["--focal", "2,24"],
        ["--cfa", "RGB"],
        ["--distortion", "0.5"],
        ["--fill-factor", "0"],
        ["--shift-px", "-1"],
        ["--scene", str(tmp_path / "missing.jpg")],
        ["--scene", str(tmp_path / "text.jpg"), "--size", "96x64", "--focal", "50,100"],
    ):
        result = CliRunner().invoke(main, ["simulate", "--out", str(tmp_path / "out"), *arguments])
        assert result.exit_code in (1, 2), arguments
        assert "Error" in result.output or "Failed" in result.output, arguments
        assert isinstance(result.exception, SystemExit), arguments
    assert not [path for path in (tmp_path / "out").glob("*") if not path.name.startswith(".")]
    simulate_sequence(tmp_path, name="a", focal_mm=(50, 100), size=(64, 96))
    with pytest.raises(UserError, match="never overwritten"):
        simulate_sequence(tmp_path, name="a", focal_mm=(50, 100), size=(64, 96))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "-1"])
@pytest.mark.parametrize("name", [*OPTICS_RANGES, *SENSOR_RANGES, "near_m", "seed"])
def test_a_number_out_of_its_range_is_named_and_nothing_is_begun(tmp_path, name, value):
    option = f"--{name.replace('_', '-')}"
    result = CliRunner().invoke(main, ["simulate", "--out", str(tmp_path / "out"), option, value])
    assert result.exit_code == 2, result.output
    assert option in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_every_range_holds_what_is_usual_and_what_is_the_default():
    for options, ranges in ((Optics(), OPTICS_RANGES), (Sensor(), SENSOR_RANGES)):
        numbers = {field.name for field in fields(options) if field.type in ("int", "float")}
        assert numbers - {"white_level"} == set(ranges)
        for name, (least, most, usual) in ranges.items():
            assert least <= usual <= most
            assert least <= getattr(options, name) <= most


def test_a_blur_that_takes_hours_is_refused(tmp_path):
    optics = Optics(near_m=(1.0,), depth_of_field=True, f_number=1.0)
    with pytest.raises(UserError, match="would blur by 435 pixels"):
        simulate_sequence(tmp_path, name="a", optics=optics)


def test_the_command_offers_every_physical_option_with_its_default():
    options = {option.name: option.default for option in main.commands["simulate"].params}
    for kind in (Optics, Sensor):
        for field in fields(kind):
            if field.name != "white_level":  # 14 bits
                assert options[field.name] == field.default, field.name


def test_every_option_together_still_makes_raws(tmp_path):
    optics = Optics(
        near_m=(30.0, 8.0),
        depth_of_field=True,
        diffraction=True,
        distortion=-0.03,
        vignetting_ev=1.0,
        drift_ev=0.2,
    )
    sensor = Sensor(cfa="GRBG", iso=800, aa_filter_px=0.6, fill_factor=0.8, crosstalk=0.1, black_level=256)
    simulate_sequence(tmp_path, name="a", focal_mm=(35, 150), size=SIZE, optics=optics, sensor=sensor)
    raw = read_raw(tmp_path / "a" / "00002.dng")
    assert (raw.cfa, raw.black_level) == ("GRBG", (256,) * 4)
    truth = read_truth(tmp_path / "a")
    assert truth["planes_m"] == [None, 30.0, 8.0]
    assert all(shot["k1"] != 0 for shot in truth["shots"])


def test_a_real_photograph_as_scene(tmp_path, shared_data):
    photo = sorted((shared_data / "photos").glob("*.jp*g"))[0]
    simulate_sequence(tmp_path, name="a", scene=photo, focal_mm=(35, 150), size=SIZE)
    raw = read_raw(tmp_path / "a" / "00001.dng")
    assert np.mean(raw.mosaic >= raw.white_level) < 0.05
    assert raw.mosaic.std() > 100


def test_a_scene_holds_the_chosen_objects_only(monkeypatch) -> None:
    drawn = set()
    for kind in objects.KINDS:
        monkeypatch.setitem(objects.KINDS, kind, (lambda *_, kind=kind: drawn.add(kind), 0.5))
    objects.far_objects(np.random.default_rng(4), (0.5, 0.4), 0.001, ("hill", "sign"))
    assert drawn == {"hill", "sign"}
