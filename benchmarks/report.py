"""What a run leaves: tables, one JSON file that later runs add to, and a plot."""

import hashlib
import json
import math
import os
import platform
import subprocess
import time
from pathlib import Path

import llvmlite.binding
from rich.console import Console
from rich.table import Table

from benchmarks.engines import OURS, PEERS
from benchmarks.shapes import DIRECTIONS

console = Console(width=None if os.isatty(1) else 120)

# The ratio to the fastest peer that is asked for, and the one that is aimed at.
BARS = (
    ("CIFAR-10 network, training", ("cifar10", "train"), 2.3, 3.0),
    ("CIFAR-10 network, prediction", ("cifar10", "predict"), 2.8, 4.0),
    ("CelebA network, training", ("celeba", "train"), 2.3, 3.0),
    ("VGG-like, training", ("vgg", "train"), 2.2, 3.0),
    ("ResNet-20, training", ("resnet20", "train"), 2.0, 3.0),
    ("900 x 900 picture", ("picture", "predict"), 2.0, 3.0),
)
LAYER_BARS = {"3x3": (2.0, 1.5), "others": (1.0, 0.85)}  # geometric mean, smallest


def title(engine):
    return PEERS[engine].title if engine in PEERS else engine


def table(heading, columns, rows, notes=()):
    """Print a table: the first column to the left, the others to the right."""
    made = Table(title=heading, title_justify="left")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    console.print(made)
    for note in notes:
        console.print(f"  {note}", highlight=False, markup=False)


def ratios(measured):
    """{peer: its time / minicnn's}; `measured` is {engine: summary}."""
    ours = measured[OURS]["ms"]
    return {name: found["ms"] / ours for name, found in measured.items() if name != OURS}


def fastest(measured):
    """(peer, how many times faster than it minicnn is), None without peers."""
    found = ratios(measured)
    return min(found.items(), key=lambda item: item[1]) if found else None


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


# -- tables ----------------------------------------------------------------------------------------


def network_table(section):
    batch_size, measured = section["batch_size"], section["engines"]
    found = ratios(measured)
    rows = [
        (
            title(name),
            f"{timing['ms']:.2f}",
            f"{timing['low']:.2f} .. {timing['high']:.2f}",
            f"{1e3 * batch_size / timing['ms']:.4g}",
            f"{found[name]:.2f} x" if name in found else "",
        )
        for name, timing in sorted(measured.items(), key=lambda item: item[1]["ms"])
    ]
    rows += [(title(name), "-", "-", "-", reason) for name, reason in section["absent"].items()]
    heading = (
        f"{section['title']}: {section['work']}, batch {batch_size}, {section['threads']} threads"
    )
    columns = ("engine", "ms per step", "10 % .. 90 %", "images/s", "minicnn is faster by")
    table(heading + _isa(section), columns, rows)


def _isa(section):
    return ", AVX2 only" if section["isa"] == "avx2" else ""


def layer_table(section):
    """All layers of a group: minicnn's time, its rate, and the ratio to the fastest peer."""
    rows = []
    for row in section["rows"]:
        best = fastest(row["engines"])
        ours = row["engines"][OURS]["ms"]
        rate = f"{row['operations'] / ours / 1e6:.0f}" if row["operations"] else ""
        peer = (f"{best[1]:.2f} x", title(best[0])) if best else ("", "")
        rows.append((row["layer"], row["direction"], f"{ours:.3f}", rate, *peer))
    columns = ("layer", "direction", "ms", "GFLOP/s", "ratio", "to the fastest peer")
    heading = f"Layers, {section['group']}, {section['threads']} threads{_isa(section)}"
    notes = []
    for direction, (mean, least, count) in group_ratios(section).items():
        notes.append(f"{direction}: geometric mean {mean:.2f}, smallest {least:.2f}, of {count}")
    notes += [f"{title(name)}: {reason}" for name, reason in section["absent"].items()]
    lacking = {}
    for row in section["rows"]:
        for name in row["absent"]:
            counts = lacking.setdefault(name, dict.fromkeys(DIRECTIONS, 0))
            counts[row["direction"]] += 1
    for name, counts in lacking.items():
        found = ", ".join(f"{n} {direction}" for direction, n in counts.items() if n)
        notes.append(f"{title(name)} cannot compute: {found}")
    table(heading, columns, rows, notes)


def group_ratios(section):
    """{direction: (geometric mean, smallest, count)} and "all" of the ratios to the fastest."""
    found = {}
    for row in section["rows"]:
        best = fastest(row["engines"])
        if best:
            found.setdefault(row["direction"], []).append(best[1])
            found.setdefault("all", []).append(best[1])
    names = (*DIRECTIONS, "all")
    return {n: (geometric_mean(v), min(v), len(v)) for n in names if (v := found.get(n))}


