"""Material decomposition: counts to basis-material line integrals."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "base": ["Decomposition"],
        "beam_hardening": ["BeamHardening", "beam_hardening"],
        "bone_correction": ["BoneCorrection", "bone_correction"],
        "image_domain": ["ImageDomain", "ImageInverse"],
        "linearised": ["LinearisedDecomposition"],
        "lookup": ["LookupDecomposition"],
        "maximum_likelihood": ["MaximumLikelihood", "decompose"],
        "polynomial": ["PolynomialDecomposition"],
        "proxy": ["ProxyDecomposition"],
        "sensitivity": ["count_jacobian", "fisher_information", "cramer_rao_bound"],
    },
)
