"""Face completion: the hidden half of a face from the visible one, by an input-convex energy over its pixels.

y is the hidden half, 2,048 real numbers: the `Euclidean` domain. f is the visible half in its principal components, and

    E(y; x) = -<U f + u0, y> + h(A y + C f) + |y|^2 / 2

with h convex, so that E has one minimum. It starts as linear regression (h near 0: y = U f + u0), and U, A, C, h and
the step sizes train through T unrolled steps on the squared error of y. The components stay as they are: with 350
faces, training them too made the error of held-out people larger (880 to 895 against 849 to 860).

The sizes below were chosen with `--split validation`, which trains on people 1 to 30 and is scored on 31 to 35; the
test people, 36 to 40, chose nothing. Errors are mean squared errors of a pixel, 0 to 255. For the left half from the
right one, Amos et al. report 833.0 (ICNN, bundle entropy) and 795.4 (a convolutional network without an energy).

Source: Amos, Xu & Kolter, Input Convex Neural Networks (2017), section 6.2; faces: AT&T Laboratories Cambridge.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor, nn

from energynets.cli.bars import Bars
from energynets.cli.main import run
from energynets.cli.options import Quiet
from energynets.data.load import find_file
from energynets.energies import ICNN, ConvexHead, Euclidean
from energynets.errors import DataError, MissingExtraError
from energynets.inference import MirrorDescent
from energynets.models import EnergyNetwork
from energynets.objectives import LOSSES

FILE = "olivetti-faces/olivettifaces.mat"
PIXEL = 255.0
SIDE = 64


class Direction(Enum):
    """Which half is hidden."""

    LOWER = "lower"
    LEFT = "left"


class Split(Enum):
    """Who is scored."""

    TEST = "test"
    VALIDATION = "validation"


class Faces(NamedTuple):
    """Visible and hidden halves, each (N, 2048) in [0, 1]: of training, and of the people who are scored."""

    visible: Tensor
    hidden: Tensor
    new_visible: Tensor
    new_hidden: Tensor


def read_images(root: Path | None = None) -> Tensor:
    """The 400 images, (400, 64, 64) in [0, 1], ten of a person in a row.

    Raises:
        DataError: the file is missing, or not that of the faces.
    """
    import scipy.io

    path = find_file(FILE, root)
    try:
        columns = scipy.io.loadmat(path)["faces"]
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{path}: expected a MATLAB file with the variable 'faces', got {error}") from None
    if columns.shape != (SIDE * SIDE, 400):
        raise DataError(
            f"{path}: expected faces of {SIDE * SIDE} x 400 pixels, got {' x '.join(map(str, columns.shape))}"
        )
    # a column is an image, and an image stands column by column
    return torch.from_numpy(columns.T.reshape(-1, SIDE, SIDE).transpose(0, 2, 1) / PIXEL).float()


def halves(images: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """Visible and hidden half of images (N, 64, 64), (N, 2048) each."""
    if direction is Direction.LOWER:
        return images[:, : SIDE // 2].flatten(1), images[:, SIDE // 2 :].flatten(1)
    return images[:, :, SIDE // 2 :].flatten(1), images[:, :, : SIDE // 2].flatten(1)


def split_faces(images: Tensor, direction: Direction, split: Split) -> Faces:
    """35 people to train on and the last 5 to test; or, without these, 30 and 5. Mirrored faces are trained on too."""
    end = len(images) if split is Split.TEST else len(images) - 50
    train, new = images[: end - 50], images[end - 50 : end]
    if direction is Direction.LOWER:  # mirrored, a right half would be a left one
        train = torch.cat((train, train.flip(2)))
    return Faces(*halves(train, direction), *halves(new, direction))


def error(predicted: Tensor, hidden: Tensor) -> float:
    """Mean squared error of a pixel, 0 to 255."""
    return PIXEL**2 * (predicted - hidden).square().mean().item()


# ------------------------------------------------------------------------------------------------- without an energy


def ridge(faces: Faces, strength: float) -> Tensor:
    """Linear regression of the hidden on the visible half, min |Y - X W|^2 + strength |W|^2: (N, 2048)."""
    centre, mean = faces.visible.mean(0), faces.hidden.mean(0)
    centred = (faces.visible - centre).double()
    gram = centred @ centred.T
    dual = torch.linalg.solve(gram + strength * torch.eye(len(gram)), (faces.hidden - mean).double())
    return ((faces.new_visible - centre).double() @ centred.T @ dual).float() + mean


def best_ridge(images: Tensor, direction: Direction) -> float:
    """The strength with the smallest error on the validation people."""
    faces = split_faces(images, direction, Split.VALIDATION)
    strengths = [10.0**power for power in (0.5, 1, 1.5, 2, 2.5, 3)]
    return min(strengths, key=lambda strength: error(ridge(faces, strength), faces.new_hidden))


# ---------------------------------------------------------------------------------------------------------- the energy


class PrincipalComponents(nn.Module):
    """f = V^T (x - mean) / s, the largest of f's entries with standard deviation 3: (B, D) -> (B, F).

    Args:
        examples: (N, D), what V and the mean are of.
        num_features: F <= min(N, D).
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, examples: Tensor, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        mean = examples.mean(0)
        _, singular, directions = torch.linalg.svd(examples - mean, full_matrices=False)
        scale = singular[0] / math.sqrt(len(examples)) / 3
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions[:num_features].T / scale)

    def forward(self, visible: Tensor) -> Tensor:
        return (visible - self.mean) @ self.directions