def bandwidth_table(section):
    rows = []
    for row in section["rows"]:
        if "error" in row:
            rows.append((row["kernel"], "-", "-", "-", row["error"]))
            continue
        rate, triad = (row["bytes"] / row[key]["ms"] / 1e6 for key in ("timing", "triad"))
        rows.append(
            (
                row["kernel"],
                f"{row['timing']['ms']:.3f}",
                f"{rate:.1f}",
                f"{triad:.1f}",
                f"{100 * rate / triad:.0f} %",
            )
        )
    columns = ("kernel", "ms", "GB/s", "triad GB/s", "share")
    table(f"Bandwidth, {section['threads']} threads{_isa(section)}", columns, rows)


def peaks_table(section):
    peaks, medians = section["peaks"], section["peaks"]["medians"]
    rates = [f"{found['flops'] / 1e9:.0f} GFLOP/s" for found in (peaks, medians)]
    rows = [("multiply-adds in registers", *rates)]
    for size in peaks["bandwidth"]:
        rates = [f"{found['bandwidth'][size] / 1e9:.1f} GB/s" for found in (peaks, medians)]
        rows.append((f"triad moving {int(size) >> 20} MiB", *rates))
    heading = f"Peaks, {section['threads']} threads{_isa(section)}"
    columns = ("what", f"best of {peaks['calls']} calls or more", "median")
    table(heading, columns, rows)


def memory_table(section):
    rows = []
    for row in section["rows"]:
        if "error" in row:
            rows.append((title(row["engine"]), "-", "-", "-", "-", row["error"]))
            continue
        names = ("after_import", "ready", "peak", "peak_less_import", "peak_less_ready")
        rows.append((title(row["engine"]), *(f"{row[name] / 2**20:.0f}" for name in names)))
    columns = ("engine", "after import", "ready", "peak", "peak - import", "peak - ready")
    heading = (
        f"Memory of training in MiB: {section['title']}, batch {section['batch_size']}, "
        f"{section['threads']} threads"
    )
    table(heading, columns, rows)


def epochs_table(section):
    rows = [(str(row["epochs"]), f"{row['resident'] / 2**20:.1f}") for row in section["rows"]]
    table("Resident MiB of minicnn's fit", ("after epochs", "MiB"), rows)


def startup_table(section):
    rows = []
    for row in section["rows"]:
        if "error" in row:
            rows.append((title(row["engine"]), row["what"], "-", row["error"]))
            continue
        span = f"{row['low']:.2f} .. {row['high']:.2f}"
        rows.append((title(row["engine"]), row["what"], f"{row['seconds']:.2f}", span))
    columns = ("engine", "what", "seconds", "least .. most")
    table("Start-up of the CIFAR-10 network, batch 64", columns, rows)


TABLES = {
    "network": network_table,
    "layers": layer_table,
    "bandwidth": bandwidth_table,
    "peaks": peaks_table,
    "memory": memory_table,
    "epochs": epochs_table,
    "startup": startup_table,
}


def bars(sections):
    """Every bar beside what was measured."""
    rows = []
    for what, (network, work), least, aim in BARS:
        for section in sections:
            if section["kind"] != "network" or (section["network"], section["work"]) != (
                network,
                work,
            ):
                continue
            best = fastest(section["engines"])
            if best:
                case = f"{what}, batch {section['batch_size']}, {section['threads']} threads"
                rows.append(_verdict(case + _isa(section), best[1], least, aim, title(best[0])))
    for section in sections:
        if section["kind"] == "layers" and (found := group_ratios(section).get("all")):
            mean, least = LAYER_BARS[section["group"]]
            case = f"layers {section['group']}, {section['threads']} threads{_isa(section)}"
            aim = 3.0 if section["group"] == "3x3" else 1.5
            rows.append(_verdict(f"{case}, geometric mean", found[0], mean, aim))
            rows.append(_verdict(f"{case}, smallest", found[1], least))
    if rows:
        columns = ("bar", "ratio", "at least", "aim", "reached", "fastest peer")
        table("Bars: images per second, ratio to the fastest peer", columns, rows)


def _verdict(what, ratio, least, aim=None, peer=""):
    reached = "no" if ratio < least else "the aim" if aim and ratio >= aim else "yes"
    return (what, f"{ratio:.2f}", f"{least:g}", f"{aim:g}" if aim else "", reached, peer)


# -- the file --------------------------------------------------------------------------------------


