# Written by `make prepare` from the face of retina_nb.report: edit its notebook.
from .tables import abstain_table as abstain_table
from .tables import calibration_table as calibration_table
from .tables import class_score_table as class_score_table
from .tables import confused_table as confused_table
from .tables import data_table as data_table
from .tables import decision_table as decision_table
from .tables import error_table as error_table
from .tables import example_run as example_run
from .tables import group_tags as group_tags
from .tables import page_list as page_list
from .tables import page_table as page_table
from .tables import pick_cases as pick_cases
from .tables import plot_cases as plot_cases
from .tables import plot_groups as plot_groups
from .tables import score_table as score_table
from .tables import score_text as score_text
from .review import difference_table as difference_table
from .review import notes_table as notes_table
from .review import of_hundred as of_hundred
from .review import patient_table as patient_table
from .review import plain_words as plain_words
from .review import source_table as source_table
from .review import trained_on as trained_on
from .review import workload_table as workload_table
from .card import model_card as model_card
from .impact import impact_table as impact_table
from .impact import impact_words as impact_words
from .impact import plot_run_impact as plot_run_impact
from .run_report import report as report
from .run_report import report_notebook as report_notebook
from .run_report import retina_report as retina_report
from .demo import RECIPE as RECIPE
from .demo import demo_records as demo_records
from .demo import retina_demo as retina_demo
from .demo import run_demo as run_demo

__all__ = ['abstain_table', 'calibration_table', 'class_score_table', 'confused_table', 'data_table', 'decision_table', 'error_table', 'example_run', 'group_tags', 'page_list', 'page_table', 'pick_cases', 'plot_cases', 'plot_groups', 'score_table', 'score_text', 'difference_table', 'notes_table', 'of_hundred', 'patient_table', 'plain_words', 'source_table', 'trained_on', 'workload_table', 'model_card', 'impact_table', 'impact_words', 'plot_run_impact', 'report', 'report_notebook', 'retina_report', 'RECIPE', 'demo_records', 'retina_demo', 'run_demo']
