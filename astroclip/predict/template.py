"""Redshifts from templates: every redshift of every class is fitted, all at once, by Fourier transforms.

Spectra and templates lie on one grid of log10 wavelength, where a redshift is a shift. At each shift the
best mix of templates and low polynomials follows from normal equations, and all entries of these are
cross-correlations of the spectrum's inverse variance, and of its inverse variance times flux, with templates
and with their products (the idea of Glazebrook, Offer & Deeley 1998, ApJ 492, 98, with weights).

Shapes: B spectra of a batch, N pixels of the grid, K shifts, m templates of a class, q polynomials.
"""

import itertools
from collections.abc import Sequence
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroclip.data.pixels import Spectra
from astroclip.data.redrock import RedrockTemplate, read_redrock_template
from astroclip.errors import DataError
from astroclip.schema import TemplateFlag

STEP = 1e-4  # of log10 wavelength: 69 km/s
FIRST, LAST = 35563, 39922  # places on the grid of 3600 and 9824 Å
N_PIXELS = LAST - FIRST + 1
POLYNOMIALS = 3
FAR_KMS = 1000.0  # a second minimum is farther away than this
LIGHT_KMS = 299_792.458
CLASSES = ("GALAXY", "QSO", "STAR")
RANGES = {"GALAXY": (-0.005, 1.7), "QSO": (0.05, 4.0), "STAR": (-1000 / LIGHT_KMS, 1000 / LIGHT_KMS)}
SMALL_GAIN, SMALL_GAP = 30.0, 15.0  # chi2; of the mock's blank fibres none reaches a gap of 12
ERROR_SCALE, ERROR_FLOOR = 1.6, 1.2e-5  # of chi2's own errors: 68 % then hold 68 % of the mock's redshifts
BATCH = 8
PIVOT = 1e-3  # of a row in the normal equations: what the rows before it leave, before rounding counts
LINE_PIXELS = 12  # on either side of a line: 830 km/s
_SHIPPED = "templates.npz"


class TemplateFit(NamedTuple):
    """What templates say of n spectra, (n,) each.

    Attributes
    ----------
    redshift, error
        Of the best fit; NaN without a good pixel.
    deltachi2
        How much worse the best fit is that lies farther than 1000 km/s away, over all classes.
    spectype
        GALAXY, QSO, STAR; NONE where nothing fits better than a polynomial.
    flag
        Bits of `TemplateFlag`.
    """

    redshift: NDArray[np.float64]
    error: NDArray[np.float64]
    deltachi2: NDArray[np.float64]
    spectype: NDArray[np.str_]
    flag: NDArray[np.int32]


class TemplateSet:
    """The templates of one class on the grid.

    Parameters
    ----------
    spectype
        One of `CLASSES`.
    vectors
        (m, M) flux densities in the rest frame; the first M value is at place `first` of the grid, and
        templates that end early are 0 there.
    first
        Place on the grid of log10 wavelength, in steps.
    alone
        Whether each template is fitted by itself, as stars are, and not a mix of them.
    """

    def __init__(self, spectype: str, vectors: NDArray, first: int, *, alone: bool) -> None:
        low, high = (round(np.log10(1 + z) / STEP) for z in RANGES[spectype])
        need = FIRST - high, LAST - low + 1  # the rest frame that some shift needs
        kept = np.zeros((len(vectors), need[1] - need[0]))
        a, b = max(first, need[0]), min(first + vectors.shape[1], need[1])
        kept[:, a - need[0] : b - need[0]] = vectors[:, a - first : b - first]
        kept /= np.sqrt((kept**2).mean(axis=1, keepdims=True))
        self.spectype, self.alone = spectype, alone
        self.vectors = torch.from_numpy(kept.astype(np.float32))
        self.redshift = 10 ** (np.arange(low, high + 1) * STEP) - 1
        self.shifts = torch.arange(high - low, -1, -1)  # of the templates' first value, by redshift

    @cached_property
    def length(self) -> int:
        """Of the Fourier transforms: nothing that is used wraps around."""
        return 1 << (self.vectors.shape[1] - 1).bit_length()

    @cached_property
    def transforms(self) -> tuple[Tensor, Tensor]:
        """Transforms of the templates (m, ...) and of their products (m (m + 1) / 2, ...)."""
        pairs = list(itertools.combinations_with_replacement(range(len(self.vectors)), 2))
        products = torch.stack([self.vectors[i] * self.vectors[j] for i, j in pairs])
        return torch.fft.rfft(self.vectors, self.length), torch.fft.rfft(products, self.length)

    @cached_property
    def shifted(self) -> Tensor:
        """All templates at all shifts, (m K, N): for the few shifts of stars."""
        windows = self.vectors.unfold(1, N_PIXELS, 1)[:, self.shifts]
        return windows.reshape(-1, N_PIXELS).contiguous()


