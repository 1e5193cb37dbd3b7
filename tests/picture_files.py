# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A picture file of every mode, the pixels that it should give, and the remarks that it should get."""

import io

import numpy as np
from PIL import Image


NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
RGB, GREY = Image.fromarray(NOISE), Image.fromarray(NOISE[..., 0])
RAMP = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)


def saved(image, kind, **keys):
    image.save(buffer := io.BytesIO(), kind, **keys)
    return buffer.getvalue()


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def stretched(values):
    low, high = np.percentile(values[np.isfinite(values)], (0.5, 99.5))
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return grey(np.round(np.clip((values - low) / (high - low), 0, 1) * 255))


def over_black(rgba):
    rgba = np.asarray(rgba).astype(float)
    return np.round(rgba[..., :3] * rgba[..., 3:] / 255).astype(np.uint8)


PALETTE = GREY.quantize(16)
CLEAR = Image.fromarray(np.dstack([NOISE, NOISE[..., 1]]))
HOLES = RAMP.astype(np.float32) / 4095
HOLES[3, 3], HOLES[4, 4] = np.nan, np.inf
FILES = {  # name: content, expected pixels, remarks
    "bilevel.png": (saved(RGB.convert("1"), "PNG"), grey(np.asarray(RGB.convert("1")) * 255), {"image_mode"}),
    "grey.png": (saved(GREY, "PNG"), grey(NOISE[..., 0]), set()),
    "rgb.png": (saved(RGB, "PNG"), NOISE, set()),
    "rgb.bmp": (saved(RGB, "BMP"), NOISE, set()),
    "palette.png": (saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), {"image_mode"}),
    "grey_clear.png": (
        saved(Image.merge("LA", [GREY, Image.fromarray(NOISE[..., 1])]), "PNG"),
        over_black(np.dstack([NOISE[..., [0, 0, 0]], NOISE[..., 1]])),
        {"image_alpha"},
    ),
    "clear.png": (saved(CLEAR, "PNG"), over_black(CLEAR), {"image_alpha"}),
    "opaque.png": (saved(RGB.convert("RGBA"), "PNG"), NOISE, {"image_mode"}),
    "palette_clear.png": (
        saved(PALETTE, "PNG", transparency=3),
        np.where(np.asarray(PALETTE)[..., None] == 3, 0, np.asarray(PALETTE.convert("RGB"))),
        {"image_alpha"},
    ),
    "colour_key.png": (
        saved(GREY, "PNG", transparency=int(NOISE[0, 0, 0])),
        grey(np.where(NOISE[..., 0] == NOISE[0, 0, 0], 0, NOISE[..., 0])),
        {"image_alpha"},
    ),
    "deep.png": (saved(Image.fromarray(RAMP), "PNG"), stretched(RAMP), {"image_depth"}),
    "deep.tif": (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), stretched(RAMP), {"image_depth"}),
    "float.tif": (saved(Image.fromarray(HOLES), "TIFF"), stretched(HOLES), {"image_depth"}),
    "cmyk.tif": (
        saved(RGB.convert("CMYK"), "TIFF"),
        NOISE,
        {"image_mode"},
    ),
    "ycbcr.tif": (
        saved(RGB.convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        np.asarray(RGB.convert("YCbCr").convert("RGB")),
        set(),
    ),
    "pages.tif": (saved(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)]), NOISE, {"image_frames"}),
    "film.gif": (
        saved(PALETTE, "GIF", save_all=True, append_images=[GREY.quantize(8)]),
        np.asarray(PALETTE.convert("RGB")),
        {"image_frames", "image_mode"},
    ),
    "other.png": (saved(RGB, "BMP"), NOISE, {"image_extension"}),
    "blank.png": (saved(Image.new("L", (40, 40), 7), "PNG"), np.full((40, 40, 3), 7), {"image_blank"}),
}
