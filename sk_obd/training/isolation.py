"""What a fit borrows from the process and gives back: generators, threads, the interrupt key.

torch's generator, its number of threads and the SIGINT handler belong to the whole process.
A fit uses its own and restores the user's afterwards, also after an error.
"""

import random
import signal
import threading
from contextlib import contextmanager

import numpy as np
import torch
from skorch.callbacks import Callback

_generators = threading.RLock()
_threads = threading.Lock()
_thread_users = 0
_thread_setting = None


@contextmanager
def isolated_generators():
    """Restore the torch, numpy and Python generators on leaving.

    The generators are process-wide, so fits that share a process by threads take turns:
    interleaved, neither would be reproducible.
    """
    with _generators:
        on_gpu = torch.cuda.is_initialized()
        states = (
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if on_gpu else None,
            np.random.get_state(),  # noqa: NPY002 - the user's legacy generator is what we keep
            random.getstate(),
        )
        try:
            yield
        finally:
            torch.set_rng_state(states[0])
            if on_gpu:
                torch.cuda.set_rng_state_all(states[1])
            np.random.set_state(states[2])  # noqa: NPY002
            random.setstate(states[3])


def seed_generators(seed, *position):
    """Seed every process-wide generator from (seed, iteration), or a finer position.

    The state at iteration i so depends on nothing that was drawn before it: a run to a prune
    rate of 0.5 and one to 0.9 meet the same random numbers at the same iteration.
    """
    words = np.random.SeedSequence((seed, *position)).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - user callbacks and splits draw from it
    random.seed(int(words[2]))


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
