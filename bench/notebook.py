"""Times p8 on the job of the Spark notebook that it replaces, from start to files written.

100 JPEGs of 100 x 100 pixels in folders that are their labels, the 100352 features of the last
stage, standardised, 7 components. The pictures are cut and turned from those of a folder, the same
ones every time, and each is written once.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine

BENCH = Path(__file__).resolve().parent

# A rewrite of the notebook for Spark 4.3 and TensorFlow 2.21, local[2], measured once on an otherwise
# idle machine with an AMD EPYC (Zen 4), 2 cores, 24 GiB, Debian 12.
NOTEBOOK = {"as written (nothing is cached)": 665.6, "with one `.cache()` added": 73.8}


def draw(folder, source, count, side):
    """`count` pictures of `side` x `side` pixels: other cuts and turns of the source's pictures."""
    from PIL import Image

    sources = sorted(source.rglob("*.jpg"))
    if not sources:
        raise SystemExit(f"no .jpg files under {source}")
    for index in range(count):
        path = sources[index % len(sources)]
        turn = index // len(sources)
        image = Image.open(path).convert("RGB")
        image = image.rotate(7 * (turn % 11) - 35, Image.Resampling.BICUBIC, fillcolor="white")
        margin = min(image.size) * (turn % 5) // 40
        image = image.crop((margin, margin, image.width - margin, image.height - margin))
        label = folder / path.parent.name
        label.mkdir(parents=True, exist_ok=True)
        image.resize((side, side), Image.Resampling.BICUBIC).save(label / f"r{turn}_{path.stem}.jpg", quality=90)


def run(options, images, ranks, output):
    """Seconds from the start of mpirun to its end, and what p8 says of the run."""
    shutil.rmtree(output, ignore_errors=True)
    command = ["mpirun", "-np", str(ranks), options.p8, "--input", str(images), "--output", str(output)]
    command += ["--pool", "none", "-k", "7", "--weights", options.weights, "--quiet", *options.more]
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1")
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"p8 ended with {done.returncode}:\n{done.stderr}")
    metrics = json.loads((output / "metrics.json").read_text())
    if metrics["images"]["ok"] != options.count:
        raise SystemExit(f"{metrics['images']['ok']} of {options.count} images were computed")
    return seconds, metrics


def table(options, times, metrics):
    """Markdown: one row for every number of ranks."""
    fastest = min(statistics.median(seconds) for seconds in times.values())
    size = sum(file.stat().st_size for file in options.images_folder.rglob("*.jpg"))
    lines = [
        "# The notebook's own job",
        "",
        f"Made by `bench/notebook.sh` on {datetime.date.today()}. {machine.describe()}.",
        f"{options.count} JPEGs of {options.side} x {options.side} pixels ({size // 1000} kB), `--pool none -k 7`,"
        f" weights `{Path(options.weights).name}`, from the start of `mpirun` to its end with all files written.",
        "",
        "| | seconds, median | min | max | rounds | as written / it | cached / it |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    written, cached = NOTEBOOK.values()
    for ranks, seconds in times.items():
        median = statistics.median(seconds)
        lines.append(
            f"| p8, {ranks} ranks | {median:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {len(seconds)}"
            f" | {written / median:.0f} | {cached / median:.0f} |"
        )
    lines += [f"| the notebook, {name} | {seconds} | | | 1 | | |" for name, seconds in NOTEBOOK.items()]
    lines += [
        "",
        "The notebook's figures are quoted, not measured in this run: a rewrite for Spark 4.3 and TensorFlow 2.21,"
        " `local[2]`, on an AMD EPYC (Zen 4), 2 cores, 24 GiB, Debian 12.",
        f"The target is {options.target:g} s: {'met' if fastest <= options.target else 'missed'}.",
        "",
        "Seconds by phase on the slowest rank, last round (reading and decoding overlap with the network):",
        "",
    ]
    phases = list(next(iter(metrics.values()))["phases"])
    lines += ["| | " + " | ".join(phases) + " |", "|---|" + "---:|" * len(phases)]
    for ranks, found in metrics.items():
        values = (f"{found['phases'][phase]['max_seconds']:.2f}" for phase in phases)
        lines.append(f"| {ranks} ranks | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--p8", required=True, help="the program, which notebook.sh builds")
    add("--images", type=Path, default=BENCH.parent / "training_data", help="pictures to cut from [training_data]")
    add("--weights", default="seeded:50", help="as p8 takes it [seeded:50]")
    add("--ranks", type=lambda text: [int(part) for part in text.split(",")], default="2,3", help="[2,3]")
    add("--rounds", type=int, default=5)
    add("--count", type=int, default=100, help="pictures [100]")
    add("--side", type=int, default=100, help="of a picture in pixels [100]")
    add("--target", type=float, default=6.0, help="seconds [6]")
    add("--scratch", type=Path, default=BENCH / ".work", help="folder for pictures and results of p8")
    add("--output", type=Path, default=BENCH / "results" / "notebook.md", help="the table as a file")
    add("more", nargs="*", help="further options of p8, after --")
    options = parser.parse_args()
    scratch = options.scratch.resolve() / "notebook"
    options.images_folder = scratch / "images"
    shutil.rmtree(options.images_folder, ignore_errors=True)
    draw(options.images_folder, options.images, options.count, options.side)
    times, metrics = {ranks: [] for ranks in options.ranks}, {}
    for round_ in range(options.rounds):
        for ranks in options.ranks:
            seconds, metrics[ranks] = run(options, options.images_folder, ranks, scratch / "p8-out")
            times[ranks].append(seconds)
            print(f"round {round_ + 1}: {ranks} ranks, {seconds:.2f} s", file=sys.stderr, flush=True)
    text = table(options, times, metrics)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
