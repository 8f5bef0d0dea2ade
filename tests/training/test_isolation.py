import random
import signal
import threading

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sk_obd.training.isolation import (
    InterruptWatch,
    OwnGenerator,
    Purpose,
    generator_for,
    isolated_generators,
    one_thread,
    seed_generators,
    seed_words,
)


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002


def test_draws_inside_depend_on_seed_and_position_and_leave_no_trace():
    before = torch.get_rng_state()
    with isolated_generators():
        seed_generators(1, Purpose.TRAINING, 2)
        first = draws()
        seed_generators(1, Purpose.TRAINING, 3)
        other = draws()
        seed_generators(1, Purpose.TRAINING, 2)
        assert draws() == first != other
    assert torch.equal(torch.get_rng_state(), before)


FILLED = {
    "a layer": lambda: torch.nn.Linear(3, 2).weight,
    "a recurrent layer": lambda: torch.nn.LSTM(2, 2).weight_hh_l0,
    "an embedding": lambda: torch.nn.Embedding(5, 2).weight,
    "attention": lambda: torch.nn.MultiheadAttention(4, 2).in_proj_weight,
    "orthogonal": lambda: torch.nn.init.orthogonal_(torch.empty(4, 3)),
    "truncated": lambda: torch.nn.init.trunc_normal_(torch.empty(4, 3)),
    "torch.randn": lambda: torch.randn(4),
    "in place": lambda: torch.empty(4).bernoulli_(0.3),
}


@pytest.mark.parametrize("name", FILLED)
def test_weights_drawn_from_a_generator_of_their_own_leave_torchs_alone(name):
    torch.manual_seed(1)
    with isolated_generators():
        seed_generators(3, Purpose.INITIALISATION)
        expected = FILLED[name]().detach().clone()
    before = torch.get_rng_state()
    with OwnGenerator(generator_for(3, Purpose.INITIALISATION)):
        found = FILLED[name]()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, expected)


def test_a_generator_that_is_given_is_the_one_that_draws():
    given = torch.Generator().manual_seed(5)
    with OwnGenerator(torch.Generator()):
        found = torch.rand(3, generator=given)
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_no_two_purposes_or_positions_have_the_same_random_numbers():
    positions = [(Purpose.INITIALISATION,)]
    positions += [(Purpose.TRAINING, row) for row in range(20)]
    positions += [(Purpose.ASSESSMENT, row, part) for row in range(20) for part in range(4)]
    words = [tuple(seed_words(seed, *at)) for seed in (0, 1, 2**31 - 1) for at in positions]
    assert len(set(words)) == len(words) == 3 * 101
    assert len({word for triple in words for word in triple}) == 3 * len(words)


def test_trailing_zeros_of_a_position_count():
    assert (seed_words(3, 0) != seed_words(3, 0, 0)).all()
    assert (seed_words(3, 1) != seed_words(3, 1, 0)).all()


def test_generators_come_back_after_an_error():
    state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(RuntimeError), isolated_generators():  # noqa: PT012
        draws()
        raise RuntimeError
    assert random.getstate() == state[0]
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002


def test_the_last_to_leave_restores_the_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        outer, inner = one_thread(), one_thread()
        outer.__enter__()
        inner.__enter__()
        assert torch.get_num_threads() == 1
        outer.__exit__(None, None, None)
        assert torch.get_num_threads() == 1
        inner.__exit__(None, None, None)
        assert torch.get_num_threads() == 2
        with one_thread(False):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class Stops(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_a_callbacks_interrupt_is_told_from_others():
    with InterruptWatch() as watch:
        with pytest.raises(KeyboardInterrupt) as raised:
            Stops().on_epoch_end(None)
        assert watch.was_callback(raised.value)
        with pytest.raises(KeyboardInterrupt) as raised:
            raise KeyboardInterrupt
        assert not watch.was_callback(raised.value)


def test_ctrl_c_inside_a_callback_is_the_users(ctrl_c):
    class Slow(Callback):
        def on_epoch_end(self, net, **kwargs):
            signal.raise_signal(signal.SIGINT)

    with InterruptWatch() as watch:
        with pytest.raises(KeyboardInterrupt) as raised:
            Slow().on_epoch_end(None)
        assert not watch.was_callback(raised.value)
    assert signal.getsignal(signal.SIGINT) is ctrl_c


def test_outside_the_main_thread_nothing_is_installed(ctrl_c):
    seen = []

    def work():
        with InterruptWatch():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [ctrl_c]
