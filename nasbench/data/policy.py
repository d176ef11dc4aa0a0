"""AutoAugment (Cubuk et al., CVPR 2019) through torchvision, one draw per image.

*Departure from torchvision's default*: pixels that a shear, shift or rotation uncovers take the
mean colour, not black. The authors' released code sets them to 0 after normalisation, which is the
mean.
"""

from collections.abc import Callable, Sequence
from typing import Any

POLICIES = {
    "autoaugment_cifar10": "CIFAR10",
    "autoaugment_imagenet": "IMAGENET",
    "autoaugment_svhn": "SVHN",
}


def policy_transform(policy: str, mean: Sequence[float]) -> Callable[[Any], Any]:
    """A transform of ONE picture or uint8 [C, H, W]; it draws from torch's default generator.

    ``policy`` is a key of POLICIES, ``mean`` the data set's, of pixels in [0, 1].
    """
    from torchvision.transforms import v2  # a second of import time, so only where it is needed

    fill = [round(255 * m) for m in mean]
    return v2.AutoAugment(v2.AutoAugmentPolicy[POLICIES[policy]], fill=fill)
