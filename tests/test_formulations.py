"""The other formulations are their formulas, written out here in loops over all pairs."""

from __future__ import annotations

import math
from unittest.mock import patch as replaced

import pytest
import torch

from srraw_model import formulations
from srraw_model.cobi import contextual_bilateral_loss
from srraw_model.formulations import released_match

DISTANCES = ("cosine", "l2")


def maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def places(height, width):
    return [
        ((x + 0.5) / max(height, width), (y + 0.5) / max(height, width))
        for y in range(height)
        for x in range(width)
    ]


def feature_distance(p, q, mean, distance):
    if distance == "l2":
        return float((p - q).norm()) / math.sqrt(len(p))
    p, q = p - mean, q - mean
    return 1 - float(p @ q / (p.norm() * q.norm()))


def shares(row, least):
    nearest = min(row) + least
    weights = [math.exp((1 - far / nearest) / 0.5) for far in row]
    return [weight / sum(weights) for weight in weights]


def contextual(source, target, weight_spatial, distance):
    p, q = (values.flatten(1).T for values in (source, target))
    x, y = (places(*values.shape[1:]) for values in (source, target))
    rows = []
    for i in range(len(p)):
        far = [
            feature_distance(p[i], q[j], q.mean(0), distance) + weight_spatial * math.dist(x[i], y[j])
            for j in range(len(q))
        ]
        rows.append(shares(far, 1e-5))
    return -math.log(sum(max(row[j] for row in rows) for j in range(len(q))) / len(q))


def released_rows(source, target, weight, distance):
    """The similarities of every target (rows) to every prediction."""
    p, q = (values.flatten(1).T for values in (source, target))

    def grid(height, width):
        return [(255 * y / height, 255 * x / width) for y in range(height) for x in range(width)]

    x, y = (grid(*values.shape[1:]) for values in (source, target))
    rows = []
    for j in range(len(q)):
        if distance == "l2":
            far = [float((255 * (q[j] - p[i])).square().sum()) for i in range(len(p))]
        else:
            far = [feature_distance(q[j], p[i], p.mean(0), distance) / 2 for i in range(len(p))]
        near = shares([math.dist(y[j], x[i]) ** 2 for i in range(len(p))], 1e-3)
        rows.append([(1 - weight) * c + weight * s for c, s in zip(shares(far, 1e-3), near, strict=True)])
    return rows


def released(source, target, weight, distance):
    greatest = [max(column) for column in zip(*released_rows(source, target, weight, distance), strict=True)]
    return -math.log(sum(greatest) / len(greatest))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weight_spatial", [0, 0.1, 1])
@pytest.mark.parametrize("sizes", [((4, 5), (4, 5)), ((3, 4), (5, 2))])
@pytest.mark.parametrize(("name", "by_loops"), [("contextual", contextual), ("released", released)])
def test_the_loss_is_its_formula(name, by_loops, sizes, weight_spatial, distance):
    source, target = maps(*((2, 3, *size) for size in sizes))
    options = {"weight_spatial": weight_spatial, "distance": distance}
    expected = [by_loops(p, q, weight_spatial, distance) for p, q in zip(source, target, strict=True)]
    for elements in (1, 4_000_000):  # in strips of one row, and at once
        with replaced.object(formulations, "STRIP_ELEMENTS", elements):
            loss = contextual_bilateral_loss(source, target, formulation=name, **options)
        assert float(loss) == pytest.approx(sum(expected) / 2, rel=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ["contextual", "released"])
def test_gradients_are_those_of_finite_differences(name, distance):
    source, target = (0.3 * values for values in maps((1, 3, 3, 3), (1, 3, 3, 2), seed=4))
    if name == "released" and distance == "l2":
        source, target = source / 255, target / 255  # where its squares of 255 leave more than one match

    def loss(p, q):
        return contextual_bilateral_loss(p, q, formulation=name, distance=distance)

    assert torch.autograd.gradcheck(loss, (source.requires_grad_(), target.requires_grad_()))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ["contextual", "released"])
def test_constant_features_give_no_nan(name, distance):
    (other,) = maps((1, 3, 4, 4))
    constant = torch.full((1, 3, 4, 4), 0.3, dtype=torch.float64)
    for source, target in [(constant, constant), (other, constant), (constant, other)]:
        source = source.clone().requires_grad_()
        loss = contextual_bilateral_loss(source, target, formulation=name, distance=distance)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(source.grad).all()


def test_the_released_code_holds_an_unrelated_picture_for_no_worse_than_a_shifted_one():
    """At its weight of 0.5 everything matches its own place, whatever is there."""
    target, unrelated = maps((1, 8, 6, 6), (1, 8, 6, 6))

    def loss(picture, formulation):
        return float(contextual_bilateral_loss(picture, target, weight_spatial=0.5, formulation=formulation))

    shifted = target.roll(1, dims=3)
    assert loss(unrelated, "released") <= loss(shifted, "released") + 1e-9
    for formulation in ("paper", "contextual"):
        assert loss(unrelated, formulation) > 1.2 * loss(shifted, formulation)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("weight_spatial", [0, 0.1, 0.4])
def test_the_released_codes_matches_are_those_of_its_maximum(weight_spatial, distance):
    source, target = (values / 100 for values in maps((2, 3, 4, 5), (2, 3, 5, 3), seed=1))
    for elements in (1, 4_000_000):
        with replaced.object(formulations, "STRIP_ELEMENTS", elements):
            found = released_match(source, target, weight_spatial=weight_spatial, distance=distance)
        for index, p, q in zip(found, source, target, strict=True):
            rows = released_rows(p, q, weight_spatial, distance)
            for i, column in enumerate(zip(*rows, strict=True)):
                assert column[index[i]] == pytest.approx(max(column), rel=1e-9)


def test_from_a_weight_of_one_half_the_released_code_matches_everything_with_its_own_place():
    source, target = maps((1, 8, 6, 7), (1, 8, 6, 7))
    assert released_match(source, target, weight_spatial=0.5).tolist() == [list(range(42))]
    assert released_match(source, target, weight_spatial=0).tolist() != [list(range(42))]
