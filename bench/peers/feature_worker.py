"""One framework, loaded once, that computes a batch on command. Started by featurize.py.

    feature_worker.py PEER MODEL_FOLDER TOPOLOGY THREADS

Commands come on standard input, one a line, and are answered on standard output: `run N` by
`seconds S` for N times the whole batch, `features FILE` by `done` once the batch's features are in
the file as little-endian float32. Whatever a framework prints goes to standard error.
"""

import json
import os
import sys
import time

import numpy as np

import network


def onnxruntime(model, threads):
    """ONNX Runtime's CPU provider with all graph optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(model.onnx(), options, providers=["CPUExecutionProvider"])
    images = model.images
    return ort.__version__, lambda: session.run(None, {"images": images})[0]


def openvino(model, threads, precision="f32"):
    """OpenVINO's CPU plugin, one request at a time on all threads."""
    import openvino as ov

    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(core.read_model(model.onnx()), "CPU", settings)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != precision:
        raise RuntimeError(f"OpenVINO chose {used} instead of {precision}")
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(model.images))

    def compute():
        request.infer()
        return request.get_output_tensor().data

    return ov.__version__.split("-")[0], compute


def openvino_bf16(model, threads):
    """OpenVINO with bf16 where its kernels have it."""
    return openvino(model, threads, "bf16")


def pytorch(model, threads, compiled=True, bf16=False):
    """PyTorch, channels last: torch.compile with frozen weights, or frozen TorchScript."""
    import torch

    torch.set_num_threads(threads)
    module = model.torch().to(memory_format=torch.channels_last)
    images = torch.from_numpy(model.images).contiguous(memory_format=torch.channels_last)
    if compiled:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        call = torch.compile(module)
    else:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
            call = torch.jit.freeze(torch.jit.trace(module, images))

    def compute():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16 and compiled):
            return call(images).float().numpy()

    return torch.__version__, compute


def pytorch_script(model, threads):
    """PyTorch by TorchScript."""
    return pytorch(model, threads, compiled=False)


def pytorch_bf16(model, threads):
    """torch.compile under bf16 autocast."""
    return pytorch(model, threads, bf16=True)


def pytorch_script_bf16(model, threads):
    """TorchScript under bf16 autocast."""
    return pytorch(model, threads, compiled=False, bf16=True)


def keras(model, threads):
    """Keras on TensorFlow, as a tf.function with its variables frozen."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    built = model.keras()
    images = tf.constant(model.images.transpose(0, 2, 3, 1))
    graph = tf.function(lambda images: built(images, training=False)).get_concrete_function(images)
    frozen = convert_variables_to_constants_v2(graph)
    import keras as package

    version = f"{package.__version__} on TensorFlow {tf.__version__}"
    return version, lambda: frozen(images)[0].numpy()


PEERS = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bf16": openvino_bf16,
    "pytorch": pytorch,
    "pytorch-script": pytorch_script,
    "pytorch-bf16": pytorch_bf16,
    "pytorch-script-bf16": pytorch_script_bf16,
    "keras": keras,
}


class Model:
    """Weights and images, and the network in the form that a framework asks for."""

    def __init__(self, folder, topology):
        self.tensors, metadata = network.load(folder)
        self.images = network.images(folder, metadata)
        self.epsilon, self.topology = float(metadata["bn_eps"]), topology

    def onnx(self):
        return network.onnx_model(self.tensors, self.epsilon, self.topology, len(self.images))

    def torch(self):
        return network.torch_module(self.tensors, self.epsilon, self.topology)

    def keras(self):
        return network.keras_model(self.tensors, self.epsilon, self.topology, len(self.images))


def main():
    peer, folder, topology, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    version, compute = PEERS[peer](Model(folder, topology), int(threads))
    for _ in range(3):
        compute()
    print("ready", json.dumps({"version": version}), file=answers)
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        if command == "run":
            start = time.perf_counter()
            for _ in range(int(argument)):
                compute()
            print("seconds", time.perf_counter() - start, file=answers)
        elif command == "features":
            np.ascontiguousarray(compute(), dtype="<f4").tofile(argument.strip())
            print("done", file=answers)
        else:
            raise SystemExit(f"no command: {line}")


if __name__ == "__main__":
    main()
