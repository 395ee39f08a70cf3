"""Identity over edits: cosine of face embeddings, as FLUX.1 Kontext's report measures turns by AuraFace.

fal/AuraFace-v1's glintr100.onnx (Apache-2.0; the detectors beside it are InsightFace's, for non-commercial
use) by onnxruntime, on aligned faces of 112 x 112. To find faces give YuNet too, of opencv_zoo
(face_detection_yunet_2023mar.onnx, MIT), by OpenCV: auraface=glintr100.onnx+face_detection_yunet_2023mar.onnx.
Without it every picture is taken for a face that was cut out already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from kontext_core.errors import InputError, UnscoredError
from kontext_core.images import resize, to_pil
from kontext_core.safety.onnx import onnx_session

from .answer import Answer, Scorer

SIDE = 112
# Where ArcFace's training (arXiv 1801.07698) puts eyes, nose and the corners of the mouth, in pixels of 112;
# left and right as seen.
_PLACES = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
# Detections less sure than this are none.
SURE = 0.6

# [1, h, w, 3] in 0..1 to a face [112, 112, 3] in 0..1, or None where there is none.
Finder = Callable[[Tensor], "np.ndarray | None"]


def face_scorer(given: str, find: Finder | None = None) -> Scorer:
    """Cosine `identity` of the face in image 1 and that in the answer, -1..1.

    Args:
        given: the embedding's file, and after a + the detector's.
        find: finds and aligns a face, in place of the detector.

    Raises:
        InputError: a missing file or package.
    """
    embedding, _, detector = given.partition("+")
    embed = embedder(embedding)
    look = find or (yunet(detector) if detector else whole)

    def score(answer: Answer) -> dict[str, float]:
        faces = []
        for name, picture in (("image 1", answer.images[0]), ("the answer", answer.result)):
            face = look(picture)
            if face is None:
                raise UnscoredError(f"no face was found in {name}")
            faces.append(embed(face))
        return {"identity": float(faces[0] @ faces[1])}

    return score


def embedder(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """Face [112, 112, 3] in 0..1 to a vector of length 1; RGB in -1..1 goes in, as ArcFace takes it."""
    run = onnx_session(path)
    name = run.get_inputs()[0].name

    def embed(face: np.ndarray) -> np.ndarray:
        put = (face.astype(np.float32) * 255 - 127.5) / 127.5
        found = run.run(None, {name: put.transpose(2, 0, 1)[None]})[0][0]
        return found / max(float(np.linalg.norm(found)), 1e-12)

    return embed


def whole(picture: Tensor) -> np.ndarray:
    """The middle square of a picture as a face."""
    height, width = picture.shape[1:3]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return resize(picture, SIDE, SIDE, box)[0].numpy()


def yunet(path: str | Path) -> Finder:
    """The largest face that OpenCV's YuNet finds, turned and scaled to ArcFace's places.

    Raises:
        InputError: no such file, or no OpenCV.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}; see docs/evaluation.md for where to get one")
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "finding faces needs OpenCV: pip install opencv-python-headless"
        ) from error

    def find(picture: Tensor) -> np.ndarray | None:
        pixels = np.asarray(to_pil(picture))[..., ::-1]
        detector = cv2.FaceDetectorYN.create(
            str(path), "", (pixels.shape[1], pixels.shape[0]), SURE
        )
        _, faces = detector.detect(np.ascontiguousarray(pixels))
        if faces is None or not len(faces):
            return None
        face = max(faces, key=lambda row: row[2] * row[3])
        points = face[4:14].reshape(5, 2)
        # YuNet names the person's right eye and corner of the mouth first, which is the left as seen.
        return aligned(picture, points)

    return find


def aligned(picture: Tensor, points: np.ndarray) -> np.ndarray:
    """The face whose eyes, nose and corners of the mouth are at `points` [5, 2] in pixels, as [112, 112, 3]:
    moved, turned and scaled, by least squares (Umeyama 1991)."""
    from PIL import Image

    matrix = similarity(points.astype(np.float64), _PLACES)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    turned = to_pil(picture).transform(
        (SIDE, SIDE), Image.Transform.AFFINE, back.flatten().tolist(), Image.Resampling.BICUBIC
    )
    return np.asarray(turned, dtype=np.float32) / 255


def similarity(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[2, 3]: the move, turn and scale that takes points [n, 2] nearest to others (Umeyama 1991)."""
    a, b = given - given.mean(0), wanted - wanted.mean(0)
    u, s, v = np.linalg.svd(b.T @ a / len(a))
    flip = np.diag([1.0, np.sign(np.linalg.det(u @ v))])
    turn = u @ flip @ v
    scale = float((s * np.diag(flip)).sum() / a.var(0).sum())
    move = wanted.mean(0) - scale * turn @ given.mean(0)
    return np.hstack([scale * turn, move[:, None]])
