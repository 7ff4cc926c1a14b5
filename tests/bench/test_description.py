"""What is wrong with a bench is one sentence that names file and key, and a remedy."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from support.benches import bench_of, describe, written
from support.documents import code_blocks
from support.studies import REPOSITORY

from pcctlearn.bench.description import _DETECTOR, _SCAN, _TOP, read_bench
from pcctlearn.bench.importer import import_bench


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return written(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def file(made, tmp_path):
    """The description of a bench, whose files may be changed."""
    shutil.copytree(made.parent, tmp_path / "bench")
    return tmp_path / "bench/bench.yaml"


def moved(*path, to):
    """Rename a key."""

    def change(node):
        *parents, last = path
        for parent in parents:
            node = node[parent]
        node[to] = node.pop(last)

    return change


def put(*path, value):
    """Change the value of a key."""

    def change(node):
        *parents, last = path
        for parent in parents:
            node = node[parent]
        node[last] = value

    return change


def without(*path):
    def change(node):
        *parents, last = path
        for parent in parents:
            node = node[parent]
        del node[last]

    return change


DESCRIBED = {
    "misspelt": (moved("thresholds_keV", to="threshold_keV"), "threshold_keV.*did you mean thr"),
    "misspelt below": (moved("detector", "n_rows", to="rows"), r"detector\.rows.*mean n_rows"),
    "misspelt exposure": (moved("air", 1, "log", to="logs"), r"air\[1\]\.logs.*mean log"),
    "no thresholds": (without("thresholds_keV"), "thresholds_keV is missing: list"),
    "falling": (put("thresholds_keV", value=[60, 40]), r"increase, got \[60, 40\]"),
    "no detector": (without("detector"), "detector must have the keys n_rows, n_columns"),
    "columns": (put("detector", "n_columns", value="x"), r"detector\.n_columns must be a whole"),
    "gap beyond": (
        put("detector", "missing_columns", value={40: 3}),
        r"detector\.missing_columns has a gap after 40.*write \{20: 3\}",
    ),
    "gap": (put("detector", "missing_columns", value=[3]), r"missing_columns must be pairs.*\{20"),
    "bits": (put("detector", "counter_bits", value=64), r"counter_bits must be 32"),
    "dtype": (put("raw", "dtype", value="float32"), r"raw\.dtype must be one of uint8.*float32"),
    "no thickness": (
        without("plates", 1, "thickness_cm"),
        r"plates\[1\]\.thickness_cm is missing: write \{aluminium: 0\.5\}",
    ),
    "negative": (
        put("plates", 0, "thickness_cm", value={"aluminium": -1}),
        r"plates\[0\]\.thickness_cm\.aluminium must be a positive number, got -1",
    ),
    "alloy": (
        put("plates", 0, "thickness_cm", value={"alu": 1}),
        r"plates\[0\]\.thickness_cm\.alu cannot be used",
    ),
    "no log": (without("plates", 0, "log"), r"plates\[0\]\.log is missing: name a CSV"),
    "no list": (put("plates", value={"frames": "a.raw"}), "plates must be a list.*hyphen"),
    "no air": (without("air"), "air is missing: list"),
    "nothing": (lambda node: (node.pop("plates"), node.pop("scan")), "no plates, scan or currents"),
    "per view": (put("scan", "frames_per_view", value=5), "108 frames, no multiple of.*: 5"),
    "beam": (put("scan", "geometry", "beam", value="spiral"), r"scan\.geometry\.beam.*cone, fan"),
    "geometry": (put("scan", "geometry", "n_views", value=36), r"geometry\.n_views is unknown"),
    "length in words": (
        put("scan", "geometry", "pixel_cm", value="8 mm"),
        r"scan\.geometry\.pixel_cm must be a number, got '8 mm'",
    ),
    "no phantom": (put("scan", "known_object", "file", value="no.npz"), r"no file .*no\.npz"),
    "other phantom": (
        put("scan", "known_object", "materials", value=["water"]),
        r"line_integrals have the shape \(2, 36, 1, 43\), expected \(1, 36, 1, 43\)",
    ),
    "lacks": (without("scan", "geometry", "pixel_cm"), r"scan\.geometry: .*pixel_cm"),
    "one file twice": (
        put("scan", "frames", value=["scan_40keV.raw"] * 2),
        r"scan lists scan_40keV\.raw twice",
    ),
    "huge": (put("detector", "n_columns", value=10**12), "detector describes 10.* pixels.*n_rows"),
    "metres of plate": (
        put("plates", 0, "thickness_cm", value={"aluminium": 1e5}),
        r"thickness_cm\.aluminium must be 100 cm at most",
    ),
    "arc": (
        put("scan", "geometry", "arc_rad", value=3.2),
        r"arc_rad and the angles of .*scan\.csv",
    ),
    "grid": (put("scan", "grid", "n_z", value=4), r"scan\.grid: FanBeam measures one slice"),
    "voxels": (put("scan", "grid", value={"n_x": 3}), r"scan\.grid: .*give n_z, n_y"),
    "response": (put("response", value="cdte"), r"response at .*cdte"),
    "spectrum": (put("spectrum", value="no.txt"), r"no spectrum table at .*no\.txt"),
    "thresholds": (put("thresholds_keV", value=[40, 160]), "thresholds_keV.*not all within"),
    "mask": (put("detector", "mask", value="no.npy"), r"detector\.mask.*no\.npy"),
    "rows": (
        put("detector", "n_rows", value=2),
        r"mask\.npy has the shape \(1, 40\).*a raw frame \(2, 40\)",
    ),
    "exchanged": (
        lambda node: node["dark"].update(frames=node["air"][0]["frames"]),
        r"dark \(air_before_40keV\.raw.*exchange the files of dark and air",
    ),
    "threshold order": (
        lambda node: node["scan"]["frames"].reverse(),
        r"scan \(scan_60keV\.raw, scan_40keV\.raw\): 40 of 40 pixels count more above 60 keV",
    ),
    "threshold order of air": (
        lambda node: node["air"][0]["frames"].reverse(),
        r"air\[0\].*count more above 60 keV than above 40 keV.*lowest threshold to the highest",
    ),
    "shallow": (
        put("detector", "counter_bits", value=12),
        r"reached 4095, the limit of their counters: measure with less.*counter_bits",
    ),
    "currents": (
        put("currents", value=[{"frames": ["plate_1_40keV.raw", "plate_1_60keV.raw"]}]),
        r"currents\[0\]\.current_mA is missing",
    ),
}


@pytest.mark.parametrize("case", DESCRIBED)
def test_a_wrong_description_is_refused(case, file):
    change, words = DESCRIBED[case]
    describe(file, change)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as found:
        import_bench(file)
    assert str(file) in str(found.value)
    assert "\n" not in str(found.value)


def rows_of(path, change):
    rows = path.read_text().splitlines()
    change(rows)
    path.write_text("\n".join(rows) + "\n")


LOGGED = {
    "short": (lambda rows: rows.pop(), r"plates\[0\]\.log: .*plate_1\.csv has 99 rows for 100"),
    "zero": (
        lambda rows: rows.__setitem__(3, "0"),
        r"monitor reading of 0 in frame 2: was the beam off\?",
    ),
    "words": (lambda rows: rows.__setitem__(3, "off"), "'off' as monitor of frame 2"),
    "outlier": (lambda rows: rows.__setitem__(3, "1e6"), r"reading of 1e\+06 in frame 2, and"),
    "decimal comma": (lambda rows: rows.__setitem__(3, "9,5"), "2 cells in the row of frame 2"),
    "no column": (lambda rows: rows.__setitem__(0, "charge"), "column monitor.*has charge"),
}


@pytest.mark.parametrize("case", LOGGED)
def test_a_wrong_log_is_refused(case, file):
    change, words = LOGGED[case]
    rows_of(file.parent / "plate_1.csv", change)
    with pytest.raises(ValueError, match=words):
        import_bench(file)


ANGLES = {
    "radians": (lambda i, deg: np.radians(deg), "in degrees, not in radians"),
    "unsorted": (
        lambda i, deg: deg + 40.0 * (i % 3),
        "between the frames of view 0.*frames_per_view",
    ),
}


@pytest.mark.parametrize("case", ANGLES)
def test_impossible_angles_are_refused(case, file):
    change, words = ANGLES[case]

    def altered(rows):
        cells = [row.split(",") for row in rows[1:]]
        rows[1:] = [f"{m},{change(i, float(deg))}" for i, (m, deg) in enumerate(cells)]

    rows_of(file.parent / "scan.csv", altered)
    with pytest.raises(ValueError, match=words):
        import_bench(file)


def test_a_log_without_angles_needs_an_arc(file):
    def renamed(rows):
        rows[0] = "monitor,angle"

    rows_of(file.parent / "scan.csv", renamed)
    with pytest.raises(ValueError, match=r"scan\.csv has no column angle_deg.*arc_rad: 6\.2832"):
        import_bench(file)
    describe(file, put("scan", "geometry", "arc_rad", value=6.2832))
    assert import_bench(file).scan.geometry.arc_rad == 6.2832


def test_a_mask_that_marks_the_good_pixels_is_refused(file):
    np.save(file.parent / "mask.npy", np.ones((1, 40), np.uint8))
    with pytest.raises(ValueError, match=r"detector\.mask .* marks 40 of 40 pixels.*others by 0"):
        import_bench(file)


def test_a_key_that_is_there_twice_is_refused(file):
    file.write_text(file.read_text() + "frame_s: 0.01\n")
    with pytest.raises(ValueError, match=r"bench\.yaml has the key frame_s twice"):
        read_bench(file)


def test_logs_and_frames_are_checked_before_frames_are_read(file, monkeypatch):
    monkeypatch.setattr("pcctlearn.bench.sums.Reader.views", None)
    (file.parent / "plate_4_60keV.raw").unlink()
    with pytest.raises(FileNotFoundError, match=r"plates\[3\]: there is no file .*plate_4_60keV"):
        import_bench(file)


def test_a_mask_of_another_shape_is_refused(file):
    np.save(file.parent / "mask.npy", np.zeros((1, 39), np.uint8))
    with pytest.raises(ValueError, match=r"mask\.npy has the shape \(1, 39\).*\(1, 40\)"):
        import_bench(file)


def test_negative_counts_are_refused_unless_they_are_masked(file):
    for keV in (40, 60):
        path = file.parent / f"plate_1_{keV}keV.raw"
        counts = np.fromfile(path, "<u2").reshape(-1, 1, 40).astype(np.int32)
        counts[:, 0, 7] = -1
        np.save(path.with_suffix(".npy"), counts)
    describe(file, put("plates", 0, "frames", value=["plate_1_40keV.npy", "plate_1_60keV.npy"]))
    with pytest.raises(ValueError, match=r"negative counts in 1 pixels.*\(0, 7\).*detector\.mask"):
        import_bench(file)
    mask = np.zeros((1, 40), np.uint8)
    mask[0, 7] = 1
    np.save(file.parent / "mask.npy", mask)
    assert import_bench(file).flags.kinds["masked"].sum() == 1


def test_a_description_is_data(file):
    file.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match=r"bench\.yaml is damaged or not a description"):
        read_bench(file)
    file.write_text("- a list")
    with pytest.raises(ValueError, match="must have the keys name"):
        read_bench(file)
    with pytest.raises(OSError, match=r"no\.yaml"):
        read_bench(file.with_name("no.yaml"))


def test_what_the_simulation_describes_is_what_it_made(made):
    bench = read_bench(made)
    assert bench.panel == bench_of().panel
    assert [plate.thickness_cm for plate in bench.plates] == [
        {"aluminium": cm} for cm in (0.5, 1.0, 1.5, 2.0)
    ]
    names = {path.name for each in bench.exposures for path in each.files}
    assert names == {path.name for path in made.parent.glob("*.raw")}


@pytest.mark.slow
def test_the_command_exits_with_2_and_leaves_nothing(file, tmp_path):
    node = yaml.safe_load(file.read_text())
    node["scan"]["log"] = "no.csv"
    file.write_text(yaml.safe_dump(node))
    done = subprocess.run(
        [sys.executable, "-m", "pcctlearn", "import", str(file), str(tmp_path / "out")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("pcctlearn: ")
    assert "scan.log: there is no file" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_description_of_the_page_can_be_read(tmp_path):
    page = (REPOSITORY / "docs/bench.md").read_text(encoding="utf-8")
    (block,) = code_blocks(page, "yaml")
    file = tmp_path / "bench.yaml"
    file.write_text(block)
    bench = read_bench(file)
    assert bench.panel.shape == (1, 914)
    assert bench.counter_bits == 16
    assert len(bench.plates) == 2


def test_the_page_lists_every_key():
    page = (REPOSITORY / "docs/bench.md").read_text(encoding="utf-8")
    keys = [*_TOP, *(f"detector.{key}" for key in _DETECTOR)]
    keys += [f"scan.{key}" for key in _SCAN if key not in ("frames", "log")]
    keys += ["raw.dtype", "raw.header_bytes", "thickness_cm", "current_mA", "frames", "log"]
    for key in keys:
        if key not in ("detector", "raw", "scan"):  # their keys are listed
            assert f"`{key}`" in page, key
