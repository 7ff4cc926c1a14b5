"""Imported counts are those of the frames, at their place on the panel."""

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.benches import bench_of, describe, frames_of, written

from pcctlearn.bench.importer import import_bench, import_frames, write_imported
from pcctlearn.bench.sums import Dark, Summed
from pcctlearn.calibration.plate_file import plate_faults, read_plates
from pcctlearn.scans.file import faults, read_scan

GAP = slice(20, 23)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The description of a bench without dark counts or drift."""
    return written(tmp_path_factory.mktemp("bench"))


def live(values, axis=-1):
    """The columns of the panel that are not in the gap."""
    columns = torch.tensor([*range(20), *range(23, 43)])
    return values.index_select(axis, columns).numpy()


def test_counts_behind_plates_are_the_sums_of_the_frames(clean):
    plates = import_bench(clean).plates.plates
    air = sum(frames_of(clean, name).sum(0, dtype=np.int64) for name in ("air_before", "air_after"))
    each = [air, *(frames_of(clean, f"plate_{i}").sum(0, dtype=np.int64) for i in (1, 2, 3, 4))]
    found = live(plates.counts[:, 0].movedim(-1, 1))
    np.testing.assert_array_equal(found, np.stack(each))
    assert import_bench(clean).plates.time_s.tolist() == [1.0, 0.5, 0.5, 0.5, 0.5]
    assert plates.plates_cm[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    # two exposures of air were added: twice the frames, twice the exposure
    torch.testing.assert_close(plates.exposure, torch.tensor([2.0, 1, 1, 1, 1]) * 5 / 6)


def test_counts_of_a_view_are_the_sums_of_its_frames_in_bins(clean):
    scan = import_bench(clean).scan
    above = frames_of(clean, "scan").reshape(36, 3, 2, 40).sum(1, dtype=np.int64)
    bins = np.stack([above[:, 0] - above[:, 1], above[:, 1]])
    np.testing.assert_array_equal(live(scan.counts[:, :, 0]), bins)
    assert scan.exposure.tolist() == [1.0] * 36
    assert scan.view_s == pytest.approx(3 * 0.005)


def test_the_gap_moves_columns_to_where_the_geometry_has_them(clean):
    """Nominal pixels see the known line integrals in their place, and nowhere else."""
    flawless = bench_of(errors=replace(bench_of().errors, wave_cm=0.0, range_cm=(0.0, 0.0)))
    truth = flawless.line_integrals()
    scan = import_bench(clean).scan
    assert scan.geometry.n_columns == 43
    assert scan.counts[..., GAP].isnan().all()
    assert scan.air[..., GAP].isnan().all()
    assert not scan.counts[..., :20].isnan().any()
    torch.testing.assert_close(scan.line_integrals, truth.float())
    measured = -(scan.counts.sum(0) / scan.air.sum(0)[None]).log()[:, 0]
    expected = truth.sum(0)[:, 0].float()
    right = measured[:, 23:].flatten(), expected[:, 23:].flatten()
    shifted = measured[:, 23:].flatten(), expected[:, 20:40].flatten()
    assert torch.corrcoef(torch.stack(right))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack(shifted))[0, 1] < 0.99
    np.testing.assert_allclose(scan.geometry.angles_rad, flawless.geometry.angles_rad, atol=1e-7)


def test_a_panel_of_several_rows_is_a_cone_beam(clean, tmp_path):
    """Each row twice, and a row missing between the two."""
    for name in ("air_before", "air_after", "scan"):
        for index, keV in enumerate((40, 60)):
            rows = frames_of(clean, name)[:, index, None].repeat(2, 1)
            np.save(tmp_path / f"{name}_{keV}keV.npy", rows)
        shutil.copy(clean.parent / f"{name}.csv", tmp_path)
    for name in ("spectrum.txt", "response.npz", "bench.yaml"):
        shutil.copy(clean.parent / name, tmp_path)

    def change(node):
        for key in ("plates", "dark"):
            node.pop(key)
        node["detector"] = {"n_rows": 2, "n_columns": 40, "missing_columns": {20: 3}}
        node["detector"]["missing_rows"] = {1: 1}
        for each in (*node["air"], node["scan"]):
            each["frames"] = [name.replace(".raw", ".npy") for name in each["frames"]]
        node["scan"]["geometry"]["beam"] = "cone"
        del node["scan"]["known_object"], node["scan"]["grid"]

    describe(tmp_path / "bench.yaml", change)
    imported = import_bench(tmp_path / "bench.yaml")
    scan, line = imported.scan, import_bench(clean).scan
    assert scan.geometry.shape == (36, 3, 43)
    assert scan.counts[:, :, 1].isnan().all()
    for row in (0, 2):
        torch.testing.assert_close(scan.counts[:, :, row], line.counts[:, :, 0], equal_nan=True)
    write_imported(tmp_path / "out", imported)
    assert faults(tmp_path / "out/scan.h5") == []


def test_written_files_are_valid_and_replace_earlier_ones(clean, tmp_path):
    imported = import_bench(clean)
    for _ in range(2):
        assert write_imported(tmp_path / "out", imported) == [
            tmp_path / "out/plates.h5",
            tmp_path / "out/scan.h5",
        ]
    assert plate_faults(tmp_path / "out/plates.h5") == []
    assert faults(tmp_path / "out/scan.h5") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plates.h5", "scan.h5"]
    plates = read_plates(tmp_path / "out/plates.h5").plates
    assert plates.flags["dead"].nonzero().tolist() == [[0, 20], [0, 21], [0, 22]]
    scan = read_scan(tmp_path / "out/scan.h5")
    assert torch.equal(
        scan.at("counts").isnan().any(0).any(0)[0].nonzero()[:, 0], torch.tensor([20, 21, 22])
    )


def test_nothing_is_left_if_a_file_cannot_be_valid(clean, tmp_path):
    imported = import_bench(clean)
    scan = imported.scan
    wrong = replace(imported, scan=replace(scan, counts=scan.counts * 10))
    write_imported(tmp_path / "out", imported)
    before = (tmp_path / "out/scan.h5").read_bytes()
    with pytest.raises(ValueError, match=r"bench\.yaml: scan: counts exceed air"):
        write_imported(tmp_path / "out", wrong)
    assert (tmp_path / "out/scan.h5").read_bytes() == before
    with pytest.raises(ValueError, match=r"bench\.yaml: scan: "):
        write_imported(tmp_path / "new", wrong)
    assert not (tmp_path / "new").exists()


def test_faults_found_on_writing_are_those_of_the_description(clean, tmp_path):
    plates = import_bench(clean).plates
    in_mm = replace(plates.plates, plates_cm=10 * plates.plates.plates_cm)
    wrong = replace(import_bench(clean), plates=replace(plates, plates=in_mm))
    with pytest.raises(ValueError, match=r"bench\.yaml: plates: thickness_cm fit .* in mm"):
        write_imported(tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()


def test_a_drift_that_the_monitor_sees_changes_the_noise_only(tmp_path):
    """Counts over air and exposure are those of a tube that is stable."""
    drifting = written(tmp_path / "a", bench_of(drift=0.1))
    scan = import_bench(drifting).scan
    assert scan.exposure.min() < 0.92
    assert scan.exposure.max() > 1.08
    stable = import_bench(written(tmp_path / "b")).scan
    ratio = [
        s.counts[..., :20].sum(0) / s.air[..., :20].sum(0) / s.exposure[:, None, None]
        for s in (scan, stable)
    ]
    photons = torch.stack([s.counts[..., :20].sum(0) for s in (scan, stable)])
    z = (ratio[0] / ratio[1]).log() / (1 / photons).sum(0).sqrt()
    assert z.mean().abs() < 4 * z.numel() ** -0.5
    assert z.std() < 1.1  # both are drawn from one seed, which makes them alike


def test_dark_counts_are_subtracted_without_bias(tmp_path):
    """Net counts of weakly noisy pixels are those without dark counts, but for noise."""
    bench, without = bench_of(n_dark=400), bench_of(n_dark=400)
    bench._dark[0, ::4] = 10.0
    file = written(tmp_path / "noisy", bench)
    imported, reference = import_bench(file), import_bench(written(tmp_path / "clean", without))
    assert not imported.flags.kinds["noisy"].any()
    net, true = (
        live(each.plates.plates.counts[:, 0], -2)[..., 0] for each in (imported, reference)
    )
    raw = np.stack([frames_of(file, f"plate_{i}").sum(0) for i in (1, 2, 3, 4)])[:, 0, ::4]
    for counts, subtracted in ((net[1:, ::4], True), (raw.astype(float), False)):
        z = (counts - true[1:, ::4]) / np.sqrt(2 * true[1:, ::4])
        assert (abs(z.mean()) < 3 / np.sqrt(z.size)) == subtracted
    bins = [each.scan.counts[..., :20:4].sum(1) for each in (imported, reference)]
    z = (bins[0] - bins[1]) / (2 * bins[1]).sqrt()
    assert z.mean().abs() < 4 * z.numel() ** -0.5


def test_few_dark_frames_make_a_pixel_noisy():
    """Variance S + n² D/n_d² of net counts: 1000 + 100² · 2/10² of a net of 980."""
    summed = Summed(np.full((1, 1, 1), 1000), 100, 100.0, np.zeros((1, 1), bool))
    for n_dark, counts, noisy in ((10, 2, True), (100, 20, False)):
        net, found = Dark(np.full((1, 1, 1), counts), n_dark).subtracted(summed)
        assert net.item() == 980
        assert found.item() == noisy


def test_noisy_saturated_and_masked_pixels_are_dead_everywhere(tmp_path):
    bench = bench_of()
    bench._dark[0, 3], bench._dark[0, 5] = 1e4, 1e6
    bench.dead[0, 8] = True
    imported = import_bench(written(tmp_path, bench))
    kinds = {kind: found[0].nonzero()[0].tolist() for kind, found in imported.flags.kinds.items()}
    assert kinds == {"in gaps": [20, 21, 22], "masked": [8], "saturated": [5], "noisy": [3]}
    assert str(imported.flags).startswith("6 of 43 pixels are dead (3 in gaps, 1 masked")
    flags = imported.plates.plates.flags
    assert flags["saturated"][0].nonzero()[:, 0].tolist() == [5]
    assert flags["dead"][0].nonzero()[:, 0].tolist() == [3, 8, 20, 21, 22]
    for values in (imported.scan.counts, imported.scan.air[:, None]):
        nan = values.isnan().all(0).all(0)[0].nonzero()[:, 0].tolist()
        assert nan == [3, 5, 8, 20, 21, 22]


def test_air_that_the_monitor_does_not_explain_is_a_warning(clean, tmp_path):
    assert import_bench(clean).doubts == ()
    file = written(tmp_path)
    rows = (tmp_path / "air_after.csv").read_text().splitlines()
    halved = [rows[0], *(f"{1.03 * float(row):g}" for row in rows[1:])]
    (tmp_path / "air_after.csv").write_text("\n".join(halved))
    (doubt,) = import_bench(file).doubts
    assert "air differs by 2.9" in doubt


def test_plates_or_a_scan_alone_are_imported(clean, tmp_path):
    for missing, left in (("scan", "plates.h5"), ("plates", "scan.h5")):
        file = clean.with_name(f"without_{missing}.yaml")
        file.write_text(clean.read_text())
        describe(file, lambda node, missing=missing: node.pop(missing))
        folder = tmp_path / missing
        assert write_imported(folder, import_bench(file)) == [folder / left]


def test_air_at_several_currents_is_a_current_series(clean, tmp_path):
    file = clean.with_name("currents.yaml")
    file.write_text(clean.read_text())
    frames = [["plate_4", "plate_3", "plate_2", "plate_1"][i] for i in range(4)]

    def change(node):
        node["currents"] = [
            {"current_mA": 1.0 + i, "frames": [f"{name}_{keV}keV.raw" for keV in (40, 60)]}
            for i, name in enumerate(frames)
        ]

    describe(file, change)
    paths = write_imported(tmp_path, import_bench(file))
    assert tmp_path / "series.h5" in paths
    with h5py.File(tmp_path / "series.h5") as series:
        assert series["current_mA"][()].tolist() == [1.0, 2.0, 3.0, 4.0]
        assert series["time_s"][()] == pytest.approx(0.5)
        counts = series["counts"][0, :, 0, :20]
    np.testing.assert_array_equal(counts, frames_of(file, "plate_4").sum(0)[:, :20])


def test_folders_with_spaces_are_quoted_in_the_next_commands(clean, tmp_path, capsys):
    import_frames([str(clean), str(tmp_path / "a b")])
    assert f"calibrate.py 'counts={tmp_path}/a b/plates.h5'" in capsys.readouterr().out


def test_the_command_says_what_to_do_next(clean, tmp_path, capsys):
    import_frames([str(clean), str(tmp_path)])
    said = capsys.readouterr().out
    assert f"next: python calibrate.py counts={tmp_path}/plates.h5" in said
    # three of 43 columns are more than evaluate.py accepts by itself
    assert "max_dead_share=0.08" in said
