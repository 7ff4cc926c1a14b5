"""Check that the results of a finished run meet their limits and that its outputs exist."""

import json
import sys
from pathlib import Path

AT_MOST = {
    "thresholds_slabs": {
        "threshold_error_after_max_keV": 1e-3,
        "water_rmse_after_cm": 1e-3,
        "calcium_rmse_after_cm": 1e-3,
    },
    "thresholds_phantom": {
        "threshold_error_after_max_keV": 5e-3,
        "scan_vmi60_rmse_after_over_before": 0.03,
    },
    "cone_reconstruction": {
        "fdk_rmse_HU": 130,
        "os_sart_rmse_HU": 115,
        "fista_tv_rmse_in_soft_tissue_HU": 25,
    },
    "decomposition_cost": {
        **{
            f"{name}_largest_error_g_cm2": 1e-4
            for name in ("exact", "newton", "nelder_mead", "scipy")
        },
        "implicit_memory_growth_percent": 5,
    },
    "scatter_cross_domain": {
        "spr_percent_over_uncorrected": 0.3,
        "vmi60_rmse_HU_over_uncorrected": 0.45,
        "val_loss_over_untrained": 0.9,
    },
    "evaluated": {"vmi60_rmse_HU_over_uncorrected": 0.4},
    "calibrated": {
        "uncalibrated_pixels": 0,
        "threshold_error_rms_keV": 0.01,
        "slab_after_sd_40keV": 5e-4,
        "slab_after_sd_60keV": 3e-4,
    },
    "heads": {"spr_most": 0.16, "scatter_relative_error_most": 0.041},
}


def main() -> None:
    """Exit with a list of missing outputs and of results above their limits."""
    folder = Path(sys.argv[1])
    numbers = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    faults = [
        f"{name} is {numbers[name]:g}, above its limit of {limit:g}"
        for name, limit in AT_MOST[folder.name].items()
        if not numbers[name] <= limit
    ]
    outputs = ["arrays.h5", "report.html", "figures"]
    if folder.name == "heads":
        outputs += ["scans/head_00000.h5", "scans/head_00001.h5"]
    elif folder.name == "evaluated":
        volumes = ("water.nii.gz", "calcium.nii.gz", "vmi_60keV.nii.gz", "projections.h5")
        outputs += [f"head_00001/{name}" for name in volumes]
    elif folder.name == "calibrated":
        outputs.append("pixel_model.h5")
    else:
        outputs += ["wandb", ".hydra"]
    if folder.name.startswith("scatter"):
        outputs.append("checkpoints")  # of a trained network
    faults += [f"{name} is missing" for name in outputs if not (folder / name).exists()]
    if faults:
        sys.exit("\n".join(faults))
    print(f"{folder.name}: all results within their limits")


if __name__ == "__main__":
    main()
