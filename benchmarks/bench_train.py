"Training on the synthetic sample, against the usual fastai DataBlock with aug_transforms: the same network, size and batch, one thread"
import warnings

import torch
from fastai.callback.progress import Learner
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.optimizer import Adam
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock

from retina_nb.core import set_seed
from retina_nb.data.records import load_records
from retina_nb.train.losses import make_loss
from retina_nb.train.network import Net
from retina_nb.data.split import split_records
from retina_nb.synth.dataset import sample_dir
from retina_nb.train.learner import make_learner
from timing import compare

SIZE, BS = 112, 32

def usual(records):
    "The loaders that fastai's documentation shows, and the same network"
    set_seed(0)
    df = records.assign(is_valid=records['split'] == 'valid', label=records['label'].astype(int))
    block = DataBlock((ImageBlock, CategoryBlock(vocab=list(range(5)))), get_x=ColReader('image'), get_y=ColReader('label'),
                      splitter=ColSplitter(), item_tfms=Resize(SIZE), batch_tfms=aug_transforms())
    return Learner(block.dataloaders(df, bs=BS, num_workers=0), Net('test_resnet', 5), loss_func=make_loss('ce', 5), opt_func=Adam)

def ours(records):
    return make_learner(records, arch='test_resnet', size=SIZE, bs=BS, loss='ce', pretrained=False, progress=False, device=torch.device('cpu'))

def fit(learn, epochs):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, 1e-3)

def bench(quick):
    warnings.simplefilter('ignore')
    r = split_records(load_records(sample_dir()), seed=42)
    r = r[r['split'] != 'test'].groupby('split').head(96 if quick else 320)
    n, repeats = len(r), 3 if quick else 5
    a, b = ours(r), usual(r)
    yield compare('an epoch, training and validation', lambda: fit(a, 1), lambda: fit(b, 1), items=n, unit='images/s', goal=2, repeats=repeats)
    yield compare('four epochs from the files on', lambda: fit(ours(r), 4), lambda: fit(usual(r), 4), items=4*n, unit='images/s', goal=2, repeats=3)
    half = make_learner(r, arch='test_resnet', size=SIZE, bs=BS, loss='ce', pretrained=False, progress=False, precision='bf16', device=torch.device('cpu'))
    yield compare('an epoch in bf16, against fp32', lambda: fit(half, 1), lambda: fit(a, 1), items=n, unit='images/s', repeats=repeats)
