# Written by `make prepare` from the face of retina_nb.explore: edit its notebook.
from .images import blank_tile as blank_tile
from .images import show_both_eyes as show_both_eyes
from .images import show_duplicates as show_duplicates
from .images import show_grid as show_grid
from .images import show_images as show_images
from .images import thumbnail as thumbnail
from .cameras import examine_images as examine_images
from .cameras import find_fields as find_fields
from .cameras import find_outliers as find_outliers
from .cameras import find_shortcuts as find_shortcuts
from .cameras import join_records as join_records
from .cameras import plot_colours as plot_colours
from .cameras import plot_fields as plot_fields
from .cameras import plot_quality as plot_quality
from .cameras import plot_shortcuts as plot_shortcuts
from .cameras import plot_sizes as plot_sizes
from .cameras import show_outliers as show_outliers
from .labels import joint_eyes as joint_eyes
from .labels import label_table as label_table
from .labels import patient_table as patient_table
from .labels import plot_joint as plot_joint
from .labels import plot_labels as plot_labels
from .labels import plot_patients as plot_patients
from .labels import plot_weights as plot_weights
from .prevalence import majority_scores as majority_scores
from .prevalence import plot_accuracy_trap as plot_accuracy_trap
from .prevalence import plot_prevalence as plot_prevalence
from .prevalence import screening_labels as screening_labels
from .browser import Browser as Browser
from .survey import label_distribution as label_distribution
from .survey import retina_explore as retina_explore
from .survey import survey_records as survey_records
from .survey import write_survey as write_survey

__all__ = ['blank_tile', 'show_both_eyes', 'show_duplicates', 'show_grid', 'show_images', 'thumbnail', 'examine_images', 'find_fields', 'find_outliers', 'find_shortcuts', 'join_records', 'plot_colours', 'plot_fields', 'plot_quality', 'plot_shortcuts', 'plot_sizes', 'show_outliers', 'joint_eyes', 'label_table', 'patient_table', 'plot_joint', 'plot_labels', 'plot_patients', 'plot_weights', 'majority_scores', 'plot_accuracy_trap', 'plot_prevalence', 'screening_labels', 'Browser', 'label_distribution', 'retina_explore', 'survey_records', 'write_survey']
