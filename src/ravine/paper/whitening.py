"""Preprocessing of images: contrast normalisation, then a whitening that keeps images (ZCA)."""

from __future__ import annotations

import torch
from torch import Tensor

#: Of github.com/lisa-lab/pylearn2 @ af81e5c, scripts/datasets/make_cifar10_gcn_whitened.py and
#: datasets/preprocessing.py (ZCA's filter_bias).
NORM = 55.0
BIAS = 0.1

#: Images; the sums are in float64, and all of them at once would not fit beside the images.
_AT_ONCE = 5_000


def contrast_normalised(images: Tensor) -> Tensor:
    """Each image with its own mean taken off and scaled to one norm: x ← 55 (x − x̄)/‖x − x̄‖.

    Args:
        images: (images, numbers), all channels of an image together.

    Returns:
        (images, numbers). An image of one colour becomes 0.

    Examples:
        >>> contrast_normalised(torch.tensor([[1.0, 3.0], [7.0, 7.0]]))
        tensor([[-38.8909,  38.8909],
                [  0.0000,   0.0000]])

    References:
        pylearn2, ``expr/preprocessing.py`` (global_contrast_normalize).
    """
    centred = images - images.mean(1, keepdim=True)
    norms = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / NORM
    return centred.div_(torch.where(norms < 1e-8, 1.0, norms))


def whitening(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean μ and matrix P of ZCA: (x − μ) P has the covariance C (C + 0.1)⁻¹, where C is that of x.

    P = E diag((λ + 0.1)^−½) Eᵀ with the eigenvectors E and eigenvalues λ of C: the symmetric root,
    so that a whitened image still looks like one. The 0.1 keeps directions with next to no
    variance, which are noise, small.

    Args:
        images: (images, numbers), contrast normalised: the training part.

    Returns:
        μ (numbers,) and P (numbers, numbers), float32; computed in float64.

    Examples:
        A direction of variance 9.9 is divided by √(9.9 + 0.1), one without any by √0.1.

        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) * 9.9**0.5
        >>> whitening(x)[1]
        tensor([[0.3162, 0.0000],
                [0.0000, 3.1623]])

    References:
        Krizhevsky and Hinton 2009, appendix A; pylearn2, ``datasets/preprocessing.py`` (ZCA).
    """
    count, width = images.shape
    mean = images.mean(0, dtype=torch.float64)
    covariance = BIAS * torch.eye(width, dtype=torch.float64)
    for some in images.split(_AT_ONCE):
        centred = some.to(torch.float64) - mean
        covariance.addmm_(centred.T, centred, alpha=1 / count)
    values, vectors = torch.linalg.eigh(covariance)
    return mean.to(torch.float32), ((vectors * values.rsqrt()) @ vectors.T).to(torch.float32)


def whitened(images: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """(x − μ) P, in place.

    Args:
        images: (images, numbers) float32; overwritten.
        mean: μ.
        matrix: P.

    Returns:
        The same tensor.
    """
    for some in images.split(_AT_ONCE):
        some.copy_((some - mean) @ matrix)
    return images