# Those that some engine has kernels for; processors have many more.
INSTRUCTION_SETS = (
    *("sse4.2", "avx", "fma", "avx2", "avx512f", "avx512bw", "avx512vnni", "avx512bf16"),
    *("avx512fp16", "amx-tile", "amx-int8", "amx-bf16", "neon", "bf16", "sve"),
)


def machine():
    """What was measured on. Virtual machines hide the processor's name, but not its numbers."""
    info, caches = {}, {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # of the first processor
        pairs = (
            line.partition(":") for line in cpuinfo.read_text().partition("\n\n")[0].split("\n")
        )
        info = {key.strip(): value.strip() for key, _, value in pairs}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (index / name).read_text().strip() for name in ("level", "type", "size")
        )
        caches[f"L{level} {kind}"] = size
    features = llvmlite.binding.get_host_cpu_features()
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    return {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "vendor": info.get("vendor_id", ""),
        "family": info.get("cpu family", ""),
        "model": info.get("model", ""),
        "stepping": info.get("stepping", ""),
        "kind": llvmlite.binding.get_host_cpu_name(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if features.get(name)],
        "cores": os.cpu_count(),
        "usable_cores": len(usable),
        "caches": caches,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def hardware(of):
    """The part of a machine's description that figures must have in common to be compared."""
    names = ("processor", "family", "model", "instruction_sets", "cores")
    return {name: of.get(name) for name in names}


def described(of):
    """A machine in a few lines."""
    numbers = [f"{name} {of[name]}" for name in ("family", "model", "stepping") if of[name]]
    caches = ", ".join(f"{name} {size}" for name, size in of["caches"].items())
    return (
        f"machine: {of['processor']} ({', '.join(filter(None, (of['vendor'], *numbers)))}; "
        f"{of['kind']} to LLVM), {of['usable_cores']} of {of['cores']} cores\n"
        f"instruction sets: {' '.join(of['instruction_sets']) or 'unknown'}\n"
        f"caches: {caches or 'unknown'}; {of['system']}; Python {of['python']}"
    )


def commit():
    """The commit that was measured and a hash of what differs from it, "" outside of a checkout."""

    def git(*words):
        here = Path(__file__).parent.parent
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=here)
        return done.stdout.strip()

    try:
        name, changes = (
            git("describe", "--always"),
            git("diff", "HEAD", "--", "minicnn", "benchmarks"),
        )
    except OSError:  # there is no git
        return ""
    return f"{name}-changed-{hashlib.sha1(changes.encode()).hexdigest()[:8]}" if changes else name


class Results:
    """The sections of this run and of earlier ones in the same folder; a repeated one is replaced.

    Ratios are only ever taken within a section, whose engines took turns in one run. The file is
    written after each section. `asked`: the options on which a section's figures depend.
    """

    def __init__(self, folder, asked, resume=False):
        self.folder, self.asked, self.resume = folder, json.loads(json.dumps(asked)), resume
        self.file = folder / "results.json"
        self.sections, self.new, self.begin = {}, [], time.monotonic()
        self.machine, self.commit = machine(), commit()
        if self.file.exists():
            before = json.loads(self.file.read_text())
            if hardware(before["machine"]) != hardware(self.machine):
                raise SystemExit(
                    f"{self.file} was measured on {before['machine']['processor']}, this is "
                    f"another machine: name another folder by --output"
                )
            self.sections = before["sections"]

    def wants(self, name):
        """Whether a section is still to be measured: always, unless an earlier run is resumed."""
        found = self.sections.get(name, {})
        same = found.get("commit") == self.commit and found.get("asked") == self.asked
        if not (self.resume and same):
            return True
        if name not in self.new:
            self.new.append(name)
            console.print(f"{name}: measured before", highlight=False)
        return False

    def add(self, name, kind, **content):
        """Keep and print a section; its seconds are those since the one before."""
        now = time.monotonic()
        section = {"kind": kind, "commit": self.commit, "asked": self.asked, **content}
        section["seconds"], self.begin = round(now - self.begin, 1), now
        self.sections[name] = json.loads(json.dumps(section))  # as when read again
        self.new.append(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        written = {"machine": self.machine, "sections": self.sections}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(written, indent=1) + "\n")
        part.replace(self.file)  # whoever interrupts finds the old file or the new one
        TABLES[kind](self.sections[name])

    def finish(self):
        """The machine, the bars of this run, and the plot over all sections."""
        console.print(described(self.machine), highlight=False, markup=False)
        bars([self.sections[name] for name in self.new])
        plot(list(self.sections.values()), self.folder / "results.png")


# -- the plot --------------------------------------------------------------------------------------


