"""View sizes without pixels that a strided network would drop."""


def snapped_size(height: float, width: float, stride: int) -> tuple[int, int]:
    """(H, W) with both sides the nearest multiple of `stride`, at least one stride."""
    return max(1, round(height / stride)) * stride, max(1, round(width / stride)) * stride
