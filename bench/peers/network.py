"""ResNet-50 without its classifier, built for each framework from the same tensors.

Tensors have torchvision's names and convolutions in OIHW. Batch norms are left to each framework to
fold. Topology v1 has the stride of a stage on the first 1x1 convolution (Caffe, Keras), v1.5 on the
3x3 (torchvision). The output is the average of the last stage: 2048 numbers an image.
"""

import json
import struct
from pathlib import Path

import numpy as np

SIDE = 224
STAGES = (3, 4, 6, 3)


def blocks(topology):
    """Every residual block: name, strides of its three convolutions, stride of its shortcut or None."""
    for stage, count in enumerate(STAGES, 1):
        for block in range(count):
            stride = 2 if block == 0 and stage > 1 else 1
            strides = (stride, 1, 1) if topology == "v1" else (1, stride, 1)
            yield f"layer{stage}.{block}", strides, stride if block == 0 else None


def load(folder):
    """Tensors by name, and the metadata that says what they were trained with."""
    from safetensors.numpy import load_file

    path = Path(folder) / "weights.safetensors"
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    return load_file(path), metadata


def images(folder, metadata):
    """The prepared pixels as the network's input: float32, NCHW."""
    pixels = np.fromfile(Path(folder) / "pixels.bin", dtype=np.uint8)
    pixels = pixels.reshape(-1, SIDE, SIDE, 3).astype(np.float32)
    if metadata["preprocess"] == "caffe":
        pixels = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], dtype=np.float32)
    else:
        mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
        std = np.array([0.229, 0.224, 0.225], dtype=np.float32)
        pixels = (pixels / np.float32(255) - mean) / std
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def convolutions(topology):
    """Every convolution: kernel, stride, side of its output, channels in and out."""
    yield 7, 2, 112, 3, 64
    side, channels = 56, 64
    for name, strides, shortcut in blocks(topology):
        width = 64 << (int(name[5]) - 1)
        before = side
        for kernel, stride, into, out in (
            (1, strides[0], channels, width),
            (3, strides[1], width, width),
            (1, strides[2], width, 4 * width),
        ):
            side //= stride
            yield kernel, stride, side, into, out
        if shortcut:
            yield 1, shortcut, before // shortcut, channels, 4 * width
        channels = 4 * width


