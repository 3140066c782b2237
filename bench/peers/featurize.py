"""Puts p8's network beside other runtimes on the same weights, pixels, topology and threads.

Every side is a process (or several, for the setting of one thread in each) that loads the network
once, is held to its cores, and computes whole batches on command. Only one side computes at a time;
a round asks each of them in turn, so that a machine whose speed drifts treats all alike. Before
timing, the features of every side are held against those of p8 in f32. Rounds are kept as they
come: a run that was stopped goes on where it stood.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import selectors
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import machine
import network

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

# Each precision: p8 first, then those that are compared with it.
SIDES = {
    "f32": ["p8", "onnxruntime", "openvino", "pytorch", "keras"],
    "bf16": ["p8-bf16", "openvino-bf16", "pytorch-bf16", "pytorch-script-bf16"],
}
NAMES = {
    "p8": "p8",
    "p8-bf16": "p8 bf16",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO bf16",
    "pytorch": "PyTorch, torch.compile, frozen",
    "pytorch-script": "PyTorch, TorchScript, frozen",
    "pytorch-bf16": "PyTorch bf16, torch.compile, frozen",
    "pytorch-script-bf16": "PyTorch bf16, TorchScript, frozen",
    "keras": "Keras, frozen tf.function",
}
# What the features of a side may differ from those of p8 in f32: the first for f32, the second for
# bf16. A last stage of random weights enlarges the rounding of bf16, to a cosine of 0.998 in OpenVINO
# and PyTorch, so this limit tells another network from rounding and not good rounding from bad.
LARGEST_ERROR = 1e-3
SMALLEST_COSINE = 0.99

# Time in which the threads of a side that has answered stop spinning.
PAUSE = 0.3


class SideFailed(Exception):
    """A worker ended or did not answer in time."""


class Side:
    """The processes of one side in one setting."""

    def __init__(self, name, options, topology, processes, threads, logs):
        self.name, self.processes, self.version, self.times = name, [], "", 1
        self.log = logs / f"{name}-{topology}-{processes}x{threads}.log"
        with open(self.log, "w", encoding="utf-8") as log:
            for index in range(processes):
                cores = options.cores[index * threads : (index + 1) * threads]
                self.processes.append(
                    subprocess.Popen(
                        command(name, options, topology, threads),
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        env=environment(threads, options.scratch),
                        preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores),
                    )
                )

    def ready(self, patience):
        """Waits until every process has the network."""
        deadline = time.monotonic() + patience
        for process in self.processes:
            answer = self.answer(process, "ready", deadline)
            about = json.loads(answer)
            self.version = " ".join(about[key] for key in ("version", "detail") if key in about)

    def ask(self, request):
        for process in self.processes:
            try:
                process.stdin.write(f"{request}\n".encode())
                process.stdin.flush()
            except BrokenPipeError as error:
                raise SideFailed(f"{self.name} has ended, see {self.log}") from error

    def answer(self, process, word, deadline):
        """The rest of the line that begins with `word`."""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise SideFailed(f"{self.name} does not answer, see {self.log}")
        line = process.stdout.readline().decode()
        if not line.startswith(word):
            raise SideFailed(f"{self.name} has ended, see {self.log}")
        return line[len(word) :].strip()

    def run(self, times, patience=600):
        """Seconds for `times` batches in every process, all at once."""
        self.ask(f"run {times}")
        deadline = time.monotonic() + patience
        return max(float(self.answer(process, "seconds", deadline)) for process in self.processes)

    def features(self, file, images):
        """The features of the batch, of the first process."""
        self.ask(f"features {file}")
        for process in self.processes:
            self.answer(process, "done", time.monotonic() + 600)
        return np.fromfile(file, dtype="<f4").reshape(images, -1).astype(np.float64)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


def command(name, options, topology, threads):
    """What starts a process of a side."""
    if name.startswith("p8"):
        precision = "bf16" if name.endswith("bf16") else "f32"
        model = ["--model", str(options.model), "--topology", topology]
        return [options.worker, "serve", *model, "--precision", precision, "--threads", str(threads)]
    return [sys.executable, str(HERE / "feature_worker.py"), name, str(options.model), topology, str(threads)]


def environment(threads, scratch):
    """The thread counts that libraries read from the environment."""
    variables = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2", KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[name] = str(threads)
    variables["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
    return variables


def compare(found, expected):
    """Largest relative L2 distance and smallest cosine over the images."""
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    products = (found * expected).sum(axis=1)
    cosines = products / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    return float(errors.max()), float(cosines.min())


def measure(options, topology, processes, threads, journal):
    """One setting: starts all sides, compares their features, and times them round by round."""
    say(f"topology {topology}, {processes} x {threads} threads: starting")
    past = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    done = {name: 0 for name in options.sides}
    for entry in past:
        if "rate" in entry:
            done[entry["side"]] += 1
    if min(done.values()) >= options.rounds:
        say("  all rounds are there from an earlier run")
        return
    sides, reference = [], None
    # p8 in f32 comes first and is what the others are held against.
    unfinished = [name for name in options.sides if done[name] < options.rounds]
    for name in dict.fromkeys(["p8", *unfinished]):
        side = Side(name, options, topology, processes, threads, options.scratch)
        try:
            side.ready(options.patience)
            found = side.features(options.scratch / "features.bin", options.batch)
        except SideFailed as failure:
            side.end()
            say(f"  {failure}")
            append(journal, side=name, failure=str(failure.args[0]).split(", see")[0])
            continue
        if reference is None:
            reference = found
        error, cosine = compare(found, reference)
        bf16 = name.endswith("bf16")
        same = cosine > SMALLEST_COSINE if bf16 else error < LARGEST_ERROR
        verdict = "" if same else "  DIFFERS"
        say(f"  {name} {side.version}: relative L2 {error:.1e}, cosine {cosine:.6f}{verdict}")
        append(journal, side=name, version=side.version, error=error, cosine=cosine, same=same)
        if name not in unfinished:
            side.end()
            continue
        side.times = max(1, round(options.seconds / side.run(1)))
        sides.append(side)
    try:
        for round_ in range(options.rounds):
            for side in list(sides):
                if done[side.name] > round_:
                    continue
                time.sleep(PAUSE)
                try:
                    seconds = side.run(side.times)
                except SideFailed as failure:
                    say(f"  {failure}")
                    append(journal, side=side.name, failure="ended while it was timed")
                    sides.remove(side)
                    continue
                rate = processes * side.times * options.batch / seconds
                append(journal, side=side.name, round=round_, rate=rate)
            say(f"  round {round_ + 1} of {options.rounds}")
    finally:
        for side in sides:
            side.end()


def append(journal, **entry):
    """One line, whole even when the run is stopped."""
    with open(journal, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def table(options, topology, processes, threads, peak, journal):
    """Markdown for one setting, and whether all features agreed."""
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    gflop = 2e-9 * network.multiplications(topology)
    lines, agreed = [], True
    for precision in options.precisions:
        own = SIDES[precision][0]
        rates, about, failures = {}, {}, {}
        for entry in entries:
            name = entry["side"]
            if name not in SIDES[precision] or name not in options.sides:
                continue
            if "rate" in entry:
                rates.setdefault(name, {})[entry["round"]] = entry["rate"]
                failures.pop(name, None)
            elif "failure" in entry:
                failures[name] = entry["failure"]
            else:
                about[name] = entry
        lines += [
            "",
            f"**Topology {topology}, {precision}, {plural(processes, 'process', 'processes')} of"
            f" {plural(threads, 'thread', 'threads')}, batch {options.batch}**",
            "",
            "| | images/s, median | min | max | of the peak | p8 / it | relative L2 | cosine |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name in sorted(rates, key=lambda name: -statistics.median(rates[name].values())):
            values, entry = list(rates[name].values()), about[name]
            median = statistics.median(values)
            share = f"{median * gflop / peak[precision]:.0%}" if peak.get(precision) else ""
            common = [rates[own][r] / rates[name][r] for r in rates.get(own, {}) if r in rates[name]]
            ratio = f"{statistics.median(common):.2f}" if common and name != own else ""
            mark = "" if entry["same"] else " (differs)"
            agreed &= entry["same"]
            label = f"{NAMES[name]}{mark}"
            label = f"**{label}**" if name == own else label
            lines.append(
                f"| {label} | {median:.1f} | {min(values):.1f} | {max(values):.1f} | {share} | {ratio}"
                f" | {entry['error']:.1e} | {entry['cosine']:.6f} |"
            )
        lines += [f"| {NAMES[name]} | {failure} | | | | | | |" for name, failure in failures.items()]
        versions = [f"{NAMES[name]}: {about[name]['version']}" for name in rates]
        lines += ["", "; ".join(versions) + f". {plural(min(map(len, rates.values()), default=0), 'round', 'rounds')}."]
    return lines, agreed


def plural(count, one, many):
    return f"{count} {one if count == 1 else many}"


def roofline(topology, peak):
    """What the measured peak allows, in images/s."""
    direct = network.multiplications(topology)
    tiled = network.multiplications(topology, 4)
    text = (
        f"Topology {topology}: {direct / 1e9:.2f} G multiplications an image,"
        f" {tiled / 1e9:.2f} G with Winograd F(4x4, 3x3) for the 3x3 convolutions of stride 1"
    )
    for precision in ("f32", "bf16"):
        if peak.get(precision):
            at_most = [peak[precision] * 1e9 / (2 * count) for count in (direct, tiled)]
            text += f"; {precision}: at most {at_most[0]:.1f} images/s directly, {at_most[1]:.1f} so"
    return text + "."


def say(text):
    print(text, file=sys.stderr, flush=True)


def setting(text):
    """PROCESSESxTHREADS."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected PROCESSESxTHREADS such as 1x2, not {text!r}")
    return int(match[1]), int(match[2])


