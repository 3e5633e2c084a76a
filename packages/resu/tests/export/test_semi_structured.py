"""2:4: what is checked before the hardware is asked, and on a GPU that it multiplies as the dense layer."""

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensor

from resu.errors import KernelError, MaskError
from resu.export.semi_structured import semi_structured_model, to_semi_structured
from resu.pruning.nm import nm_mask


def two_four(rows: int, cols: int) -> torch.Tensor:
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))
    return nm_mask(weight).apply(weight)


def test_the_pattern_is_checked_before_the_device() -> None:
    weight = two_four(256, 256)
    weight[3, 8:12] = 1.0
    with pytest.raises(MaskError, match=r"in layer\.weight 1 of 16384 groups have more. Prune with resu\.pruning\.nm"):
        to_semi_structured(weight, name="layer.weight")
    with pytest.raises(MaskError, match=r"6 here, which 4 does not divide"):
        to_semi_structured(torch.zeros(2, 6))
    with pytest.raises(MaskError, match=r"matrices; weight has shape \(2, 3, 4\)"):
        to_semi_structured(torch.zeros(2, 3, 4))
    with pytest.raises(MaskError, match=r"multiples of 32 and columns of 64; weight has shape \(16, 64\)"):
        to_semi_structured(two_four(16, 64))


def test_a_cpu_is_told_the_way_out() -> None:
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(
            KernelError, match=r"run on CUDA devices; weight is on cpu. Move .*: resu\.export\.csr\.csr_model"
        ):
            to_semi_structured(two_four(64, 64).to(dtype))


def test_a_model_without_the_pattern_is_refused_and_one_with_it_reaches_the_device_check() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(6, 6))
    with pytest.raises(MaskError, match=r"this model has none"):
        semi_structured_model(model)
    model[0].weight.data.copy_(two_four(64, 64))
    with pytest.raises(KernelError, match=r"0\.weight is on cpu"):
        semi_structured_model(model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="2:4 kernels need a CUDA device")
def test_it_multiplies_as_the_dense_layer() -> None:
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64)).cuda().half()
    model[0].weight.data.copy_(two_four(256, 128))
    x = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        expected = model(x)
        exported = semi_structured_model(model)
        assert isinstance(exported[0].weight, SparseSemiStructuredTensor)
        assert type(exported[2].weight) is nn.Parameter
        torch.testing.assert_close(exported(x), expected, rtol=1e-2, atol=1e-2)
    with pytest.raises(KernelError, match=r"float16 and bfloat16; weight is torch\.float32"):
        to_semi_structured(two_four(64, 64).cuda())
