"""Whether the known line integrals of a phantom lie where its shadow does in the counts."""

from collections.abc import Iterator, Sequence

from jaxtyping import Bool, Float
from torch import Tensor

_SHADOW = 0.2  # of −ln of the transmission, that of a centimeter of water
_LEAST_OVERLAP = 0.9  # of both shadows, as their intersection over their union
_MATCHES = 0.95

Above = Float[Tensor, "pixel exposure threshold"]
Projection = Float[Tensor, "view row column"]


def require_overlap(
    counts: Above, expected: Above, usable: Bool[Tensor, "pixel"], shape: Sequence[int]
) -> None:
    """Raise ValueError unless the shadows of the counts are those of the line integrals.

    The message names the order of views, rows or columns with which they would be.

    Args:
        counts: measured above the thresholds; exposure 0 is air, the others are the views.
        expected: of nominal pixels behind the line integrals.
        usable: pixels whose counts can be compared.
        shape: (view, row, column).
    """
    measured, known = (_projection(above, shape) for above in (counts, expected))
    seen = usable.reshape(1, *shape[1:]).expand_as(measured) & measured.isfinite()
    overlap = _overlap(measured, known, seen)
    if overlap >= _LEAST_OVERLAP:
        return
    nearest, remedy = min(
        _orders(known), key=lambda pair: float((pair[0] - measured)[seen].square().sum())
    )
    best = _overlap(measured, nearest, seen)
    what = (
        f"the line integrals do not lie where the counts show the phantom: their shadows overlap "
        f"by {100 * overlap:.0f} % (intersection over union)"
    )
    if best >= max(_MATCHES, overlap + 0.02):
        raise ValueError(f"{what}, and by {100 * best:.0f} % with line_integrals = {remedy}")
    raise ValueError(
        f"{what}: compute line_integrals of the phantom where it stood, view by view, with the "
        "geometry of the scan"
    )


def _projection(above: Above, shape: Sequence[int]) -> Projection:
    """−ln of the transmission above the lowest threshold."""
    p = (above[:, :1, 0] / above[:, 1:, 0]).log()
    return p.T.reshape(tuple(shape))


def _overlap(
    measured: Projection, known: Projection, seen: Bool[Tensor, "view row column"]
) -> float:
    one, other = (measured > _SHADOW) & seen, (known > _SHADOW) & seen
    return float((one & other).sum()) / max(1, int((one | other).sum()))


def _orders(known: Projection) -> Iterator[tuple[Projection, str]]:
    """The projections with views, rows or columns in other orders, and numpy code that does it."""
    for flips, index in (
        ((), ""), ((0,), "[:, ::-1]"), ((1,), "[:, :, ::-1]"), ((2,), "[..., ::-1]"),
    ):  # fmt: skip
        flipped = known.flip(flips)
        if index:
            yield flipped, f"line_integrals{index}"
        for views in range(1, len(known)):
            yield flipped.roll(views, 0), f"numpy.roll(line_integrals{index}, {views}, axis=1)"
