"""Times whole runs of p8 over numbers of ranks, and over numbers of images.

Pooled features of layer4, 95 % of the variance. The cores are divided among the ranks. The pictures are
cut and turned from those of a folder as for the notebook's job, and are the same ones every time.
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
from notebook import draw

BENCH = Path(__file__).resolve().parent


def run(options, images, ranks, output):
    """What p8 says of one run, with the seconds from the start of mpirun to its end."""
    shutil.rmtree(output, ignore_errors=True)
    command = ["mpirun", "-np", str(ranks), options.p8, "--input", str(images), "--output", str(output)]
    command += ["--weights", options.weights, "--quiet"]
    start = time.perf_counter()
    done = subprocess.run(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"p8 ended with {done.returncode}:\n{done.stderr}")
    metrics = json.loads((output / "metrics.json").read_text())
    phases = metrics["phases"]
    return {
        "images/s": metrics["images_per_second"],
        "PCA, seconds": sum(phases[name]["max_seconds"] for name in ("fit", "project")),
        "whole run, seconds": seconds,
        "largest memory of a rank, MB": max(metrics["environment"]["peak_memory_bytes_per_rank"]) / 1e6,
    }


def table(name, rows):
    """Markdown: one row for every number, medians over the rounds."""
    columns = list(next(iter(rows.values()))[0])
    lines = [f"| {name} | " + " | ".join(columns) + " | rounds |", "|---:|" + "---:|" * (len(columns) + 1)]
    for number, rounds in rows.items():
        medians = (statistics.median(found[column] for found in rounds) for column in columns)
        lines.append(f"| {number} | " + " | ".join(f"{value:.2f}" for value in medians) + f" | {len(rounds)} |")
    return lines


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--p8", required=True, help="the program, which scaling.sh builds")
    add("--pictures", type=Path, default=BENCH.parent / "training_data", help="to cut from [training_data]")
    add("--weights", default="seeded:50", help="as p8 takes it [seeded:50]")
    add("--ranks", type=numbers, default="1,2,4", help="[1,2,4]")
    add("--images", type=numbers, default="100,300,1000,3000", help="[100,300,1000,3000]")
    add("--rounds", type=int, default=3)
    add("--side", type=int, default=224, help="of a picture in pixels [224]")
    add("--scratch", type=Path, default=BENCH / ".work", help="folder for pictures and results of p8")
    add("--output", type=Path, default=BENCH / "results" / "scaling.md", help="the tables as a file")
    options = parser.parse_args()
    scratch = options.scratch.resolve() / "scaling"
    middle = sorted(options.images)[len(options.images) // 2]
    # The images with as many ranks as there are cores, up to those asked for.
    most = max((ranks for ranks in options.ranks if ranks <= len(os.sched_getaffinity(0))), default=1)
    by_ranks = {ranks: [] for ranks in options.ranks}
    by_images = {count: [] for count in options.images}
    plan = [(by_ranks, ranks, middle, ranks) for ranks in options.ranks]
    plan += [(by_images, count, count, most) for count in options.images]
    for count in sorted(set(options.images)):
        shutil.rmtree(scratch / str(count), ignore_errors=True)
        draw(scratch / str(count), options.pictures, count, options.side)
    for round_ in range(options.rounds):
        for rows, number, count, ranks in plan:
            found = run(options, scratch / str(count), ranks, scratch / "p8-out")
            rows[number].append(found)
            print(
                f"round {round_ + 1}: {count} images, {ranks} ranks, {found['images/s']:.1f} images/s",
                file=sys.stderr,
                flush=True,
            )
    lines = [
        "# Speed over ranks and images",
        "",
        f"Made by `bench/scaling.sh` on {datetime.date.today()}. {machine.describe()}.",
        f"JPEGs of {options.side} x {options.side} pixels, pooled features of layer4, weights"
        f" `{Path(options.weights).name}`; the cores are divided among the ranks. Medians.",
        "",
        f"## {middle} images",
        "",
        *table("ranks", by_ranks),
        "",
        f"## {most} ranks",
        "",
        *table("images", by_images),
    ]
    text = "\n".join(lines) + "\n"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
