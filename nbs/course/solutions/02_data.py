# ruff: noqa: F821 (names of the lesson, in whose kernel each cell runs)
# Solutions of lesson 2, "A data set and its traps". Try first: a hint folds out under every question.

# %% 2.1
# The worse eye decides, so the unit is the patient: the maximum first, then the fraction.
fraction = (records.groupby('patient').label.max() >= 2).mean()
check('2.1', fraction, records=records)

# %% 2.2
# On how many sides is each patient? Those on two are seen in training and asked in the test.
side = np.where(by_image(records, np.random.default_rng(1)), 'test', 'train')
dealt = records.assign(split=side)
shared = (dealt.groupby('patient').split.nunique() > 1).sum()
check('2.2', shared, dealt=dealt)

# %% 2.3
# Both sides of a conflict: nobody knows which of the two labels is the right one.
conflict = problems[problems.kind == 'conflict']
left_out = [Path(f).name for f in [*conflict.file, *conflict.other]]
check('2.3', left_out, copies=copies)

# %% 2.4
# The same rule, the same limit, other eyes.
loss = own - ((others.width > limit) == others.referable).mean()
check('2.4', loss, picked=picked, others=others, limit=limit)
