from skin.model.calibration import Calibration, probabilities_of
from skin.training.ending import of_both_rules

import numpy as np


def test_the_end_of_a_run_gives_the_labels_of_both_rules() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.4, 0.6]])
    calibrated: Calibration = {"temperature": 1.0, "biases": [1.0, 0.0], "mean_probabilities": [0.69, 0.31]}
    said = of_both_rules(calibrated, probabilities_of(calibrated, np.log(probabilities) - [1.0, 0.0]), labels)
    # The fifth image is most probably of the first class; beside the means, 0.87 and 1.29, it is of the second.
    assert 'by the rule "most probable" balanced accuracy 0.750, accuracy 0.833' in said
    assert 'by the rule "balanced" balanced accuracy 1.000, accuracy 1.000' in said
