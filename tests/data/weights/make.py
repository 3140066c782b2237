#!/usr/bin/env python3
"""Writes the weight fixtures of this folder: one tiny ResNet-50 in every format that p8 reads.

    python -m venv venv && venv/bin/pip install keras==3.15.1 torch==2.15.0 h5py==3.16.0 \
        safetensors==0.8.0 numpy==2.4.6
    venv/bin/python make.py

The network has the depth of ResNet-50 (3, 4, 6, 3 blocks, topology v1, batch-norm epsilon 1.001e-5,
convolution biases) and tiny widths, with the layer names of keras.applications. Keras itself writes
the HDF5 files, PyTorch itself the .pth files. What PyTorch and safetensors store is the same network
under torchvision's names, each bias folded into the running mean behind it.

HDF5 and .pth files are nearly all headers here, so they are kept gzipped. Written files:
    classic.h5.gz          layers by name, `layer_names` and `weight_names` attributes
    classic-model.h5.gz    a whole model with a classifier: the same under `model_weights`
    classic-2019.h5.gz     by h5py, in the layout of the published notop file: fixed-length attributes,
                           names `layer/kernel:0`; its kernels are chunked and compressed
    keras3.weights.h5.gz   groups `layers/conv2d_N/vars/0..`, each with its layer's name
    unnamed.weights.h5.gz  the same without the names
    nested.weights.h5.gz   the same inside a Sequential with a classifier behind it
    zip.pth.gz             PyTorch's current container
    legacy.pth.gz          its older one: a checkpoint with `state_dict` and `module.`, not contiguous
    f32.safetensors, f16.safetensors, bf16.safetensors, f64.safetensors
    hostile.pth.gz         a checkpoint that would run a shell command if it were unpickled
    expected.safetensors   `input` and the outputs `layer1`..`layer4` of Keras, all NHWC float32
"""

import gzip
import os
import pathlib
import shutil

os.environ["KERAS_BACKEND"] = "torch"

import h5py
import keras
import numpy as np
import torch
from keras import layers
from keras.src.legacy.saving import legacy_h5_format
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

HERE = pathlib.Path(__file__).resolve().parent
STEM, WIDTHS, DEPTHS, EXPANSION = 1, (1, 2, 4, 8), (3, 4, 6, 3), 4
SIDE, EPSILON = 32, 1.001e-5


def block(x, name, width, stride, project):
    """A bottleneck block as keras.applications names and orders it."""

    def norm(y, suffix):
        return layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_{suffix}_bn")(y)

    def conv(y, suffix, filters, size, stride=1):
        y = layers.Conv2D(filters, size, strides=stride, padding="same", name=f"{name}_{suffix}_conv")(y)
        return norm(y, suffix)

    shortcut = conv(x, "0", EXPANSION * width, 1, stride) if project else x
    x = layers.Activation("relu", name=f"{name}_1_relu")(conv(x, "1", width, 1, stride))
    x = layers.Activation("relu", name=f"{name}_2_relu")(conv(x, "2", width, 3))
    x = conv(x, "3", EXPANSION * width, 1)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def network(side):
    """The tiny ResNet-50 with its four stage outputs, all names reset."""
    keras.backend.clear_session()
    image = keras.Input((side, side, 3))
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.Conv2D(STEM, 7, strides=2, name="conv1_conv")(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name="conv1_bn")(x)
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    stages = []
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS), start=2):
        for index in range(1, depth + 1):
            first = index == 1
            x = block(x, f"conv{stage}_block{index}", width, 2 if first and stage > 2 else 1, first)
        stages.append(x)
    return keras.Model(image, x, name="resnet50"), keras.Model(image, stages)


def randomise(model):
    """Gives every variable a value of its own, of the size it has in a trained network."""
    random = np.random.default_rng(50)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel, bias = layer.weights
            fan_in = np.prod(kernel.shape[:3])
            kernel.assign(random.standard_normal(kernel.shape) * np.sqrt(2 / fan_in))
            bias.assign(random.standard_normal(bias.shape) * 0.1)
        elif isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = layer.weights
            gamma.assign(random.uniform(0.5, 1.0, gamma.shape))
            beta.assign(random.standard_normal(beta.shape) * 0.1)
            mean.assign(random.standard_normal(mean.shape) * 0.1)
            variance.assign(random.uniform(0.5, 1.5, variance.shape))


