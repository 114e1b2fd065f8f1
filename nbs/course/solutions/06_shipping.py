# %% [markdown]
# Solutions of lesson 6, Shipping: each replaces the cell of its exercise.

# %% 6.1
# The graph holds the weights, so the safetensors can be left out. Nothing in the graph says how a photograph is
# prepared, what the classes are called, or from which probability on somebody is referred: config.json does.
# Card, golden images and hashes change no answer.
needed = ['model.onnx', 'config.json']
check('6.1', needed)

# %% 6.2
# One more that is missed, of n, lowers the sensitivity by 1/n. This is within the limit where 1/n <= 0.005.
positives = 1/.005
check('6.2', positives)

# %% 6.3
# The largest probability can fall by 0.05 while the second rises by 0.05: the gap that is safe is 0.1, not 0.05.
ranked = np.sort(answers[columns].to_numpy(), axis=1)
close = int((ranked[:, -1] - ranked[:, -2] <= 2*.05).sum())
check('6.3', close, predictions=answers, tolerance=.05)

# %% 6.4
# cv2.imread gives blue first, and cv2.resize takes four neighbours where the contract averages. Field and contrast
# come from the contract.
def colleague(file):
    "A loader that was written by hand"
    a = cv2.imread(str(file))
    square = contract.frame(a).cut(a)
    small = cv2.resize(square, (contract.size, contract.size))
    return replace(contract, crop='none')(small)

differs = ['reading', 'resizing']
check('6.4', differs, loader=colleague, contract=contract)