def multiplications(topology, tile=None):
    """Multiplications of one image; with `tile` the 3x3 of stride 1 by Winograd's F(tile x tile, 3x3)."""
    total = 0
    for kernel, stride, side, into, out in convolutions(topology):
        if tile and (kernel, stride) == (3, 1):
            # A tile that is one output short does without the products at infinity.
            tiles = -(-side // tile)
            points = tiles * (tile + 2) - (tiles * tile - side)
            total += points**2 * into * out
        else:
            total += kernel * kernel * side * side * into * out
    return total


def onnx_model(tensors, epsilon, topology, batch):
    """The network as a serialized ONNX graph with a fixed batch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, used = [], set()

    def conv(source, at, norm, stride, relu):
        kernel = tensors[f"{at}.weight"].shape[-1]
        names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        used.update([f"{at}.weight", *names])
        pads, sides = [kernel // 2] * 4, [stride, stride]
        window = {"kernel_shape": [kernel] * 2, "pads": pads, "strides": sides}
        nodes.append(helper.make_node("Conv", [source, f"{at}.weight"], [at], **window))
        nodes.append(helper.make_node("BatchNormalization", [at, *names], [norm], epsilon=epsilon))
        if not relu:
            return norm
        nodes.append(helper.make_node("Relu", [norm], [f"{norm}.relu"]))
        return f"{norm}.relu"

    maps = conv("images", "conv1", "bn1", 2, True)
    nodes.append(helper.make_node("MaxPool", [maps], ["pool"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]))
    maps = "pool"
    for at, strides, shortcut in blocks(topology):
        branch = maps
        for index, stride in enumerate(strides, 1):
            branch = conv(branch, f"{at}.conv{index}", f"{at}.bn{index}", stride, index < 3)
        if shortcut:
            maps = conv(maps, f"{at}.downsample.0", f"{at}.downsample.1", shortcut, False)
        nodes.append(helper.make_node("Add", [branch, maps], [f"{at}.sum"]))
        nodes.append(helper.make_node("Relu", [f"{at}.sum"], [at]))
        maps = at
    nodes.append(helper.make_node("GlobalAveragePool", [maps], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["features"]))
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 2048])],
        [numpy_helper.from_array(tensors[name], name) for name in sorted(used)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def torch_module(tensors, epsilon, topology):
    """The network as a torch.nn.Module in evaluation mode."""
    import torch
    from torch import nn

    def conv(into, out, kernel, stride):
        return nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, into, width, strides, shortcut):
            super().__init__()
            self.conv1, self.bn1 = conv(into, width, 1, strides[0]), nn.BatchNorm2d(width, epsilon)
            self.conv2, self.bn2 = conv(width, width, 3, strides[1]), nn.BatchNorm2d(width, epsilon)
            self.conv3, self.bn3 = conv(width, 4 * width, 1, strides[2]), nn.BatchNorm2d(4 * width, epsilon)
            self.relu, self.downsample = nn.ReLU(inplace=True), None
            if shortcut:
                norm = nn.BatchNorm2d(4 * width, epsilon)
                self.downsample = nn.Sequential(conv(into, 4 * width, 1, shortcut), norm)

        def forward(self, maps):
            shortcut = maps if self.downsample is None else self.downsample(maps)
            branch = self.relu(self.bn1(self.conv1(maps)))
            branch = self.relu(self.bn2(self.conv2(branch)))
            return self.relu(self.bn3(self.conv3(branch)) + shortcut)

    class ResNet50(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64, epsilon)
            self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
            stages, channels = [[], [], [], []], 64
            for name, strides, shortcut in blocks(topology):
                width = 64 << (int(name[5]) - 1)
                stages[int(name[5]) - 1].append(Block(channels, width, strides, shortcut))
                channels = 4 * width
            self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Sequential(*stage) for stage in stages)

        def forward(self, maps):
            maps = self.maxpool(self.relu(self.bn1(self.conv1(maps))))
            return self.layer4(self.layer3(self.layer2(self.layer1(maps)))).mean((2, 3))

    module = ResNet50()
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"tensors do not fit: missing {missing}, unexpected {unexpected}")
    return module.eval()


def keras_model(tensors, epsilon, topology, batch):
    """The network as a Keras model that takes NHWC."""
    import keras
    from keras import layers

    def conv(source, at, norm, stride, relu):
        weight = tensors[f"{at}.weight"]
        out, _, kernel, _ = weight.shape
        if kernel > 1:
            source = layers.ZeroPadding2D(kernel // 2)(source)
        name = at.replace(".", "_")
        maps = layers.Conv2D(out, kernel, stride, use_bias=False, name=name)(source)
        maps = layers.BatchNormalization(epsilon=epsilon, name=f"{name}_norm")(maps)
        sources[name] = [weight.transpose(2, 3, 1, 0)]
        parts = ("weight", "bias", "running_mean", "running_var")
        sources[f"{name}_norm"] = [tensors[f"{norm}.{part}"] for part in parts]
        return layers.ReLU()(maps) if relu else maps

    sources = {}
    images = keras.Input((SIDE, SIDE, 3), batch_size=batch)
    maps = conv(images, "conv1", "bn1", 2, True)
    # The maps are not negative, so a border of zeros does not win over them.
    maps = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(maps))
    for at, strides, shortcut in blocks(topology):
        branch = maps
        for index, stride in enumerate(strides, 1):
            branch = conv(branch, f"{at}.conv{index}", f"{at}.bn{index}", stride, index < 3)
        if shortcut:
            maps = conv(maps, f"{at}.downsample.0", f"{at}.downsample.1", shortcut, False)
        maps = layers.ReLU()(layers.Add()([branch, maps]))
    model = keras.Model(images, layers.GlobalAveragePooling2D()(maps))
    for name, weights in sources.items():
        model.get_layer(name).set_weights(weights)
    return model
