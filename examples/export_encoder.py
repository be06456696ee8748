"""An encoder as an ONNX file for other programs; needs the extra [onnx].

python examples/export_encoder.py
"""

import onnxruntime
import torch

from scatsimclr import ScatSimCLR, export

# Untrained weights with their settings; `scatsimclr export runs/RUN --output encoder --preprocess` takes a run.
torch.manual_seed(0)
torch.save(ScatSimCLR(J=2, L=2, input_size=(16, 16, 3), res_blocks=4, out_dim=16).state_dict(), "model.pth")
with open("config.yaml", "w") as file:
    file.write(
        "amp: off\n"
        "model: {base_model: scatsimclr4, J: 2, L: 2, out_dim: 16}\n"
        'dataset: {dataset: cifar10, input_shape: "(16, 16, 3)"}\n'
    )
weights = ["model.pth", "--config", "config.yaml"]
export.command(
    [*weights, "--output", "encoder", "--preprocess", "--formats", "onnx"]
)  # or torch: encoder.pt2

# What another program does: uint8 images as a decoder gives them, any number of them.
images = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
session = onnxruntime.InferenceSession("encoder/encoder.onnx", providers=["CPUExecutionProvider"])
h, z = session.run(None, {"images": images.numpy()})
print("features", h.shape, "and projections", z.shape)
