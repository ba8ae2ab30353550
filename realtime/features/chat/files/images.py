"""Images, made anew: their pixels, upright, and nothing else that was in the file.

So no place, no camera's number and no second file hides in them. Pillow's C code takes the time and lets go
of the interpreter; it runs on a thread, one image at a time.
"""

from __future__ import annotations

import io
import logging
from typing import Any, Final

import msgspec
from PIL import Image, ImageOps

from realtime.features.chat.files.faults import Refused
from realtime.features.chat.files.media import IMAGES

log: Final = logging.getLogger("realtime.chat")

QUALITY: Final = 90
THUMBNAIL_QUALITY: Final = 80
THUMBNAIL_TYPE: Final = "image/webp"

Image.MAX_IMAGE_PIXELS = None  # ours is a setting, and is held against the header before anything is decoded


class Picture(msgspec.Struct, frozen=True):
    """An image that may be shown to anybody."""

    content: bytes
    width: int
    height: int


def remake(content: bytes, type: str, *, pixels_max: int, thumbnail_px: int) -> tuple[Picture, Picture]:
    """Return an image of a type in IMAGES made anew, and its thumbnail (`THUMBNAIL_TYPE`).

    Raises:
        Refused: it cannot be decoded, or it is larger than it may be.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[IMAGES[type]]) as image:
            _check(image, pixels_max)
            frames = getattr(image, "n_frames", 1) if type != "image/jpeg" else 1
            if frames * image.width * image.height > pixels_max:
                raise Refused(
                    f"the animation has {frames} frames of {image.width} x {image.height} pixels; "
                    f"{pixels_max} pixels are taken in all (chat_image_pixels)"
                )
            whole = _animation(image, IMAGES[type]) if frames > 1 else _still(image, IMAGES[type])
            return whole, _thumbnail(image, thumbnail_px)
    except Refused:
        raise
    except MemoryError as error:
        raise Refused("there is not the memory to decode the image") from error
    except Exception as error:  # Pillow's decoders raise whatever they come across
        log.info("an upload is no %s: %s", type, error)
        raise Refused(f"it begins like {type} and cannot be read as that") from error


def _check(image: Image.Image, pixels_max: int) -> None:
    if image.width * image.height > pixels_max:
        raise Refused(
            f"the image has {image.width} x {image.height} pixels; {pixels_max} are taken (chat_image_pixels)"
        )


def _still(image: Image.Image, form: str) -> Picture:
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile") or None}
    upright = ImageOps.exif_transpose(image)
    if form == "JPEG":
        # With its own tables what was compressed once is not made worse; turned around they do not fit.
        keeps = image.format == "JPEG" and not _turned(image)
        options |= {"quality": "keep" if keeps else QUALITY}
        upright = image if keeps else upright
        if upright.mode not in ("L", "RGB", "CMYK"):
            upright = upright.convert("RGB")
    elif form == "WEBP":
        options |= {"quality": QUALITY, "method": 2}
    upright.load()
    transparency = upright.info.get("transparency")
    upright.info = {} if transparency is None else {"transparency": transparency}
    return _saved(upright, form, options)


def _turned(image: Image.Image) -> bool:
    return bool(image.getexif().get(0x0112, 1) != 1)


def _animation(image: Image.Image, form: str) -> Picture:
    """All frames as they were shown, with the times of each."""
    frames, times = [], []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        frame = image.convert("RGBA")
        frame.info = {}
        frames.append(frame)
        times.append(int(image.info.get("duration", 100)) or 100)
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": frames[1:],
        "duration": times,
        "loop": int(image.info.get("loop", 0)),
    }
    image.seek(0)
    if form == "GIF":
        options |= {"disposal": 2}
    if form == "WEBP":
        options |= {"quality": QUALITY, "method": 0}
    return _saved(frames[0], form, options)


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> Picture:
    written = io.BytesIO()
    image.save(written, form, exif=b"", **options)
    return Picture(written.getvalue(), image.width, image.height)


def _thumbnail(image: Image.Image, pixels: int) -> Picture:
    if hasattr(image, "n_frames") and image.n_frames > 1:
        image.seek(0)
    has_alpha = "A" in image.mode or "transparency" in image.info
    plain = image.mode in ("RGB", "RGBA")
    small = image if plain else image.convert("RGBA" if has_alpha else "RGB")
    small.thumbnail((pixels, pixels), Image.Resampling.LANCZOS, reducing_gap=2.0)
    upright = ImageOps.exif_transpose(small)
    upright.info = {}
    return _saved(upright, "WEBP", {"quality": THUMBNAIL_QUALITY, "method": 4})
