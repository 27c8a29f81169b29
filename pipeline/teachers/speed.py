"""Images per second of a teacher, and the memory that they need."""

import time

import torch

from pipeline.teachers.encoding import find_batch_size
from pipeline.teachers.teacher import Teacher

SECONDS = 2.0
"""Shortest time of a measurement."""


def images_per_second(teacher: Teacher, device: str) -> tuple[float, int]:
    """Views of the teacher's own size per second, with cells and without decoding, and the size of the batches."""
    side = teacher.input_size
    batch_size = find_batch_size(teacher.encode_views, (side, side), device)
    images = torch.randint(256, (batch_size, 3, side, side), dtype=torch.uint8)

    def encode() -> float:
        teacher.encode_views(images).images.cpu()  # waits for the device
        return time.perf_counter()

    start = end = encode()  # the first call prepares kernels
    calls = 0
    while not calls or end - start < SECONDS:
        end = encode()
        calls += 1
    return calls * batch_size / (end - start), batch_size