def torchvision_names(model):
    """The weights under torchvision's names, OIHW, biases folded into the running means."""
    tensors, position = {}, {"0": "downsample", "1": "1", "2": "2", "3": "3"}
    for layer in model.layers:
        if not layer.weights:
            continue
        *place, kind = layer.name.split("_")
        if len(place) == 1:
            conv, norm = "conv1", "bn1"
        else:
            stage, index, slot = int(place[0][4:]) - 1, int(place[1][5:]) - 1, position[place[2]]
            prefix = f"layer{stage}.{index}."
            conv = prefix + ("downsample.0" if slot == "downsample" else f"conv{slot}")
            norm = prefix + ("downsample.1" if slot == "downsample" else f"bn{slot}")
        values = layer.get_weights()
        if kind == "conv":
            tensors[f"{conv}.weight"] = np.ascontiguousarray(values[0].transpose(3, 2, 0, 1))
            tensors[f"{norm}.bias_to_fold"] = values[1]
        else:
            gamma, beta, mean, variance = values
            tensors |= {f"{norm}.weight": gamma, f"{norm}.bias": beta}
            tensors |= {f"{norm}.running_mean": mean, f"{norm}.running_var": variance}
    for name in [n for n in tensors if n.endswith(".bias_to_fold")]:
        mean = name.replace("bias_to_fold", "running_mean")
        folded = tensors[mean].astype(np.float64) - tensors.pop(name).astype(np.float64)
        tensors[mean] = folded.astype(np.float32)
    return tensors


def write_2019(path, model):
    """The layout of the notop file that keras-applications published."""
    with h5py.File(path, "w") as file:
        with_weights = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = np.array([layer.name for layer in with_weights], dtype="S")
        for layer in with_weights:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = np.array(names, dtype="S")
            for name, value in zip(names, layer.get_weights()):
                packed = {}
                if value.ndim == 4:
                    chunks = tuple((extent + 1) // 2 for extent in value.shape)
                    packed = {"compression": "gzip", "shuffle": True, "chunks": chunks}
                group.create_dataset(name, data=value, **packed)


def forget_names(source, target):
    """A copy of a Keras 3 file without the names of the layers."""
    shutil.copy(source, target)

    def forget(_, entry):
        entry.attrs.pop("name", None)

    with h5py.File(target, "r+") as file:
        file.visititems(forget)


def pack(path):
    """Replaces a file by its gzipped form, with the same bytes every time."""
    with open(f"{path}.gz", "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(path.read_bytes())
    path.unlink()


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


def main():
    keras.utils.set_random_seed(50)
    model, stages = network(SIDE)
    randomise(model)

    with h5py.File(HERE / "classic.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    pooled = layers.GlobalAveragePooling2D(name="avg_pool")(model.output)
    classifier = layers.Dense(3, name="predictions")(pooled)
    keras.Model(model.input, classifier).save(HERE / "classic-model.h5")
    write_2019(HERE / "classic-2019.h5", model)
    model.save_weights(HERE / "keras3.weights.h5")
    forget_names(HERE / "keras3.weights.h5", HERE / "unnamed.weights.h5")
    whole = keras.Sequential([model, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    whole.save_weights(HERE / "nested.weights.h5")

    tensors = torchvision_names(model)
    torch_tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save(torch_tensors, HERE / "zip.pth")
    # Stored with the channels last and as every second element of a longer storage: strides count.
    strided = {}
    for name, value in torch_tensors.items():
        if value.ndim == 4:
            strided[f"module.{name}"] = value.to(memory_format=torch.channels_last)
        else:
            strided[f"module.{name}"] = torch.stack([value, value + 1], dim=1)[:, 0]
    checkpoint = {"epoch": 3, "state_dict": strided, "optimizer": {"momentum": torch.ones(2)}}
    torch.save(checkpoint, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"conv1.weight": torch.ones(1), "note": Hostile()}, HERE / "hostile.pth")
    types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
    metadata = {"topology": "v1", "preprocess": "caffe", "bn_eps": "1.001e-5"}
    for label, dtype in types.items():
        stored = {name: value.to(dtype) for name, value in torch_tensors.items()}
        save_torch(stored, HERE / f"{label}.safetensors", metadata)

    image = np.random.default_rng(51).standard_normal((1, SIDE, SIDE, 3)).astype(np.float32)
    outputs = stages.predict(image, verbose=0)
    expected = {f"layer{number}": output for number, output in enumerate(outputs, start=1)}
    save_numpy({"input": image} | expected, HERE / "expected.safetensors")

    for path in [*HERE.glob("*.h5"), *HERE.glob("*.pth")]:
        pack(path)


if __name__ == "__main__":
    main()