def fit_templates(
    spectra: Spectra, templates: Sequence[TemplateSet] | None = None, device: str = "cpu"
) -> TemplateFit:
    """Fit templates of galaxies, quasars and stars at all redshifts.

    Parameters
    ----------
    spectra
        On any grid that covers a part of 3600 to 9824 Å; bad pixels (ivar 0) are left out.
    templates
        By default those that ship, see `load_templates`.
    device
        Where torch computes.

    Returns
    -------
    TemplateFit
        A spectrum without a good pixel is flagged, with NaN.
    """
    chosen = load_templates() if templates is None else templates
    weight, weighted = rebin_spectra(spectra)
    weighted = _without_polynomials(weight, weighted)
    parts = [
        _fit_batch(weight[i : i + BATCH].to(device), weighted[i : i + BATCH].to(device), chosen)
        for i in range(0, len(weight), BATCH)
    ]
    empty = TemplateFit(*(np.zeros(0),) * 3, np.zeros(0, "U6"), np.zeros(0, np.int32))
    return TemplateFit(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else empty


def rebin_spectra(spectra: Spectra) -> tuple[Tensor, Tensor]:
    """Return the inverse variance, and it times the flux, in the bins of the grid: (n, N) float32 each."""
    place = np.rint(np.log10(spectra.wave) / STEP) - FIRST
    inside = (place >= 0) & (place < N_PIXELS)
    place = np.where(inside, place, 0).astype(np.int64)
    ivar = np.where(inside & spectra.good, spectra.ivar, 0).astype(np.float32)
    index = torch.from_numpy(np.broadcast_to(place, ivar.shape).copy())
    sums = [torch.zeros(len(ivar), N_PIXELS).scatter_add_(1, index, torch.from_numpy(values))
            for values in (ivar, ivar * np.where(ivar > 0, spectra.flux, 0).astype(np.float32))]  # fmt: skip
    return sums[0], sums[1]


@cache
def load_templates(folder: str | Path | None = None) -> tuple[TemplateSet, ...]:
    """Return the templates that ship, made by ``python -m astroclip.mock.template_vectors``, or a user's own.

    Parameters
    ----------
    folder
        Of files as Redrock has them: HDU BASIS_VECTORS (m, W) with CRVAL1, CDELT1, LOGLAM and RRTYPE. Several
        files of one class are tried one by one.

    Raises
    ------
    DataError
        If there are no templates in it, or one cannot be read.
    """
    if folder is not None:
        found = [read_redrock_template(path) for path in sorted(Path(folder).glob("*.fits*"))]
        if not found:
            raise DataError(f"{folder}: no templates, expected files such as rrtemplate-galaxy.fits")
        if unknown := {one.spectype for one in found} - set(CLASSES):
            raise DataError(
                f"{folder}: templates of class {', '.join(unknown)}, expected {', '.join(CLASSES)}"
            )
        return tuple(_to_grid(one) for one in found)
    with np.load(str(files("astroclip.predict") / _SHIPPED)) as stored:
        return tuple(
            TemplateSet(kind, stored[kind].astype(float), int(stored[f"{kind}_first"]), alone=kind == "STAR")
            for kind in CLASSES
        )


def _to_grid(template: RedrockTemplate) -> TemplateSet:
    """Return a user's templates on the grid."""
    first, last = (np.log10(template.wave[[0, -1]]) / STEP).tolist()
    places = np.arange(int(np.ceil(first)), int(last) + 1)
    vectors = np.stack([np.interp(10 ** (places * STEP), template.wave, one) for one in template.vectors])
    return TemplateSet(template.spectype, vectors, int(places[0]), alone=False)


def _polynomials(like: Tensor) -> Tensor:
    """Return Legendre polynomials over the pixels, (q, N)."""
    x = torch.linspace(-1, 1, N_PIXELS, device=like.device)
    return torch.stack([torch.ones_like(x), x, 1.5 * x**2 - 0.5][:POLYNOMIALS])


def _without_polynomials(weight: Tensor, weighted: Tensor) -> Tensor:
    """Return the weighted flux less its own best polynomial: what is left keeps its digits in sums."""
    polynomials = _polynomials(weight).double()
    wide = weight.double()
    square = torch.einsum("bn,pn,qn->bpq", wide, polynomials, polynomials)
    right = weighted.double() @ polynomials.T
    found = torch.linalg.lstsq(square + 1e-12 * torch.eye(len(polynomials)), right[..., None]).solution
    return weighted - (wide * (found[..., 0] @ polynomials)).float()


def _fit_batch(weight: Tensor, weighted: Tensor, templates: Sequence[TemplateSet]) -> TemplateFit:
    """Fit all classes to (B, N) spectra and compare them."""
    gains = [
        (_gain_alone if one.alone else _gain_mixed)(weight, weighted, one).cpu().numpy() for one in templates
    ]
    best = np.stack([gain.max(axis=1) for gain in gains], axis=1)  # (B, classes)
    which = best.argmax(axis=1)
    rows = np.arange(len(which))
    columns = [_minimum(gain[rows[which == i]], templates[i]) for i, gain in enumerate(gains)]
    redshift, error, edge = (np.zeros(len(which)) for _ in range(3))
    for i, (z, dz, at_edge) in enumerate(columns):
        mine = which == i
        redshift[mine], error[mine], edge[mine] = z, dz, at_edge
    rival = np.full(len(which), -np.inf)
    for gain, one in zip(gains, templates, strict=True):
        far = np.abs(np.log((1 + one.redshift) / (1 + redshift[:, None]))) > FAR_KMS / LIGHT_KMS
        rival = np.maximum(rival, np.where(far, gain, -np.inf).max(axis=1))
    top = best[rows, which]
    gap = top - np.maximum(rival, 0)
    seen = weight.cpu().numpy() > 0
    nothing = ~seen.any(axis=1)
    flag = np.where(nothing | (top < SMALL_GAIN), TemplateFlag.NO_SIGNAL, 0)
    flag |= np.where(gap < SMALL_GAP, TemplateFlag.SMALL_GAP, 0)
    flag |= np.where(edge > 0, TemplateFlag.EDGE_OF_RANGE, 0)
    for i, one in enumerate(templates):
        mine = np.flatnonzero((which == i) & ~nothing)
        at = torch.from_numpy(gains[i][mine].argmax(axis=1))
        flag[mine] |= np.where(
            _hangs_on_a_line(weight[mine], weighted[mine], one, at), TemplateFlag.SINGLE_LINE, 0
        )
    flag |= np.where(seen.mean(axis=1) < 0.9, TemplateFlag.PARTIAL_COVERAGE, 0)
    kind = np.where(top < SMALL_GAIN, "NONE", np.array([one.spectype for one in templates])[which])
    redshift[nothing] = error[nothing] = gap[nothing] = np.nan
    flag[nothing] = TemplateFlag.NO_SIGNAL
    return TemplateFit(redshift, error, gap, kind, flag.astype(np.int32))


def _minimum(gain: NDArray, one: TemplateSet) -> tuple[NDArray, NDArray, NDArray]:
    """Return redshift, its error, and whether it is at the edge, by a parabola through the best three."""
    k = gain.argmax(axis=1)
    inner = np.clip(k, 1, gain.shape[1] - 2)
    rows = np.arange(len(k))
    left, middle, right = (gain[rows, inner + d].astype(float) for d in (-1, 0, 1))
    curvature = np.minimum(left - 2 * middle + right, -1e-6)
    step = np.clip(-(right - left) / (2 * curvature), -1, 1)
    z = 10 ** (np.log10(1 + one.redshift[inner]) + step * STEP) - 1
    error = np.hypot(ERROR_SCALE * np.log(10) * STEP * np.sqrt(2 / -curvature), ERROR_FLOOR)
    return z, (1 + z) * error, k != inner


def _gain_mixed(weight: Tensor, weighted: Tensor, one: TemplateSet) -> Tensor:
    """Return how much chi2 the best mix of templates gains over polynomials at each redshift, (B, K)."""
    polynomials = _polynomials(weight)
    single, products = (part.to(weight.device) for part in one.transforms)
    m, q = len(single), len(polynomials)
    series = torch.stack([weighted, *(weight * p for p in polynomials)], dim=1)  # (B, 1 + q, N)
    spectrum = torch.fft.rfft(series, one.length).conj()
    reach = len(one.shifts)

    def correlate(transform: Tensor) -> Tensor:
        return torch.fft.irfft(transform, one.length)[..., :reach].flip(-1)

    of_data = correlate(spectrum[:, :1] * single)  # (B, m, K)
    of_polynomials = correlate(spectrum[:, 1:, None] * single)  # (B, q, m, K)
    squares = correlate(spectrum[:, 1:2] * products)  # (B, m (m + 1) / 2, K)
    matrix, right = _polynomial_part(weight, weighted, polynomials)
    for i in range(m):
        right.append(of_data[:, i])
        for p in range(q):
            matrix[q + i, p] = of_polynomials[:, p, i]
    for at, (i, j) in enumerate(itertools.combinations_with_replacement(range(m), 2)):
        matrix[q + j, q + i] = squares[:, at]
    return _eliminate(matrix, right, q)


def _gain_alone(weight: Tensor, weighted: Tensor, one: TemplateSet) -> Tensor:
    """Return how much chi2 the best single template gains over polynomials at each redshift, (B, K)."""
    polynomials = _polynomials(weight)
    shifted = one.shifted.to(weight.device)
    matrix, right = _polynomial_part(weight, weighted, polynomials)
    q = len(polynomials)
    right.append(weighted @ shifted.T)
    matrix[q, q] = weight @ (shifted**2).T
    for p in range(q):
        matrix[q, p] = (weight * polynomials[p]) @ shifted.T
    gain = _eliminate(matrix, right, q)
    return gain.reshape(len(weight), len(one.vectors), -1).amax(dim=1)


def _hangs_on_a_line(weight: Tensor, weighted: Tensor, one: TemplateSet, at: Tensor) -> NDArray[np.bool_]:
    """Say of fits at redshifts `at` (B,) whether nothing is left of them without their strongest pixels."""
    if one.alone or not len(at):
        return np.zeros(len(at), bool)
    places = one.shifts[at][:, None] + torch.arange(N_PIXELS)
    design = one.vectors[:, places].transpose(0, 1).double().to(weight.device)  # (B, m, N)
    polynomials = _polynomials(weight).double().expand(len(at), -1, -1)
    design = torch.cat([polynomials, design], dim=1)
    wide, right = weight.double(), weighted.double()
    shape = (_solve(design, wide, right)[0][:, None, POLYNOMIALS:] @ design[:, POLYNOMIALS:])[:, 0]
    strongest = (shape.abs() * wide.sqrt()).argmax(dim=1, keepdim=True)
    kept = (torch.arange(N_PIXELS, device=weight.device) - strongest).abs() > LINE_PIXELS
    left = _solve(design, wide * kept, right * kept)[1]
    return (left < SMALL_GAIN).cpu().numpy()


def _solve(design: Tensor, weight: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients of a design (B, q + m, N), and the gain over its first rows, polynomials."""
    matrix = torch.einsum("bin,bn,bjn->bij", design, weight, design)
    right = torch.einsum("bin,bn->bi", design, weighted)
    scale = matrix.diagonal(dim1=1, dim2=2).clamp(min=1e-20).rsqrt()
    matrix = matrix * scale[:, :, None] * scale[:, None] + PIVOT * torch.eye(matrix.shape[1]).to(matrix)
    found = torch.linalg.solve(matrix, right * scale)
    q = POLYNOMIALS
    alone = torch.linalg.solve(matrix[:, :q, :q], (right * scale)[:, :q])
    gain = (found * right * scale).sum(1) - (alone * (right * scale)[:, :q]).sum(1)
    return found * scale, gain


Matrix = dict[tuple[int, int], Tensor]


def _polynomial_part(weight: Tensor, weighted: Tensor, polynomials: Tensor) -> tuple[Matrix, list[Tensor]]:
    """Return the entries (B, 1) of the normal equations that hold polynomials alone."""
    square = torch.einsum("bn,pn,qn->bpq", weight, polynomials, polynomials)
    matrix = {(i, j): square[:, i, j, None] for i in range(len(polynomials)) for j in range(i + 1)}
    right = list((weighted @ polynomials.T)[:, :, None].unbind(1))
    return matrix, right


def _eliminate(matrix: Matrix, right: list[Tensor], skipped: int) -> Tensor:
    """Return b A^-1 b of a lower triangle and its right side, less what the first `skipped` rows gain."""
    # Cholesky's method row by row, each entry a vector over spectra and shifts. A row that the ones before it
    # explain (a template outside of the spectrum) gains nothing.
    low: Matrix = {}
    gain = torch.zeros_like(right[-1])
    solved: list[Tensor] = []
    for i in range(len(right)):
        value, diagonal = right[i], matrix[i, i]
        for j in range(i):
            entry = matrix[i, j]
            for k in range(j):
                entry = entry - low[i, k] * low[j, k]
            low[i, j] = entry * low[j, j]  # low[j, j] holds 1 / sqrt of the pivot
            value = value - low[i, j] * solved[j]
            diagonal = diagonal - low[i, j] ** 2
        usable = diagonal > PIVOT * matrix[i, i].clamp(min=1e-20)
        low[i, i] = torch.where(usable, diagonal.clamp(min=1e-20).rsqrt(), torch.zeros_like(diagonal))
        solved.append(value * low[i, i])
        if i >= skipped:
            gain = gain + solved[i] ** 2
    return gain
