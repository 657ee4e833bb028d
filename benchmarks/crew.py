"""The engines' processes, seen from the one that asks: started, asked in turn, ended."""

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engines import OURS, PEERS, distribution

# Threads that wait for work spin for a while before they sleep: PyTorch's some 5 ms, those of ONNX
# Runtime 30 ms. The next engine is asked when the one before has come to rest.
PAUSE = 0.01
LONGEST_PAUSE = 0.5

# Haswell's instructions: AVX2 and FMA, nothing of AVX-512. Both variables are needed, the name
# alone still gives AVX-512.
_HASWELL = (
    *("64bit", "cx8", "cmov", "fxsr", "mmx", "sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2"),
    *("popcnt", "cx16", "sahf", "avx", "f16c", "fma", "avx2", "bmi", "bmi2", "lzcnt", "movbe"),
    *("xsave", "xsaveopt", "fsgsbase", "invpcid", "crc32"),
)
_USER = os.environ.get("USER", "")
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in _HASWELL),
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # PyTorch's dense layers
    # What torch.compile kept for the whole processor is not for this: its gradients were wrong.
    "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"torchinductor_{_USER}_avx2"),
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
# Eigen and ONNX Runtime choose their instructions themselves and take no order.
UNLIMITED = ("onnxruntime",)


@dataclass
class Setting:
    """How the engines of one run are started."""

    threads: int
    isa: str = "host"
    pythons: dict = field(default_factory=dict)  # engine: interpreter

    def environment(self, name):
        counts = dict.fromkeys(
            (
                "OMP_NUM_THREADS",
                "OPENBLAS_NUM_THREADS",
                "MKL_NUM_THREADS",
                "TF_NUM_INTRAOP_THREADS",
                "TF_NUM_INTEROP_THREADS",
            ),
            str(self.threads),
        )
        limits = AVX2 if self.isa == "avx2" else {}
        return {**os.environ, **counts, **limits, **PEERS[name].environment}

    def python(self, name):
        return self.pythons.get(name, sys.executable)


def absent(name, setting):
    """What keeps an engine from running, None if nothing does."""
    if setting.isa == "avx2" and name in UNLIMITED:
        return "cannot be limited to AVX2"
    needs = PEERS[name].needs
    if name in setting.pythons:
        code = "import importlib.util, sys\nsys.exit(' '.join(n for n in sys.argv[1:] "
        code += "if importlib.util.find_spec(n) is None) or 0)"
        command = [setting.pythons[name], "-c", code, *needs]
        missing = subprocess.run(command, capture_output=True, text=True).stderr.split()
    else:
        missing = [module for module in needs if importlib.util.find_spec(module) is None]
    return f"not installed: {', '.join(map(distribution, missing))}" if missing else None


class Failure(Exception):
    """An engine's answer that something cannot be done."""


class Worker:
    """An engine's process."""

    def __init__(self, name, setting, log):
        self.name = name
        self.process = subprocess.Popen(
            [setting.python(name), "-m", "benchmarks.worker", name, "--threads",
             str(setting.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=setting.environment(name),
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip

    def ask(self, **command):
        """The answer to a command; Failure if there is none."""
        self.send(**command)
        return self.answer()

    def send(self, **command):
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise Failure("its process has ended") from None

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"its process ended with code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def processor_seconds(self):
        """Time that its living threads have run so far; 0 where the kernel does not tell."""
        files = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return 1e-9 * sum(int(file.read_text().split()[0]) for file in files)

    def settle(self):
        """Wait until its threads sleep, half a second at most."""
        deadline, before = time.monotonic() + LONGEST_PAUSE, self.processor_seconds()
        while time.monotonic() < deadline:
            time.sleep(PAUSE)
            now = self.processor_seconds()
            if now - before < 0.05 * PAUSE:
                return
            before = now

    def stop(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _end_without_ours(name, failure):
    if name == OURS:
        raise SystemExit(f"minicnn itself fails, nothing to compare with: {failure}") from None


class Crew:
    """All engines of a run. An engine that fails is left out from then on, with the reason."""

    def __init__(self, names, setting, log):
        self.setting, self.failures, self.about = setting, {}, {}
        self.workers = {}
        for name in names:
            reason = absent(name, setting)
            if reason:
                self.failures[name] = reason
            else:
                self.workers[name] = Worker(name, setting, log)
        for name, worker in list(self.workers.items()):  # they load side by side
            with self.leaving_out(name):
                self.about[name] = worker.answer()
        if setting.isa == "avx2" and self.about.get("minicnn", {}).get("lanes", 8) != 8:
            raise SystemExit("minicnn still computes with other than 8 lanes: AVX2 was not taken")

    @contextlib.contextmanager
    def leaving_out(self, name):
        """A failure inside costs this engine its place, not the others theirs."""
        try:
            yield
        except Failure as failure:
            _end_without_ours(name, failure)
            self.failures[name] = str(failure)
            self.workers.pop(name).stop()

    def ask_each(self, commands):
        """{name: its answer or its Failure}; they work side by side, so this is for no timing."""
        answers, failures = {}, {}
        for name, command in commands.items():
            try:
                self.workers[name].send(**command)
            except Failure as failure:
                failures[name] = failure
        for name in commands:
            try:
                answers[name] = failures.get(name) or self.workers[name].answer()
            except Failure as failure:
                answers[name] = failure
        return answers

    def ask_all(self, **command):
        """One command to all, side by side; whoever fails is left out."""
        answers = self.ask_each(dict.fromkeys(self.workers, command))
        for name, answer in answers.items():
            with self.leaving_out(name):
                if isinstance(answer, Failure):
                    raise answer

    def idle_use(self, seconds=0.5):
        """Share of a processor that each engine burns while nobody asks it anything."""
        before = {name: worker.processor_seconds() for name, worker in self.workers.items()}
        time.sleep(seconds)
        return {
            name: (worker.processor_seconds() - before[name]) / seconds
            for name, worker in self.workers.items()
        }

    def measure(self, work, rounds, names, warm_up=2, **amount):
        """{name: milliseconds of each step} in turns, {name: why it refuses}.

        `warm_up` steps that do not count come first, side by side: they compile. An engine that
        cannot do this work stays in the crew.
        """
        first = {"do": "time", "work": work, "least": warm_up}
        answers = self.ask_each(dict.fromkeys(names, first))
        times = {name: [] for name in names}
        refused = {name: a for name, a in answers.items() if isinstance(a, Failure)}
        for worker in self.workers.values():
            worker.settle()
        for _ in range(rounds):
            for name in [name for name in names if name not in refused]:
                try:
                    times[name] += self.workers[name].ask(do="time", work=work, **amount)["ms"]
                    self.workers[name].settle()
                except Failure as failure:
                    refused[name] = failure
        for name, failure in refused.items():
            _end_without_ours(name, failure)
            del times[name]
        return times, {name: str(failure) for name, failure in refused.items()}

    def stop(self):
        for worker in self.workers.values():
            worker.stop()


@contextlib.contextmanager
def crew(names, setting, log):
    """A crew for the length of a `with` block."""
    made = Crew(names, setting, log)
    try:
        yield made
    finally:
        made.stop()


def summary(times):
    """Median and the values below which 10 and 90 % lie, none of them outside of what was seen."""
    low, high = times[0], times[0]
    if len(times) > 1:
        low, *_, high = statistics.quantiles(times, n=10, method="inclusive")
    return {"ms": statistics.median(times), "low": low, "high": high, "count": len(times)}
