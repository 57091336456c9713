from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from energynets.cli.bars import Bars
from energynets.cli.main import run
from energynets.errors import DataError
from energynets.examples.face_completion import (
    FILE,
    Direction,
    Faces,
    PrincipalComponents,
    Split,
    best_ridge,
    completion,
    error,
    halves,
    join,
    main,
    read_images,
    ridge,
    split_faces,
    train,
)
from energynets.inference import MirrorDescent, infer


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Image n is all n / 400, but for its top left pixel."""
    images = (torch.arange(400.0) / 400)[:, None, None].repeat(1, 64, 64)
    images[:, 0, 0] = 1
    return images


def small_faces() -> Faces:
    """A hidden half that the visible one says, noisily, along three directions."""
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(120, 3, generator=generator)
    halves = [(code @ torch.randn(3, width, generator=generator)) / 10 for width in (30, 20)]
    visible, hidden = (half + 0.02 * torch.randn(half.shape, generator=generator) for half in halves)
    return Faces(visible[:100], hidden[:100], visible[100:], hidden[100:])


def test_halves_are_what_they_say_and_join_again(images):
    images = images + torch.arange(4096).view(64, 64) / 1e4
    visible, hidden = halves(images, Direction.LOWER)
    assert torch.equal(visible[7].view(32, 64), images[7, :32])
    assert torch.equal(join(visible, hidden, Direction.LOWER), images)
    visible, hidden = halves(images, Direction.LEFT)
    assert torch.equal(visible[7].view(64, 32), images[7, :, 32:])
    assert torch.equal(join(visible, hidden, Direction.LEFT), images)


@pytest.mark.parametrize(("split", "trained", "scored"), [("test", 350, (350, 400)), ("validation", 300, (300, 350))])
@pytest.mark.parametrize("direction", Direction)
def test_nobody_is_trained_on_and_scored(images, split, trained, scored, direction):
    faces = split_faces(images, direction, Split(split))
    number = lambda half: sorted({round(400 * value) for value in half[:, -1].tolist()})  # noqa: E731
    assert number(faces.visible) == number(faces.hidden) == list(range(trained))
    assert number(faces.new_visible) == number(faces.new_hidden) == list(range(*scored))
    assert len(faces.visible) == trained * (2 if direction is Direction.LOWER else 1)  # mirrored


def test_ridge_is_the_regularised_least_squares_solution():
    faces = small_faces()
    x, y = faces.visible - faces.visible.mean(0), faces.hidden - faces.hidden.mean(0)
    weights = torch.linalg.solve(x.T @ x + 0.5 * torch.eye(30), x.T @ y)
    expected = (faces.new_visible - faces.visible.mean(0)) @ weights + faces.hidden.mean(0)
    torch.testing.assert_close(ridge(faces, 0.5), expected, rtol=1e-4, atol=1e-5)


def test_components_are_uncorrelated_and_largest_first():
    faces = small_faces()
    f = PrincipalComponents(faces.visible, 5)(faces.visible)
    covariance = f.T @ f / len(f)
    torch.testing.assert_close(covariance, covariance.diag().diag(), rtol=0, atol=1e-4)
    assert covariance[0, 0].sqrt().item() == pytest.approx(3, abs=1e-3)
    assert (covariance.diag().diff() < 0).all()


def test_it_starts_at_the_mean_face_and_learns_below_it_and_stays_convex():
    torch.manual_seed(0)
    faces = small_faces()
    mean = error(faces.hidden.mean(0), faces.new_hidden)
    model = completion(faces, measurements=8, steps=3, num_features=5)
    assert torch.equal(
        completion(faces, measurements=8, steps=0, num_features=5)(faces.new_visible)[0], faces.hidden.mean(0)
    )
    train(model, faces, updates=300, seed=0, name="", bars=Bars(quiet=True))
    assert error(model(faces.new_visible).detach(), faces.new_hidden) < 0.5 * mean
    assert all((weight >= 0).all() for weight in model.energy.head.weights())
    context = model.energy.condition(model.compute_features(faces.new_visible))
    starts = (faces.new_hidden, torch.randn(20, 20))
    minima = [infer(model.energy, context, solver=MirrorDescent(200, step_size=0.3), initial=z).y for z in starts]
    torch.testing.assert_close(minima[0], minima[1], rtol=0, atol=1e-4)


def test_gradients_reach_all_that_is_to_be_learned():
    faces = small_faces()
    model = completion(faces, measurements=8, steps=3, num_features=5)
    model(faces.visible).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_real_faces_stand_upright(data_root):
    """As the usual reader of the set shows them: image 0, scaled by the extremes of all."""
    raw = read_images(data_root)
    scaled = (raw - raw.min()) / (raw.max() - raw.min())
    torch.testing.assert_close(scaled[0, 0, :3], torch.tensor([0.30991736, 0.3677686, 0.41735536]))
    torch.testing.assert_close(scaled[0, -1, -3:], torch.tensor([0.15289256, 0.16115703, 0.1570248]))


@pytest.mark.parametrize("direction", Direction)
def test_real_faces_are_completed_better_than_by_the_mean_face(data_root, direction):
    torch.manual_seed(0)
    images = read_images(data_root)
    faces = split_faces(images, direction, Split.VALIDATION)
    model = completion(faces, measurements=16, steps=3)
    train(model, faces, updates=120, seed=0, name="", bars=Bars(quiet=True))
    found = error(model.infer(faces.new_visible).y, faces.new_hidden)
    mean = error(faces.hidden.mean(0), faces.new_hidden)
    linear = error(ridge(faces, best_ridge(images, direction)), faces.new_hidden)
    assert linear < 0.65 * mean
    assert found < 0.8 * mean
    assert found < 1.25 * linear


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / FILE
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (4096, 400), dtype=np.uint8)
    scipy.io.savemat(path, {"faces": noise})
    return tmp_path


@pytest.mark.parametrize("direction", Direction)
def test_the_command_prints_every_line_and_draws(folder, capsys, direction):
    pytest.importorskip("matplotlib")
    picture = folder / "faces.png"
    options = [
        "--data",
        str(folder),
        "--direction",
        direction.value,
        "--updates",
        "1",
        "--measurements",
        "4",
        "--steps",
        "1",
    ]
    assert run(main, "face_completion", [*options, "--out", str(picture), "--quiet"]) == 0
    out, errors = capsys.readouterr()
    for line in ("mean face", "ridge regression", "without the energy", "energy, 1 steps", "written"):
        assert line in out
    assert errors == ""
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_missing_or_wrong_file_is_told_in_one_line(folder, tmp_path, capsys):
    (folder / FILE).write_bytes(b"no matrix" * 100)
    assert run(main, "face_completion", ["--data", str(folder)]) == 2
    assert "expected a MATLAB file" in capsys.readouterr().err
    scipy.io.savemat(folder / FILE, {"faces": np.zeros((10, 4))})
    with pytest.raises(DataError, match="expected faces of 4096 x 400 pixels, got 10 x 4"):
        read_images(folder)
    assert run(main, "face_completion", ["--data", str(folder / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
