# Written by `make prepare` from the face of retina_nb.synth: edit its notebook.
from .geometry import CAMERAS as CAMERAS
from .geometry import Camera as Camera
from .geometry import HOSPITALS as HOSPITALS
from .geometry import KINDS as KINDS
from .geometry import Look as Look
from .geometry import Mark as Mark
from .geometry import QUADRANTS as QUADRANTS
from .geometry import draw_look as draw_look
from .geometry import grade_from_lesions as grade_from_lesions
from .geometry import place_lesions as place_lesions
from .geometry import plan_lesions as plan_lesions
from .geometry import quadrant as quadrant
from .geometry import vessel_tree as vessel_tree
from .render import PREVALENCE as PREVALENCE
from .render import SYNTH_VERSION as SYNTH_VERSION
from .render import SynthEye as SynthEye
from .render import draw_grades as draw_grades
from .render import global_statistics as global_statistics
from .render import linear_probe as linear_probe
from .render import patient_seed as patient_seed
from .render import plan_synth as plan_synth
from .render import plot_truth as plot_truth
from .render import retina_sample as retina_sample
from .render import sample_dir as sample_dir
from .render import synth_dataset as synth_dataset
from .render import synth_eye as synth_eye
from .render import synth_patient as synth_patient
from .render import synth_truth as synth_truth
from .render import write_sample as write_sample
from .render import write_synth as write_synth

__all__ = ['CAMERAS', 'Camera', 'HOSPITALS', 'KINDS', 'Look', 'Mark', 'QUADRANTS', 'draw_look', 'grade_from_lesions', 'place_lesions', 'plan_lesions', 'quadrant', 'vessel_tree', 'PREVALENCE', 'SYNTH_VERSION', 'SynthEye', 'draw_grades', 'global_statistics', 'linear_probe', 'patient_seed', 'plan_synth', 'plot_truth', 'retina_sample', 'sample_dir', 'synth_dataset', 'synth_eye', 'synth_patient', 'synth_truth', 'write_sample', 'write_synth']
