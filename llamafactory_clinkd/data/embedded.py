# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Pictures that a source holds itself, as Parquet files do, and pictures that it names without extension."""

import hashlib
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from ..utils.io import atomic_path
from .conversation import Embedded
from .images import path_within
from .problems import Reject


FOLDER = "clinkd_images"  # within the data folder
EXTENSIONS = (".png", ".jpg", ".jpeg", ".dicom", ".dcm", ".nii", ".gz", ".bmp", ".tif", ".tiff", ".webp", ".gif")


def with_extension(folder: str | Path, image: str) -> str:
    """The picture that a name without extension means (VinDr-CXR's), if it is there."""
    if PurePosixPath(image.partition("#")[0]).suffix.lower() in EXTENSIONS:
        return image
    found = (image + end for end in EXTENSIONS if path_within(folder, image + end).is_file())
    return image if path_within(folder, image).is_file() else next(found, image)


def write_embedded(folder: str | Path, image: Embedded) -> str:
    """Writes a picture that its row holds as ``clinkd_images/<hash>.<format>``; one that does not open is rejected."""
    try:
        with Image.open(BytesIO(image.content)) as header:
            extension = (header.format or "png").lower().replace("jpeg", "jpg").replace("mpo", "jpg")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Reject("image_unreadable", f"{image.name or 'the picture of the row'}: {error}") from error
    relative = f"{FOLDER}/{hashlib.blake2b(image.content, digest_size=16).hexdigest()}.{extension}"
    path = path_within(folder, relative)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            Path(temporary).write_bytes(image.content)
    return relative
