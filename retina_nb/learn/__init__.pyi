# Written by `make prepare` from the face of retina_nb.learn: edit its notebook.
from .capstone import Capstone as Capstone
from .capstone import Rubric as Rubric
from .capstone import capstone_data as capstone_data
from .capstone import rubric as rubric
from .capstone import worth as worth
from .contents import lesson_lines as lesson_lines
from .contents import lesson_table as lesson_table
from .contents import reading_minutes as reading_minutes
from .exercises import Verdict as Verdict
from .exercises import check as check
from .exercises import mark as mark
from .exercises import progress as progress
from .exercises import retina_mark as retina_mark
from .material import CREDIT as CREDIT
from .material import course_bundle as course_bundle
from .material import course_run as course_run
from .material import photographs as photographs

__all__ = ['Capstone', 'Rubric', 'capstone_data', 'rubric', 'worth', 'lesson_lines', 'lesson_table', 'reading_minutes', 'Verdict', 'check', 'mark', 'progress', 'retina_mark', 'CREDIT', 'course_bundle', 'course_run', 'photographs']
