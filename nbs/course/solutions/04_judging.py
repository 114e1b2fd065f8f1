# ruff: noqa: F821 (names of the lesson, in whose kernel each cell runs)
# Solutions of lesson 4, "Judging". Try first: a hint folds out under every question.

# %% 4.1
# The cells at most one step from the diagonal, over all cells.
i, j = np.indices(cm.shape)
adjacent = cm[abs(i - j) <= 1].sum()/cm.sum()
check('4.1', adjacent, cm=cm)

# %% 4.2
# Both have the same accuracy; only the distance of the mistakes differs.
higher = qwk.counts(close) - qwk.counts(far)
check('4.2', higher, close=close, far=far)

# %% 4.3
# Width of a 95% interval: from 2.5% to 97.5% of the redrawn scores.
width = lambda drawn: np.subtract(*np.percentile(drawn, [97.5, 2.5]))
wider = width(by_patient)/width(by_image)
check('4.3', wider, by_patient=by_patient, by_image=by_image)

# %% 4.4
# What is found of each grade belongs to the network, how common the grade is to the place.
found = np.diag(cm)/cm.sum(1)
common = screening_labels().label.value_counts(normalize=True).sort_index()
in_screening = (found*common.to_numpy()).sum()
check('4.4', in_screening, cm=cm)

# %% 4.5
# Validation chooses; test only judges.
careful = at(choose_threshold(valid, sensitivity=.99)['threshold'])[1]
check('4.5', careful, valid=valid, test=test)
