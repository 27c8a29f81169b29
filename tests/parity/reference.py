"""The steps of the authors' code as plain, slow loops.

Nothing of this package is imported.
"""

import math

import numpy as np
from PIL import Image

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resized(path, side):
    """The whole photo resized by Pillow's bilinear filter, uint8 [side, side, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))


def imagenet_normalised(pixels):
    """[H, W, 3] in [0, 255] to float64 [3, H, W]."""
    return np.stack([(pixels[..., c] / 255.0 - MEAN[c]) / STD[c] for c in range(3)])


def softmax(row):
    powers = [math.exp(x - max(row)) for x in row]
    return np.array([p / sum(powers) for p in powers])


def entropy(row):
    return -sum(p * math.log(p + 1e-10) for p in row)


def bias(rows):
    """Mean top probability of the classes over the rows of at most 2 nats; NaN for a class that is never top-1."""
    tops = [[] for _ in rows[0]]
    for row in rows:
        if entropy(row) <= 2:
            tops[int(np.argmax(row))].append(max(row))
    return np.array([np.mean(top) if top else math.nan for top in tops])


def initial_label(row, biases, floor):
    return np.array([min(max(max(p, floor) / b, 0), 1) for p, b in zip(row, biases, strict=True)])


def boosted(cams, factor):
    """[C, h, w]."""
    return np.array([[[factor * x if x > 0 else x for x in line] for line in cam] for cam in cams])


def searched_tau(scores, bound, start=0.05, step=0.001):
    """Scores [N, C] of the augmented images in the order in which they come."""
    tau, mean_count = start, 0.0
    for index, row in enumerate(scores):
        mean_count += sum(float(score) >= tau for score in row) / 100
        if index % 100 == 0 and index > 0:
            if bound < mean_count < bound + 2:
                break
            tau += step
            mean_count = 0.0
    return tau


def upsampled(cam, side):
    """[h, w] to [side, side], bilinear between centres of cells, edges repeated."""
    return bilinear(cam[None], (side, side))[0]


def bilinear(maps, size):
    """[K, h, w] to [K, *size], not antialiased."""
    height, width = maps.shape[1:]
    out = np.zeros((len(maps), *size))
    for i in range(size[0]):
        y = max((i + 0.5) * height / size[0] - 0.5, 0)
        top = min(int(y), height - 1)
        bottom, dy = min(top + 1, height - 1), y - top
        x = np.maximum((np.arange(size[1]) + 0.5) * width / size[1] - 0.5, 0)
        left = np.minimum(x.astype(int), width - 1)
        right, dx = np.minimum(left + 1, width - 1), x - left
        upper = maps[:, top, left] * (1 - dx) + maps[:, top, right] * dx
        lower = maps[:, bottom, left] * (1 - dx) + maps[:, bottom, right] * dx
        out[:, i] = upper * (1 - dy) + lower * dy
    return out


def corner_box(cam, side, offset):
    """xyxy between the first and the last pixel above 0.95, moved outwards and clipped."""
    cam = upsampled(cam, side)
    cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-5)
    above = [(y, x) for y in range(side) for x in range(side) if cam[y, x] > 0.95]
    (y1, x1), (y2, x2) = above[0], above[-1]
    return (
        max(min(x1, x2) - offset, 0),
        max(min(y1, y2) - offset, 0),
        min(max(x1, x2) + offset, side),
        min(max(y1, y2) + offset, side),
    )


def crop_sides(box, long_side):
    """(H, W): int(side * long side / longer side), in the float32 of a tensor's division."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = np.float32(1) / np.float32(max(width, height)) * np.float32(long_side)
    return int(np.float32(height) * scale), int(np.float32(width) * scale)


def fused_label(initial, crops, biases, floor, ratio):
    """Crops [K, C]; none is a row of zeros."""
    local = [max([0.0, *(crop[c] for crop in crops)]) for c in range(len(initial))]
    local = [max(q, floor) / b for q, b in zip(local, biases, strict=True)]
    return np.array([min(max(ratio * y + (1 - ratio) * q, 0), 1) for y, q in zip(initial, local, strict=True)])


def kept_epoch(curve):
    """Index from 0 of the epoch whose weights are kept, of a curve that begins with the warm-up; None if none is."""
    rise = previous_rise = 100
    for epoch, value in enumerate(curve):
        if epoch:
            rise = value - curve[epoch - 1]
        if rise - previous_rise > 0:
            return epoch
        previous_rise = rise
    return None


def loss(logits, targets, weights, second_logits):
    """Mean weighted BCE of the first view and mean BCE of the second against the first's scores."""

    def bce(z, y):
        p = 1 / (1 + math.exp(-z))
        return -(y * math.log(p) + (1 - y) * math.log(1 - p))

    first, second = [], []
    for z_row, y_row, w, other in zip(logits, targets, weights, second_logits, strict=True):
        for z, y, z2 in zip(z_row, y_row, other, strict=True):
            first.append(w * bce(z, y))
            second.append(bce(z2, 1 / (1 + math.exp(-z))))
    return sum(first) / len(first), sum(second) / len(second)
