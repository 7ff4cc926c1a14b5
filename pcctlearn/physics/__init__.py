"""Spectral physics: attenuation, spectra, responses, thresholds, likelihood."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "spectral_model": ["SpectralModel", "expected_counts"],
        "spectrum": ["Spectrum"],
        "thresholds": ["Thresholds"],
        "attenuation": ["mass_attenuation"],
        "likelihood": ["poisson_likelihood"],
        "noise": ["draw_counts"],
        "vmi": ["MonoenergeticImages"],
    },
    ["response"],
)
