# Solutions of lesson 3, "Training". Try first: a hint folds out under every question.

# %% 3.1
# One batch, one step. The last batch of an epoch is not full, and counts as a step too.
steps = len(learn.dls.train)*same['epochs']
check('3.1', steps, learn=learn)

# %% 3.2
# Both losses of the last epoch, from the history that the run keeps.
last = plain.history.iloc[-1]
gap = last.valid_loss - last.train_loss
check('3.2', gap, run=plain)

# %% 3.3
# The width goes with 1/sqrt(n): half of it takes four times the patients. Images do not count, patients do.
patients = 4*plain.predictions.patient.nunique()
check('3.3', patients, predictions=plain.predictions)

# %% 3.4
# The first epoch, counted from 1, at which the better start is where the other one ends.
goal = augmented.history.qwk.iloc[-1]
first = (warm.history.qwk >= goal).to_numpy().argmax() + 1
needed = first/len(augmented.history)
check('3.4', needed, start=warm, other=augmented)
