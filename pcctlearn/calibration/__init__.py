"""Detector calibration through the decomposition layer."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "thresholds": ["calibrate_thresholds", "Calibration"],
        "gauss_newton": ["GaussNewton"],
        "base": ["Calibrator", "PixelCalibration", "ProjectionCorrection"],
        "calibration_set": ["CalibrationSet"],
        "pixel_model": ["PixelModel"],
        "plate_file": ["PlateRecord", "read_plates", "write_plates"],
        "pixel_model_file": ["read_pixel_model", "write_pixel_model"],
        "etb": ["EtbCal"],
        "direct_inversion": ["DirectInversion"],
        "sfr": ["Sfr"],
        "bct": ["Bct"],
        "layer_slabs": ["LayerSlabs"],
        "hybrid": ["Hybrid"],
        "self_calibration": ["SelfCalibration"],
        "water_slab": ["WaterSlab"],
        "material_correction": ["MaterialCorrection", "material_correction"],
    },
)
