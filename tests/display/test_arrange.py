import numpy as np
import pytest

from sk_obd.display.arrange import LIMIT, block_means, block_size, block_sums, side_by_side_fits


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (12, 9)])
@pytest.mark.parametrize("blocks", [(1, 1), (3, 2), (5, 9)])
def test_blocks_are_summed_and_averaged_one_by_one(rng, shape, blocks):
    matrix = rng.normal(size=shape)
    sums, means = block_sums(matrix, blocks), block_means(matrix, blocks)
    for i, j in np.ndindex(*sums.shape):
        rows = slice(i * blocks[0], (i + 1) * blocks[0])
        block = matrix[rows, j * blocks[1] : (j + 1) * blocks[1]]
        np.testing.assert_allclose([sums[i, j], means[i, j]], [block.sum(), block.mean()])


@pytest.mark.parametrize("n", [1, LIMIT, LIMIT + 1, 5 * LIMIT - 1])
def test_as_many_blocks_as_a_screen_can_show(n):
    (size,) = block_size((n,))
    assert -(-n // size) <= LIMIT
    assert size == 1 or -(-n // (size - 1)) > LIMIT


def test_kernels_are_shown_one_by_one_where_there_is_room():
    assert side_by_side_fits((LIMIT // 4, LIMIT // 4, 3, 3))
    assert not side_by_side_fits((LIMIT // 4 + 1, 2, 3, 3))
    assert not side_by_side_fits((2, LIMIT // 4 + 1, 3, 3))
    assert side_by_side_fits((50 * 50, 1, 3, 3))
    assert not side_by_side_fits((51 * 51, 1, 3, 3))
