"""Refusal of images that cannot be used, each with the cause that it is counted under."""

ZERO_SIZE = "zero_size"
TOO_LARGE = "too_large"
WRONG_STEP = "wrong_step"
SHORT_DATA = "short_data"
UNKNOWN_ENCODING = "unknown_encoding"
UNDECODABLE = "undecodable"
CAUSES = (ZERO_SIZE, TOO_LARGE, WRONG_STEP, SHORT_DATA, UNKNOWN_ENCODING, UNDECODABLE)

LONGEST = 1000  # characters of a message: what it quotes comes from anybody, and may be a megabyte


class MalformedImage(ValueError):  # noqa: N818  # it names the image, not a fault of this program
    """An image that holds no usable picture. `cause`, one of CAUSES, is the counter it is dropped under."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}... ({len(message)} characters)")
        self.cause = cause


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image without pixels, or with more than `max_pixels`, by raising MalformedImage."""
    if width <= 0 or height <= 0:
        raise MalformedImage(
            ZERO_SIZE, f"the image is {width} x {height} pixels: the driver must fill in width and height"
        )
    if width * height > max_pixels:
        raise MalformedImage(
            TOO_LARGE,
            f"the image is {width} x {height} = {width * height} pixels, more than {max_pixels}: "
            "publish smaller images, or raise vision.max_megapixels",
        )
