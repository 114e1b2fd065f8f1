# Written by `make prepare` from the face of retina_nb.synth: edit its notebook.
from .look import Anatomy as Anatomy
from .look import CAMERAS as CAMERAS
from .look import Camera as Camera
from .look import HOSPITALS as HOSPITALS
from .look import Look as Look
from .look import draw_look as draw_look
from .geometry import KINDS as KINDS
from .geometry import Mark as Mark
from .geometry import QUADRANTS as QUADRANTS
from .geometry import Scene as Scene
from .geometry import draw_scene as draw_scene
from .geometry import empty_scene as empty_scene
from .geometry import grade_from_lesions as grade_from_lesions
from .geometry import place_lesions as place_lesions
from .geometry import plan_lesions as plan_lesions
from .geometry import quadrant as quadrant
from .geometry import vessel_tree as vessel_tree
from .render import PREVALENCE as PREVALENCE
from .render import SynthEye as SynthEye
from .render import draw_grades as draw_grades
from .render import plot_truth as plot_truth
from .render import synth_eye as synth_eye
from .render import synth_patient as synth_patient
from .probe import global_statistics as global_statistics
from .probe import linear_probe as linear_probe
from .dataset import SYNTH_VERSION as SYNTH_VERSION
from .dataset import patient_seed as patient_seed
from .dataset import plan_synth as plan_synth
from .dataset import retina_sample as retina_sample
from .dataset import sample_dir as sample_dir
from .dataset import synth_dataset as synth_dataset
from .dataset import synth_truth as synth_truth
from .dataset import write_sample as write_sample
from .dataset import write_synth as write_synth

__all__ = ['Anatomy', 'CAMERAS', 'Camera', 'HOSPITALS', 'Look', 'draw_look', 'KINDS', 'Mark', 'QUADRANTS', 'Scene', 'draw_scene', 'empty_scene', 'grade_from_lesions', 'place_lesions', 'plan_lesions', 'quadrant', 'vessel_tree', 'PREVALENCE', 'SynthEye', 'draw_grades', 'plot_truth', 'synth_eye', 'synth_patient', 'global_statistics', 'linear_probe', 'SYNTH_VERSION', 'patient_seed', 'plan_synth', 'retina_sample', 'sample_dir', 'synth_dataset', 'synth_truth', 'write_sample', 'write_synth']
