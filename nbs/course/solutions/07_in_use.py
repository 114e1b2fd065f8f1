# %% [markdown]
# Solutions of lesson 7, In use: each replaces the cell of its exercise.

# %% 7.1
# Each row is a prediction and the facts of its request; the tags are among them.
referred = sum(p.grading.referable for p, facts in answers
               if facts['tags']['hospital'] == hospital)
check('7.1', referred, answers=answers, hospital=hospital)

# %% 7.2
# A case that is drawn with a chance of p stands for 1/p cases. Unsure ones are all read, so they stand for themselves.
weight = 1/read.probability
accuracy = (weight*(read.model == read.reader)).sum()/weight.sum()
check('7.2', accuracy, read=read)

# %% 7.3
# So many tests a month, of which one in twenty raises an alarm although nothing is wrong.
false_alarms = machines*figures*30*.05
check('7.3', false_alarms, machines=machines, figures=figures, days=30)

# %% 7.4
# Wrong is a referral that was not needed, or one that was missed; on balance, what the live model gets wrong is taken off.
known = pairs[pairs.label.notna()]
ill = known.label.astype(int) >= 2
wrong_new = (known.candidate_referable.astype(bool) != ill).mean()
wrong_old = (known.live_referable.astype(bool) != ill).mean()
lost = wrong_new - wrong_old
check('7.4', lost, pairs=pairs)
