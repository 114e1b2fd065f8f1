# ruff: noqa: F821 (names of the lesson, in whose kernel each cell runs)
# Solutions of lesson 1, "An eye and its grade". Try first: a hint folds out under every question.

# %% 1.1
# Each part has a number and asks in how many quadrants it is reached; this eye meets two of them.
counts = puzzle.counts
met = {'4 haemorrhages': (counts['haemorrhage'] > 20).all(),
       '2 venous beading': (counts['venous_beading'] > 0).sum() >= 2,
       '1 IRMA': counts['irma'].any()}
parts = [name for name, holds in met.items() if holds]
check('1.1', parts, eye=puzzle)

# %% 1.2
# One referable eye is enough, and each patient counts once.
people = eyes[eyes.label >= 2].patient.nunique()
check('1.2', people, records=eyes)

# %% 1.3
# Who says the same of every eye pays what chance pays. One step too many is cheap, and costs nothing for a 4.
always_zero = qwk(eyes.label, eyes.label*0)
one_higher = qwk(eyes.label, (eyes.label + 1).clip(upper=4))
check('1.3', always_zero, one_higher, records=eyes)

# %% 1.4
# Nobody can read for you; so that this file has an answer, a program reads. It sees the pictures and no labels, and
# adds to the lesson's program what that one lacks: bright spots, for exudates and cotton wool.
def bright_spots(photo):
    "How many small places are much brighter than around"
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))
    bright = cv2.morphologyEx(photo[..., 1], cv2.MORPH_TOPHAT, around) > 60
    return cv2.connectedComponents(bright.astype(np.uint8))[0] - 1

def my_grade(photo):
    "A grade from the dark spots, and at least 2 where there are many bright ones"
    return max(program_grade(photo), 2*(bright_spots(photo) > 20))

# You have read yourself: leave this line out, and `mine` is your own session.
mine = read_all(eyes, my_grade, 'runs/my_program.csv', 'my program')
d = mine.readings
my_kappa = qwk(d.target, d.grade)
my_missed = ((d.target >= 2) & (d.grade < 2)).sum()
check('1.4', my_kappa, my_missed, session=mine)