def parse():
    cores = sorted(os.sched_getaffinity(0))
    several = lambda kind: lambda text: [kind(part) for part in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--worker", required=True, help="p8's worker, which featurize.sh builds")
    add("--weights", default="seeded:50", help="seeded:N or a weights file that p8 reads [seeded:50]")
    add("--images", type=Path, default=REPOSITORY / "training_data", help="folder of .jpg files [training_data]")
    add("--batch", type=int, default=16)
    add("--rounds", type=int, default=9)
    add("--seconds", type=float, default=3.0, help="of computing in each turn of a round [3]")
    add("--settings", type=several(setting), default="1x2,2x1", help="PROCESSESxTHREADS,... [1x2,2x1]")
    add("--topologies", type=several(str), default="v1,v1.5", help="[v1,v1.5]")
    add("--precisions", type=several(str), default="f32,bf16", help="[f32,bf16]")
    add("--peers", type=several(str), help=f"some of {', '.join(NAMES)} [all but pytorch-script]")
    add("--cores", type=several(int), default=cores, help="that the sides are held to [all of this process]")
    add("--patience", type=float, default=900, help="seconds that a side may take to load and compile [900]")
    add("--scratch", type=Path, default=HERE.parent / ".work", help="folder for models, logs, finished rounds")
    add("--fresh", action="store_true", help="forget the rounds of an earlier run")
    add("--output", type=Path, default=HERE.parent / "results" / "featurize.md", help="the table as a file")
    options = parser.parse_args()
    options.sides = [name for precision in options.precisions for name in SIDES[precision]]
    if options.peers:
        options.sides = [name for name in NAMES if name in options.peers or name in
                         [SIDES[precision][0] for precision in options.precisions]]
    for processes, threads in options.settings:
        if processes * threads > len(options.cores):
            parser.error(f"{processes}x{threads} needs more than the {len(options.cores)} cores there are")
    return options


def main():
    options = parse()
    options.scratch = options.scratch.resolve()
    options.model = options.scratch / "model"
    options.scratch.mkdir(parents=True, exist_ok=True)
    export = ["--weights", options.weights, "--images", str(options.images), "--batch", str(options.batch)]
    subprocess.run([options.worker, "export", *export, "--to", str(options.model)], check=True)
    inputs = hashlib.sha256()
    for name in ("weights.safetensors", "pixels.bin"):
        inputs.update((options.model / name).read_bytes())
    inputs.update(Path(options.worker).read_bytes())
    inputs.update(f"{machine.describe()} {platform.node()} {options.cores}".encode())

    lines = [
        "# The network beside other runtimes",
        "",
        f"Made by `bench/peers/featurize.sh` on {datetime.date.today()}. {machine.describe()}.",
        f"Weights `{Path(options.weights).name}`, images/s of the network alone on prepared pixels, each turn about"
        f" {options.seconds:g} s, sides in turn; \"p8 / it\" is the median over rounds of the ratio within a round.",
        "Relative L2 distance (largest over the images) and cosine (smallest) are those of the features to p8's in"
        " f32.",
    ]
    agreed = True
    for processes, threads in options.settings:
        peak = json.loads(
            subprocess.run(
                [options.worker, "peak", "--threads", str(processes * threads)],
                check=True,
                stdout=subprocess.PIPE,
                preexec_fn=lambda: os.sched_setaffinity(0, options.cores[: processes * threads]),
            ).stdout
        )
        rates = [f"{precision} {peak[precision]:.0f}" for precision in ("f32", "bf16") if peak[precision]]
        lines += ["", f"## {plural(processes, 'process', 'processes')} of {plural(threads, 'thread', 'threads')}", ""]
        lines += [f"Multiply-adds from registers, all cores together, in GFLOP/s: {', '.join(rates)}."]
        for topology in options.topologies:
            key = hashlib.sha256(inputs.copy().digest() + f"{topology} {processes}x{threads}".encode()).hexdigest()
            journal = options.scratch / f"rounds-{key[:16]}.jsonl"
            if options.fresh:
                journal.unlink(missing_ok=True)
            measure(options, topology, processes, threads, journal)
            rows, same = table(options, topology, processes, threads, peak, journal)
            agreed &= same
            lines += ["", roofline(topology, peak), *rows]
            text = "\n".join(lines) + "\n"
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(text, encoding="utf-8")
    print(text)
    if not agreed:
        say("features differ: see the rows marked so")
        sys.exit(1)


if __name__ == "__main__":
    main()
