"""Runs engines beside each other on the same work, and makes figures of what they say.

One engine a process and never two at once. A round runs each engine once; every other round goes the other way.
A figure is the median over rounds of the ratio inside one round, so that what slows the machine for a while slows
both sides of a ratio; its interval is a bootstrap over rounds.
"""
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import numpy as np

import machine
import models

US = "tensormill"
NAMES = {US: "Tensormill", "ort": "ONNX Runtime", "openvino": "OpenVINO"}
FIGURES = ("load_ms", "first_ms", "runs", "p10_ms", "p50_ms", "p90_ms", "peak_rss_mb", "process_mb")
RESAMPLES = 10000
# With fewer rounds an interval says nothing.
LEAST_ROUNDS = 5
TIMEOUT = 900


@dataclass
class Case:
    """Work to measure: a model and the inputs of one run, or of several that make a pass."""
    name: str
    path: str
    feeds: list
    # What a time is divided by, and the unit that this gives.
    divide: float = 1.0
    unit: str = "ms"
    # Files of feeds, once they are written.
    files: list = field(default_factory=list)


class Failed(Exception):
    """An engine that does not run a model, with its last words."""


def command(parser):
    """Options that both scripts have."""
    parser.add_argument("zoo", metavar="ZOO", help="folder of .onnx files")
    parser.add_argument("--bin", default="target/release/tensormill", help="the program, built with --release")
    parser.add_argument("--examples", help="folder of the built examples; beside the program unless given")
    parser.add_argument("--engines", default="ort,openvino", help="peers, among ort and openvino")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, each measured by itself")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement, after the warm-up")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest relative error of outputs")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="size of an open dimension")
    parser.add_argument("--out", help="where to write: NAME gives NAME.md, NAME.svg, NAME.json")


def sizes(args):
    return {name: int(n) for name, _, n in (d.partition("=") for d in args.dim)}


def thread_counts(args):
    return [int(n) for n in args.threads.split(",")]


def engines(args):
    peers = [e for e in args.engines.split(",") if e]
    for e in peers:
        if e not in NAMES or e == US:
            sys.exit(f"--engines: no peer is called {e}")
    return [US, *peers]


def example(args, name):
    folder = args.examples or os.path.join(os.path.dirname(os.path.abspath(args.bin)), "examples")
    return os.path.join(folder, name)


def execute(line):
    """Runs a command to its end; its last words are the reason if it fails."""
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"more than {TIMEOUT} s") from None
    except OSError as reason:
        raise Failed(f"{os.path.basename(line[0])}: {reason.strerror}; is it built?") from None
    if done.returncode:
        words = [w for w in done.stderr.strip().splitlines() if w.strip()] or [f"exit code {done.returncode}"]
        raise Failed(words[-1].strip()[:200])
    return done.stdout


def once(engine, case, threads, args, out):
    """One measurement of one engine; the outputs are left in the file `out`."""
    count, seconds = str(threads), str(args.seconds)
    if engine != US:
        script = os.path.join(machine.HERE, "engine.py")
        words = execute([sys.executable, script, engine, case.path, count, seconds, out, *case.files])
    elif len(case.files) > 1:
        words = execute([example(args, "lengths"), case.path, count, seconds, out, *case.files])
    else:
        given = [case.path, "--inputs", case.files[0], "--threads", count]
        if not os.path.exists(out):
            execute([args.bin, "run", *given, "--save", out])
        words = execute([args.bin, "bench", *given, "--duration", seconds, "--json"])
    lines = [line for line in words.splitlines() if line.startswith("{")]
    if not lines:
        raise Failed("it printed no figures")
    # Only figures: the program also says where the model lies.
    return {name: value for name, value in json.loads(lines[-1]).items() if name in FIGURES}


def error(ours, theirs):
    """The largest relative error over the outputs of two files: the norm of the difference over the norm."""
    with np.load(ours) as a, np.load(theirs) as b:
        if len(a.files) != len(b.files):
            return float("inf")
        worst = 0.0
        for x, y in zip(a.files, b.files):
            x, y = a[x], b[y]
            if x.shape != y.shape:
                return float("inf")
            x, y = x.astype(np.float64), y.astype(np.float64)
            if not np.array_equal(x, y, equal_nan=True):
                e = np.linalg.norm((x - y).ravel()) / max(np.linalg.norm(y.ravel()), 1e-30)
                worst = max(worst, e if np.isfinite(e) else float("inf"))
        return float(worst)


