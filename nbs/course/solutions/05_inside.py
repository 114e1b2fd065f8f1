# ruff: noqa: F821 (names of the lesson, in whose kernel each cell runs)
# Solutions of lesson 5, "Looking inside". Try first: a hint folds out under every question.

# %% 5.1
# What lies on lesions, over all of it. Values are added, not pixels counted.
energy = heat[wide].sum()/heat.sum()
check('5.1', energy, heat=heat, wide=wide)

# %% 5.2
# A mean area for each eye, the median of them, and an area over an area.
number = [cv2.connectedComponents(m.astype('uint8'))[0] - 1 for m in lesions]
area = np.median(lesions.sum((1, 2))/number)
times = (size/cells)**2/area
check('5.2', times, lesions=lesions, side=size/cells)

# %% 5.3
# The photograph minus its blur asks no network, so it is the same map whatever the weights: 1.
of_cam = rank_agreement(maps['Grad-CAM'], random['Grad-CAM'], field)
agreements = [np.nanmean(of_cam), 1]
check('5.3', agreements, maps=maps['Grad-CAM'], random=random['Grad-CAM'],
      field=field)

# %% 5.4
# The same eyes twice; only the square differs.
because = (referred(cheat, stuck) & ~referred(cheat, clean)).mean()
check('5.4', because, model=cheat, clean=clean, stuck=stuck)
