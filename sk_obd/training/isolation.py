"""What a fit borrows from the process and gives back: generators, threads, the interrupt key.

torch's generator, its number of threads and the SIGINT handler belong to the whole process.
A fit uses its own and restores the user's afterwards, also after an error.
"""

import importlib
import random
import signal
import sys
import threading
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from skorch.callbacks import Callback
from torch.overrides import TorchFunctionMode

_generators = threading.RLock()
_threads = threading.Lock()
_thread_users = 0
_thread_setting = None


class Purpose(IntEnum):
    """What random numbers are drawn for, and the positions that tell one draw from another."""

    #: The starting weights: no position.
    INITIALISATION = 0
    #: Batches, dropout and whatever else training draws: (row of the path,).
    TRAINING = 1
    #: Random saliencies and sampled curvature: (row of the path, part of its deletion).
    ASSESSMENT = 2


def seed_words(seed, purpose, *position):
    """Three random 32-bit words for a purpose at a position, from the seed of a fit.

    All random numbers of a fit derive from these words. They depend on (seed, purpose, position)
    and on nothing that was drawn before, so that a fit to a prune rate of 0.5 and one to 0.9 meet
    the same numbers at the same row of their paths.
    """
    # A spawn key and not a longer entropy, whose trailing zeros numpy ignores.
    return np.random.SeedSequence(seed, spawn_key=(purpose, *position)).generate_state(3)


def seed_generators(seed, purpose, *position):
    """Seed every process-wide generator for a purpose at a position."""
    words = seed_words(seed, purpose, *position)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - user callbacks and splits draw from it
    random.seed(int(words[2]))


#: What fills a tensor with random numbers and takes a generator, by where it is found.
RANDOM_BY_PLACE = {
    torch: "rand randn randint randperm normal bernoulli multinomial",
    torch.Tensor: "uniform_ normal_ random_ exponential_ cauchy_ geometric_ log_normal_ bernoulli_ "
    "bernoulli multinomial",
    torch.nn.init: "uniform_ normal_ trunc_normal_ orthogonal_ sparse_ xavier_uniform_ "
    "xavier_normal_ kaiming_uniform_ kaiming_normal_",
}
RANDOM = frozenset(
    getattr(at, name) for at, names in RANDOM_BY_PLACE.items() for name in names.split()
)


class OwnGenerator(TorchFunctionMode):
    """Draw from a generator of one's own in the place of torch's, in this thread only.

    torch's generator belongs to the whole process: what another thread draws from it in between
    would change a fit. Functions that take no generator, as dropout, draw from torch's still.
    """

    def __init__(self, generator):
        self.generator = generator

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in RANDOM and kwargs.get("generator") is None and is_on_cpu(args, kwargs):
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


def is_on_cpu(args, kwargs):
    """Whether a random function with these arguments fills numbers on the CPU."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
    device = kwargs.get("device") or (tensors[0].device if tensors else "cpu")
    return torch.device(device).type == "cpu"


def generator_for(seed, purpose, *position):
    """A generator on the CPU that draws what torch's would after :func:`seed_generators`."""
    words = seed_words(seed, purpose, *position)
    return torch.Generator().manual_seed(int(words[0]))


def import_what_torch_needs():
    """Import what torch imports only when the first optimiser is made.

    It takes about a second. A Ctrl-C in it would leave modules half imported, and no later fit of
    the process could import them, so it goes on in a thread, which the key does not interrupt.
    """
    if "torch._dynamo" not in sys.modules:
        thread = threading.Thread(target=importlib.import_module, args=("torch._dynamo",))
        thread.start()
        thread.join()


@contextmanager
def isolated_generators():
    """Restore the torch, numpy and Python generators on leaving.

    The generators are process-wide. Fits that share a process by threads take turns: interleaved,
    neither would be reproducible.
    """
    on_gpu = torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if on_gpu else ()
    with _generators, torch.random.fork_rng(devices):
        states = np.random.get_state(), random.getstate()  # noqa: NPY002 - the user's, to be kept
        try:
            yield
        finally:
            np.random.set_state(states[0])  # noqa: NPY002
            random.setstate(states[1])


@contextmanager
def one_thread(wanted=True):
    """Run torch on one thread; the last user to leave restores the setting the first one found.

    torch's idle threads spin at every small operation. On a machine whose other cores are busy
    that makes the training of a small network over a hundred times slower.
    """
    global _thread_users, _thread_setting
    if not wanted:
        yield
        return
    with _threads:
        if _thread_users == 0:
            _thread_setting = torch.get_num_threads()
            if _thread_setting != 1:
                torch.set_num_threads(1)
        _thread_users += 1
    try:
        yield
    finally:
        with _threads:
            _thread_users -= 1
            if _thread_users == 0 and _thread_setting != 1:
                torch.set_num_threads(_thread_setting)


class InterruptWatch:
    """Tell Ctrl-C from a skorch callback that ends training by raising KeyboardInterrupt.

    As a context manager it notes the arrival of SIGINT and passes it on to the handler that was
    there. Outside the main thread no signal can arrive, and nothing is installed.
    """

    def __enter__(self):
        self.pressed = False
        self._previous = None
        previous = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(previous):

            def note(signum, frame):
                self.pressed = True
                previous(signum, frame)

            signal.signal(signal.SIGINT, note)
            self._previous = previous
        return self

    def __exit__(self, *exc_info):
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def was_callback(self, interrupt):
        """Whether `interrupt` was raised by a callback, and not by the user."""
        if self.pressed:
            return False
        trace = interrupt.__traceback__
        while trace is not None:
            if isinstance(trace.tb_frame.f_locals.get("self"), Callback):
                return True
            trace = trace.tb_next
        return False