def plot(sections, file):
    """Ratios of networks, ratios of layers, and the roofline, into one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_kind = {kind: [s for s in sections if s["kind"] == kind] for kind in TABLES}
    panels = [
        (draw, by_kind[kind])
        for draw, kind in ((_draw_networks, "network"), (_draw_layers, "layers"))
        if any(_has_peers(section) for section in by_kind[kind])
    ]
    rooflines = [
        (s, layers)
        for s in by_kind["peaks"]
        if (layers := [x for x in by_kind["layers"] if _same_setting(x, s)])
    ]
    count = len(panels) + len(rooflines)
    if not count:
        return
    width = max(11, 0.8 * len(by_kind["network"]))  # inches; a network's label needs three quarters
    figure, axes = pyplot.subplots(count, 1, figsize=(width, 6 * count), squeeze=False)
    axes = list(axes[:, 0])
    for draw, found in panels:
        draw(axes.pop(0), found)
    for peaks, layers in rooflines:
        _draw_roofline(axes.pop(0), peaks, layers)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    console.print(f"plot: {file}", highlight=False)


def _same_setting(a, b):
    return (a["threads"], a["isa"]) == (b["threads"], b["isa"])


def _has_peers(section):
    rows = section["rows"] if section["kind"] == "layers" else [section]
    return any(len(row["engines"]) > 1 for row in rows)


def _draw_networks(axis, sections):
    sections = [section for section in sections if _has_peers(section)]
    names = [name for name in PEERS if any(name in s["engines"] for s in sections)]
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        heights = [
            1e3 * s["batch_size"] / s["engines"][name]["ms"] if name in s["engines"] else 0
            for s in sections
        ]
        ours = [1e3 * s["batch_size"] / s["engines"][OURS]["ms"] for s in sections]
        places = [x + (i - len(names) / 2) * width for x in range(len(sections))]
        share = [height / own for height, own in zip(heights, ours, strict=True)]
        axis.bar(places, share, width, label=title(name), color=f"C{i}" if i < 10 else "k")
    labels = [
        f"{s['network']}\n{s['work']}\nbatch {s['batch_size']}\n{s['threads']} thr."
        + _isa(s).replace(", ", "\n")
        for s in sections
    ]
    axis.set_xticks(range(len(sections)), labels, fontsize=6)
    axis.set_ylabel("images per second, minicnn = 1")
    axis.legend(fontsize=7, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.06))
    axis.set_title("Networks")


def _draw_layers(axis, sections):
    place, ticks = 0, []
    marks = {"forward": "o", "input_grad": "v", "kernel_grad": "^"}
    for section in sections:
        for row in section["rows"]:
            best = fastest(row["engines"])
            if not best:
                continue
            color = "C0" if section["group"] == "3x3" else "C1"
            axis.plot(place, best[1], marks[row["direction"]], color=color, markersize=4)
            place += 1
        ticks.append((place, f"{section['group']}\n{section['threads']} threads{_isa(section)}"))
        axis.axvline(place, color="0.7", linewidth=0.5)
    axis.axhline(1, color="0.3", linewidth=0.8)
    axis.set_yscale("log")
    axis.set_xticks([x for x, _ in ticks], [name for _, name in ticks], fontsize=7, ha="right")
    axis.set_ylabel("time of the fastest peer / time of minicnn")
    axis.set_title("Single layers: forward (o), input gradient (v), kernel gradient (^)")


def _draw_roofline(axis, peaks, sections):
    """Rate over intensity (operations of the direct method per byte that has to be moved).

    Winograd's products are fewer than those counted, so that its points may lie above the roof.
    """
    flops, bandwidth = peaks["peaks"]["flops"], peaks["peaks"]["bandwidth"]
    intensities = [0.25 * 2**i for i in range(14)]
    for size, rate in bandwidth.items():
        roof = [min(flops, rate * x) / 1e9 for x in intensities]
        axis.plot(intensities, roof, linewidth=0.8, label=f"triad of {int(size) >> 20} MiB")
    marks = {"forward": "o", "input_grad": "v", "kernel_grad": "^"}
    for section in sections:
        color = "C0" if section["group"] == "3x3" else "C1"
        for row in section["rows"]:
            if row["operations"]:
                axis.plot(
                    row["operations"] / row["bytes"],
                    row["operations"] / row["engines"][OURS]["ms"] / 1e6,
                    marks[row["direction"]],
                    color=color,
                    markersize=4,
                )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_ylim(1)
    axis.set_xlabel("FLOP (direct method) per byte")
    axis.set_ylabel("GFLOP/s")
    axis.legend(fontsize=7)
    axis.set_title(
        f"Roofline, {peaks['threads']} threads{_isa(peaks)}: multiply-adds "
        f"{flops / 1e9:.0f} GFLOP/s; 3x3 layers blue, others orange"
    )