def ratio(samples):
    """The median of ratios and its 95% interval, which is missing for few rounds."""
    samples = np.asarray(samples)
    found = {"median": float(np.median(samples)), "low": None, "high": None, "rounds": len(samples)}
    if len(samples) >= LEAST_ROUNDS:
        rng = np.random.default_rng(0)
        drawn = np.median(rng.choice(samples, (RESAMPLES, len(samples))), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        found |= {"low": float(low), "high": float(high)}
    return found


def verdict(r):
    """What a ratio says: only an interval that leaves 1 out says anything."""
    if r is None or r["low"] is None:
        return "unknown"
    return "ahead" if r["low"] > 1 else "behind" if r["high"] < 1 else "even"


def measure(case, threads, args, work):
    """All rounds of one case: the medians of each engine, and the ratios of the peers' figures to ours."""
    order, seen, failed = engines(args), {}, {}
    outs = {e: os.path.join(work, f"{e}.npz") for e in order}
    for file in outs.values():
        if os.path.exists(file):
            os.remove(file)
    for k in range(args.rounds):
        for e in order if k % 2 == 0 else order[::-1]:
            if e in failed:
                continue
            try:
                figures = once(e, case, threads, args, outs[e])
            except Failed as reason:
                # Where files lie on this machine says nothing to others.
                failed[e] = re.sub(r"(?:/[\w.@+-]+)+/([\w.@+-]+)", r"\1", str(reason))
                continue
            figures["output_ms"] = figures["load_ms"] + figures["first_ms"]
            for name in ("p10_ms", "p50_ms", "p90_ms"):
                figures[name] /= case.divide
            seen.setdefault(e, []).append(figures)
    errors = {}
    reference = next((e for e in order[1:] if e not in failed), None)
    if reference:
        for e in order:
            if e != reference and e not in failed:
                errors[e] = error(outs[e], outs[reference])
                if not errors[e] <= args.tolerance:
                    failed[e] = f"outputs differ from {NAMES[reference]}'s: relative error {errors[e]:.1e}"
    row = {"model": case.name, "threads": threads, "unit": case.unit, "inputs": described(case), "failed": failed,
           "reference": reference,
           "errors": {e: x if np.isfinite(x) else None for e, x in errors.items()}, "rounds": seen}
    good = [e for e in order if e in seen and e not in failed]
    row["median"] = {e: {name: median(d.get(name) for d in seen[e]) for name in seen[e][0]} for e in good}
    peers = [e for e in good if e != US]
    row["ratio"] = {}
    if US in good and peers:
        for name in ("p50_ms", "load_ms", "first_ms", "output_ms", "peak_rss_mb"):
            row["ratio"][name] = against(seen, peers, name)
            row["ratio"][name] |= {e: against(seen, [e], name)["best"] for e in peers}
    row["verdict"] = verdict(row["ratio"].get("p50_ms", {}).get("best"))
    return row


def described(case):
    """The inputs of a case in words: their shapes, and how many have the same."""
    if len(case.feeds) > 1:
        return f"{len(case.feeds)} different ones"
    shapes = ["[" + ",".join(map(str, np.shape(value))) + "]" for value in case.feeds[0].values()]
    return ", ".join(f"{shapes.count(s)} x {s}" if shapes.count(s) > 1 else s for s in dict.fromkeys(shapes))


def against(seen, peers, name):
    """How far the best of some peers lies above us in a figure where less is better."""
    pairs = [(min((seen[e][k].get(name) or 0.0) for e in peers), seen[US][k].get(name))
             for k in range(len(seen[US]))]
    pairs = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
    return {"best": ratio([theirs / ours for theirs, ours in pairs]) if pairs else None}


def median(values):
    values = [v for v in values if isinstance(v, (int, float))]
    return float(np.median(values)) if values else None


def operations(case, args):
    """Floating-point operations of one run, as the program counts them; None if it cannot say."""
    try:
        words = execute([args.bin, "profile", case.path, "--inputs", case.files[0], "--iterations", "1", "--top", "0",
                         "--json"])
        return sum(node["flops"] for node in json.loads(words)["nodes"])
    except (Failed, KeyError, ValueError):
        return None


def roofline(row, work, best):
    """The least time that one run could take on this machine, and what part of the measured one that is.

    Arithmetic at the rate of multiply-adds in registers, or the constants that cannot stay in the largest cache
    at the rate of reading memory, whichever takes longer.
    """
    limit = best.get(row["threads"])
    if not limit or not limit["multiply_add_gflops"] or not work.get("flops"):
        return
    streamed = max(0, work["weights"] - machine.last_cache())
    compute = work["flops"] / max(limit["multiply_add_gflops"].values()) / 1e6
    memory = streamed / limit["read_gbs"] / 1e6
    bound = max(compute, memory)
    row["roofline"] = {
        "bound_ms": bound, "by": "arithmetic" if compute >= memory else "memory",
        "share": {e: bound / m["p50_ms"] for e, m in row["median"].items() if m["p50_ms"]},
    } | work


def session(cases, args, what):
    """Measures all cases and returns everything that a report needs."""
    if not os.path.exists(args.bin):
        sys.exit(f"{args.bin}: not found; build it with cargo build --release -p tensormill-cli, or give --bin")
    counts, busy = thread_counts(args), machine.Busy()
    began = datetime.datetime.now(datetime.timezone.utc)
    best = machine.limits(example(args, "limits"), counts)
    if not best:
        print("no limits: cargo build --release -p tensormill-kernels --example limits", file=sys.stderr)
    rows, missing, facts = [], [], {}
    with tempfile.TemporaryDirectory() as work:
        for case in cases(work):
            if isinstance(case, str):
                missing.append(case)
                print(f"missing: {case}", file=sys.stderr)
                continue
            case.files = [os.path.join(work, f"in{i}.npz") for i in range(len(case.feeds))]
            for file, feed in zip(case.files, case.feeds):
                np.savez(file, **feed)
            if len(case.feeds) == 1 and case.divide == 1.0:
                facts[case.name] = {"flops": operations(case, args), "weights": models.weights(case.path)}
            for threads in counts:
                rows.append(measure(case, threads, args, work))
                print(line(rows[-1]), flush=True)
    best = machine.better(best, machine.limits(example(args, "limits"), counts))
    for row in rows:
        roofline(row, facts.get(row["model"], {}), best)
    return {
        "what": what, "date": began.strftime("%Y-%m-%d"), "minutes": minutes_since(began), "command": shown(args, what),
        "settings": {"rounds": args.rounds, "seconds": args.seconds, "tolerance": args.tolerance},
        "engines": engines(args), "hardware": machine.hardware(),
        "versions": machine.versions(args.bin, engines(args)), "on_disk": machine.on_disk(args.bin, engines(args)),
        "limits": list(best.values()), "busy": busy.shares(), "missing": missing, "rows": rows,
    }


def minutes_since(began):
    return round((datetime.datetime.now(datetime.timezone.utc) - began).total_seconds() / 60, 1)


def shown(args, what):
    """The command to repeat a run with, without the places of this machine."""
    words = ["python", f"benches/peers/{what}.py", "ZOO"]
    given = vars(args) | {"bin": "target/release/tensormill"}
    for name in ("bin", "models", "rows", "engines", "threads", "rounds", "seconds", "tolerance"):
        if given.get(name):
            words += [f"--{name}", str(given[name])]
    for dim in args.dim:
        words += ["--dim", dim]
    if given.get("more"):
        words += ["--more", "MORE"]
    return shlex.join(words)


def line(row):
    """One row for a terminal."""
    parts = [f"{row['model']:24} {row['threads']}T"]
    parts += [f"{e} {m['p50_ms']:.4g} {row['unit']}" for e, m in row["median"].items()]
    r = row["ratio"].get("p50_ms", {}).get("best")
    if r:
        interval = f" [{r['low']:.2f}, {r['high']:.2f}]" if r["low"] is not None else ""
        parts.append(f"ratio {r['median']:.2f}{interval} {row['verdict']}")
    parts += [f"{e} failed: {why}" for e, why in row["failed"].items()]
    return "  ".join(parts)