def completion(faces: Faces, *, measurements: int, steps: int, num_features: int = 100) -> EnergyNetwork:
    """The network; with 0 steps it is the same one without its energy, y = U f + u0."""
    features = PrincipalComponents(faces.visible, num_features)
    widths = (measurements // 2, measurements - measurements // 2)
    energy = ICNN(num_features, faces.hidden.shape[1], hidden=widths, condition_measurements=True, domain=Euclidean())
    with torch.no_grad():
        # It starts at the mean face, with measurements of about 1: y has 2,048 entries, not the few of a label set.
        energy.unary.weight.zero_()
        energy.unary.bias.copy_(faces.hidden.mean(0))
        energy.measure.mul_(0.1)
        energy.condition_weight.normal_(std=0.1)  # type: ignore[union-attr]
        head = energy.head
        assert isinstance(head, ConvexHead)
        head.output.mul_(10)
    solver = MirrorDescent(steps, step_size=0.5, learn_step_sizes=steps > 0)
    return EnergyNetwork(features, energy, solver)


def train(model: EnergyNetwork, faces: Faces, *, updates: int, seed: int, name: str, bars: Bars) -> None:
    """Squared error of y after T steps, differentiated through all of them; the rate falls along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1.0)
    generator = torch.Generator().manual_seed(seed)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 3e-4 * (1 + math.cos(math.pi * update / updates)) / 2
        rows = torch.randint(len(faces.visible), (50,), generator=generator)
        loss = LOSSES["mse"](model(faces.visible[rows]), faces.hidden[rows], model.domain)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.project()
        bars.show(name, update + 1, updates, f"loss {loss:.1f}")


def join(visible: Tensor, hidden: Tensor, direction: Direction) -> Tensor:
    """Halves (N, 2048) back to images (N, 64, 64)."""
    if direction is Direction.LOWER:
        return torch.cat((visible, hidden), 1).unflatten(1, (SIDE, SIDE))
    return torch.cat([half.unflatten(1, (SIDE, SIDE // 2)) for half in (hidden, visible)], 2)


def draw(path: Path, faces: Faces, completed: Tensor, direction: Direction) -> None:
    """Every fifth of the images: visible half, completed, true."""
    from matplotlib.figure import Figure

    rows = {"visible": torch.zeros_like(completed), "completed": completed, "truth": faces.new_hidden}
    figure = Figure(figsize=(10, 3.3))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(rows), len(completed[::5]), squeeze=False)
    for line, (name, hidden) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, face in zip(line, join(faces.new_visible, hidden, direction)[::5], strict=True):
            axis.imshow(face.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


DataFolder = Annotated[
    Path | None,
    typer.Option(help="Default $ENERGYNETS_DATA, else ~/.cache/energynets.", show_default=False),
]


def main(
    data: Annotated[
        Path | None, typer.Option(help="Data folder; default $ENERGYNETS_DATA.", show_default=False)
    ] = None,
    direction: Annotated[Direction, typer.Option(help="The half that is hidden.")] = Direction.LOWER,
    split: Annotated[Split, typer.Option(help="The people who are scored.")] = Split.TEST,
    measurements: Annotated[int, typer.Option(min=2, help="K, in two convex layers.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="T, unrolled.")] = 5,
    updates: Annotated[int, typer.Option(min=1, help="Of 50 images each.")] = 200,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Write a picture of completions, PNG.", show_default=False)] = None,
    quiet: Quiet = False,
) -> None:
    """Learn to complete faces from one half, and compare with what needs no energy.

    Example: python -m energynets.examples.face_completion --out faces.png
    """
    if out is not None and importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report", "--out")
    images = read_images(data)
    faces = split_faces(images, direction, split)
    torch.manual_seed(seed)
    energy = completion(faces, measurements=measurements, steps=steps)
    network = completion(faces, measurements=measurements, steps=0)
    with Bars(quiet=quiet) as bars:
        train(network, faces, updates=updates, seed=seed, name="without energy", bars=bars)
        train(energy, faces, updates=updates, seed=seed, name="energy", bars=bars)
    strength = best_ridge(images, direction)
    result = energy.infer(faces.new_visible)
    answers = {
        "mean face": faces.hidden.mean(0),
        f"ridge regression, {strength:g}": ridge(faces, strength),
        "same network without the energy": network.infer(faces.new_visible).y,
        f"energy, {steps} steps": result.y,
    }
    typer.echo(f"{direction.value} half, {split.value}: mean squared error of a pixel, 0 to 255")
    for name, answer in answers.items():
        typer.echo(f"  {name:32}{error(answer, faces.new_hidden):9.1f}")
    start = energy.energy.initial_logits(energy.energy.condition(energy.compute_features(faces.new_visible)))
    assert start is not None
    typer.echo(f"the energy moves a pixel by {PIXEL * (result.y - start).detach().square().mean().sqrt():.1f} of 255")
    if out is not None:
        draw(out, faces, result.y, direction)
        typer.echo(f"written: {out}")


if __name__ == "__main__":
    sys.exit(run(main, "python -m energynets.examples.face_completion"))
