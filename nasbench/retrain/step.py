"""One training step of a final network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasbench.capture import Capture
from nasbench.precision import Precision
from nasbench.settings import EvaluationSettings
from nasbench.sgd import SGD


class RetrainStep:
    """SGD on the main loss plus the weighted loss of the auxiliary head, gradients clipped."""

    def __init__(self, network: nn.Module, settings: EvaluationSettings, precision: Precision,
                 cuda_graphs: bool = True):
        self.network, self.settings, self.precision = network, settings, precision
        self.parameters = list(network.parameters())
        self.optimizer = SGD(self.parameters, rate=settings.learning_rate,
                             momentum=settings.momentum, weight_decay=settings.weight_decay,
                             nesterov=settings.nesterov)
        self.capture = Capture(self.parameters[0].device, cuda_graphs)

    def __call__(self, x: Tensor, y: Tensor, target: Tensor) -> dict[str, Tensor]:
        """x [N,C,H,W]; y [N]; target: y, or the mixed labels [N, classes]. -> device scalars
        `train_loss` (of the main classifier) and `train_accuracy` (percent), before the update."""
        loss, accuracy = self.capture("step", self._step, [x, y, target])
        return {"train_loss": loss, "train_accuracy": accuracy}

    def _step(self, x: Tensor, y: Tensor, target: Tensor) -> list[Tensor]:
        settings = self.settings
        if not self.network.training:
            self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.context():
            logits, auxiliary = self.network(x)
        logits = logits.float()
        loss = cross_entropy(logits, target, label_smoothing=settings.label_smoothing)
        total = loss
        if auxiliary is not None:
            total = loss + settings.auxiliary_weight * cross_entropy(
                auxiliary.float(), target, label_smoothing=settings.label_smoothing)
        total.backward()
        if settings.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, settings.grad_clip)
        self.optimizer.step()
        correct = (logits.detach().argmax(dim=1) == y).float().mean()
        return [loss.detach(), 100 * correct]
