"""A distance of the means over small regions, in which noise averages out."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d


class RegionMeans(nn.Module):
    """distance(means of predicted, means of target) over cubes (squares) of voxels or pixels.

    Scatter is smooth, and reconstruction makes noise of high spatial frequencies: their ratio
    rises with the size of the regions until these are as large as what scatter varies over.
    Voxels beyond the last whole region are left out.

    Args:
        distance: of two tensors.
        size: of a region along every axis, in voxels.
        n_axes: 3 for volumes, 2 for panels and slices.
    """

    def __init__(self, distance: nn.Module, size: int = 8, n_axes: int = 3) -> None:
        super().__init__()
        if size < 1 or n_axes not in (2, 3):
            raise ValueError(
                f"size must be 1 or more, and n_axes 2 or 3, got {size} and {n_axes}: use size=8 "
                "n_axes=3"
            )
        self.distance, self.size, self.n_axes = distance, size, n_axes

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The distance of two tensors (…, *voxel)."""
        return self.distance(self._means(predicted), self._means(target))

    def _means(self, values: Tensor) -> Tensor:
        if min(values.shape[-self.n_axes :]) < self.size:
            least = min(values.shape[-self.n_axes :])
            raise ValueError(
                f"regions of {self.size} do not fit into an axis of {least}: use size={least} or "
                "less"
            )
        images = values.flatten(0, -1 - self.n_axes)[:, None]
        pool = avg_pool3d if self.n_axes == 3 else avg_pool2d
        return pool(images, self.size)
