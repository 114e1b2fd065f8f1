# Written by `make prepare` from the face of retina_nb.explain: edit its notebook.
from .methods import METHODS as METHODS
from .methods import blurred as blurred
from .methods import grad_cam as grad_cam
from .methods import integrated_gradients as integrated_gradients
from .methods import occlusion as occlusion
from .methods import plot_explanation as plot_explanation
from .methods import plot_explanations as plot_explanations
from .scoring import coarse_chance as coarse_chance
from .scoring import coverage as coverage
from .scoring import detail_maps as detail_maps
from .scoring import mark_maps as mark_maps
from .scoring import other_eyes as other_eyes
from .scoring import plot_explanation_scores as plot_explanation_scores
from .scoring import random_maps as random_maps
from .scoring import rank_agreement as rank_agreement
from .scoring import score_explanations as score_explanations
from .scoring import truths as truths
from .scoring import untrained as untrained
from .scoring import untrained_maps as untrained_maps

__all__ = ['METHODS', 'blurred', 'grad_cam', 'integrated_gradients', 'occlusion', 'plot_explanation', 'plot_explanations', 'coarse_chance', 'coverage', 'detail_maps', 'mark_maps', 'other_eyes', 'plot_explanation_scores', 'random_maps', 'rank_agreement', 'score_explanations', 'truths', 'untrained', 'untrained_maps']
